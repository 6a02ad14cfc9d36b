"""`ragray prepare` as a Ray job.

ray job submit --working-dir . -- python jobs/prepare.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])

"""`ragray merge` as a Ray job.

ray job submit --working-dir . -- python jobs/merge.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["merge", *sys.argv[1:]])

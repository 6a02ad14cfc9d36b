"""`ragray evaluate` as a Ray job.

ray job submit --working-dir . -- python jobs/evaluate.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])

"""`ragray train` as a Ray job.

ray job submit --working-dir . -- python jobs/train.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

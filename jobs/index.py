"""`ragray index` as a Ray job.

ray job submit --working-dir . -- python jobs/index.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["index", *sys.argv[1:]])

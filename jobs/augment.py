"""`ragray augment` as a Ray job.

ray job submit --working-dir . -- python jobs/augment.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["augment", *sys.argv[1:]])

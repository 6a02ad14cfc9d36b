"""`ragray calibrate` as a Ray job.

ray job submit --working-dir . -- python jobs/calibrate.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["calibrate", *sys.argv[1:]])

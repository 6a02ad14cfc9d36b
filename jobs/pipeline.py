"""`ragray run` as a Ray job.

ray job submit --working-dir . -- python jobs/pipeline.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])

"""`ragray build-engine` as a Ray job.

ray job submit --working-dir . -- python jobs/build_engine.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["build-engine", *sys.argv[1:]])

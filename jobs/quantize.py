"""`ragray quantize` as a Ray job.

ray job submit --working-dir . -- python jobs/quantize.py --config configs/demo.yaml
"""

import sys

from ragray.cli import main

if __name__ == "__main__":
    main(["quantize", *sys.argv[1:]])

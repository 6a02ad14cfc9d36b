"""How much memory preparation takes, in one process, Parquet to Parquet.

Out: records, time, and the most memory of two kinds: anonymous, which the process needs, and mapped files, whose pages
the system can take back. Under a hard limit both together stay below it, or the run is killed:

  systemd-run --scope -p MemoryMax=4G -p MemorySwapMax=0 python benchmarks/memory.py --records short.parquet --limit 4G
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path

from harness import publish
from prepare import prepare_in_process, ragray_config

_INTERVAL_S = 0.2


class Peaks(threading.Thread):
    """Watches the memory of this process; `peaks` are MiB, by the names of /proc/self/status."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(("RssAnon", "RssFile", "VmRSS"), 0.0)

    def run(self) -> None:
        """Look again and again."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.peaks:
                    self.peaks[name] = max(self.peaks[name], int(value.split()[0]) / 1024)
            time.sleep(_INTERVAL_S)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=Path, required=True, help=".parquet with question and answer")
    parser.add_argument("--threshold", type=float, default=0.85, help="Jaccard similarity of near-duplicates")
    parser.add_argument("--limit", default="none", help="the hard limit that this runs under, for the record")
    parser.add_argument("--scratch", type=Path, help="where the output goes for a while")
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args()
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    folder = Path(tempfile.mkdtemp(prefix="ragray-benchmark-", dir=args.scratch))
    watch = Peaks()
    watch.start()
    try:
        begin = time.perf_counter()
        kept = prepare_in_process(ragray_config(args.records, folder, args.threshold), folder / "out")
        wall = time.perf_counter() - begin
        rows, stayed = (pq.read_metadata(path).num_rows for path in (args.records, kept))
    finally:
        shutil.rmtree(folder)
    cells = [f"{rows:,}", f"{stayed:,}", f"{wall:,.0f}"]
    cells += [f"{watch.peaks[name]:,.0f}" for name in ("RssAnon", "RssFile", "VmRSS")]
    columns = ("records", "kept", "wall s", "anonymous MiB", "mapped files MiB", "together MiB at once")
    setting = f"one process, one thread, hard memory limit {args.limit}, records {args.records.name}"
    publish("memory", setting, columns, ["| " + " | ".join(cells) + " |"], not args.no_record)


if __name__ == "__main__":
    main()

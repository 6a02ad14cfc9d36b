"""The whole preparation, Parquet to Parquet: ragray in this process and on Ray Data, against data-juicer.

data-juicer runs the recipe that comes nearest: fix_unicode, clean_html, whitespace_normalization, text_length,
document_deduplicator, document_minhash_deduplicator, then export. ragray does that and more: languages, a verdict and
a count for every row, verified duplicates, a split without leaks, its audit, and a report. Give data-juicer 20,000
records or more: each of its operators starts processes, about a second each.

  python benchmarks/prepare.py --records records.parquet --count 20000 --runs 3
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Case, Outcome, Work, main, record_options
from texts import joined, read_pairs, read_tables, write_rows, write_tables

if TYPE_CHECKING:
    from ragray.config import RunConfig

_WARM_UP_RECORDS, _WARM_UP_SAMPLE = 2000, 10  # so that all compiled code is loaded before the clock starts
_SHORTEST, _LONGEST = 4, 8500  # characters of question and answer together, as ragray's limits for each


def prepare_in_process(config: RunConfig, folder: Path) -> Path:
    """ragray without Ray: write all tables into `folder`; returns the table of records."""
    from ragray.dataprep.blocks import Blocks, write_block, write_plain
    from ragray.dataprep.decisions import near_links, shares_of
    from ragray.dataprep.read import faq_files
    from ragray.distributed.blocks import list_parts
    from ragray.distributed.prepare import finish

    parts = list_parts(faq_files(config.data.faq))
    aside, out = folder / "blocks", folder / "tables"
    for made in (aside, out):
        made.mkdir(parents=True)
    for part in parts:
        write_block(part, aside, config.data)
    blocks = Blocks(aside, [part.name for part in parts])
    lines = blocks.boilerplate(config.data)
    for n in range(len(parts) if len(lines) else 0):
        write_plain(blocks, n, lines, config.data)
    blocks = Blocks(aside, blocks.names)
    shares = shares_of(blocks, config.data)
    finish(config, blocks, [near_links(blocks, config.data, (n, shares)) for n in range(shares)], out)
    return out / "records.parquet"


def prepare_on_ray(config: RunConfig) -> Path:
    """ragray's stage prepare; returns the table of records."""
    from ragray.distributed.prepare import STAGE
    from ragray.distributed.stage import bring_up_to_date

    return bring_up_to_date(config, [STAGE])[STAGE.name].artifact.file("records.parquet")


def ragray_config(records: Path, output: Path, threshold: float) -> RunConfig:
    """A run on one Parquet file, all else by default; however many rows are rejected."""
    from ragray.config import RunConfig

    return RunConfig.model_validate(
        {
            "name": "benchmark",
            "output": str(output),
            "data": {
                "faq": [{"path": str(records)}],
                "dedup": {"threshold": threshold},
                "max_rejected_share": 1.0,
            },
            "train": {"base_model": "none"},
        }
    )


def _warm_up(folder: Path, args: argparse.Namespace) -> RunConfig:
    """A run on the first records that takes every path of the whole one."""
    config = ragray_config(folder / "few.parquet", folder / "few", args.threshold)
    split = config.data.split.model_copy(update={"audit_sample": _WARM_UP_SAMPLE})
    return config.model_copy(update={"data": config.data.model_copy(update={"split": split})})


def _scratch() -> Path:
    """A folder that is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ragray-benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _inputs(args: argparse.Namespace, count: int | None, path: Path) -> int:
    """Write the first records as the Parquet file that ragray reads; how many they are."""
    if args.records.suffix == ".parquet":
        return write_tables(read_tables(args.records, count), path)
    pairs = read_pairs(args.records, count)
    write_rows([{"question": question, "answer": answer} for question, answer in pairs], path)
    return len(pairs)


def _start_in_process(args: argparse.Namespace) -> Work:
    import pyarrow as pa

    pa.set_cpu_count(args.threads)
    folder = _scratch()
    _inputs(args, _WARM_UP_RECORDS, folder / "few.parquet")
    prepare_in_process(_warm_up(folder, args), folder / "few")
    rows = _inputs(args, args.count, folder / "records.parquet")
    config = ragray_config(folder / "records.parquet", folder, args.threshold)
    return lambda: partial(_outcome, rows, prepare_in_process(config, folder / "out"))


def _start_on_ray(args: argparse.Namespace) -> Work:
    from ragray.distributed.session import connect

    connect()
    folder = _scratch()
    _inputs(args, _WARM_UP_RECORDS, folder / "few.parquet")
    prepare_on_ray(_warm_up(folder, args))
    rows = _inputs(args, args.count, folder / "records.parquet")
    config = ragray_config(folder / "records.parquet", folder / "out", args.threshold)
    return lambda: partial(_outcome, rows, prepare_on_ray(config))


def _start_data_juicer(args: argparse.Namespace) -> Work:
    folder = _scratch()
    os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(folder / "cache"))
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops import load_ops
    from loguru import logger

    logger.remove()
    texts = joined(read_pairs(args.records, args.count))
    write_rows([{"text": text} for text in texts], folder / "records.parquet")
    operators = load_ops([{name: {**given, "num_proc": args.threads}} for name, given in _recipe(args.threshold)])

    def work() -> partial[Outcome]:
        from datasets import Dataset

        data = NestedDataset(Dataset.from_parquet(str(folder / "records.parquet"), cache_dir=str(folder / "cache")))
        for operator in operators:
            data = operator.run(data)
        data.to_parquet(str(folder / "kept.parquet"))
        return partial(_outcome, len(texts), folder / "kept.parquet")

    return work


def _recipe(threshold: float) -> list[tuple[str, dict[str, object]]]:
    minhash = {
        "tokenization": "character", "window_size": 5, "num_permutations": 128, "num_bands": 16,
        "num_rows_per_band": 8, "jaccard_threshold": threshold,
    }  # fmt: skip
    return [
        ("fix_unicode_mapper", {"normalization": "NFKC"}),
        ("clean_html_mapper", {}),
        ("whitespace_normalization_mapper", {}),
        ("text_length_filter", {"min_len": _SHORTEST, "max_len": _LONGEST}),
        ("document_deduplicator", {}),
        ("document_minhash_deduplicator", minhash),
    ]


def _outcome(rows: int, kept: Path) -> Outcome:
    import pyarrow.parquet as pq

    return {"rows": rows, "kept": pq.read_metadata(kept).num_rows}


_OURS = ("numba", "numpy", "pyarrow", "ray", "selectolax")
CASES = (
    Case("ragray", _start_in_process, _OURS, "In process, one thread"),
    Case("ragray_ray_data", _start_on_ray, _OURS,
         "All CPUs; Ray started and its workers warmed up before the clock; CPU is the driver's alone: compare wall",
         many_processes=True),
    Case("data_juicer", _start_data_juicer, ("py-data-juicer", "datasets", "ftfy", "selectolax"),
         "Duplicates not verified, no split", many_processes=True),
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    return record_options(__doc__, threshold=0.85)


if __name__ == "__main__":
    main("prepare", CASES, parser())

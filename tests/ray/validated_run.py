"""A training with asynchronous validation, which a test may kill: `python validated_run.py INPUTS FOLDER`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ragray.artifact import Artifact, Draft
from ragray.config_loading import validate_config
from ragray.distributed import train
from ragray.distributed.stage import Job

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "unit" / "train" / "conftest.py")))


def make_inputs(folder: Path) -> Path:
    """A tiny model, and what prepare and augment leave."""
    tiny.make_tiny_model(folder / "tiny")
    (folder / "augment").mkdir()
    tiny.write_examples(folder / "augment" / "examples.parquet", tiny.example_rows(32, 4))
    return folder


def make_job(inputs: Path, folder: Path, lines: list[str] | None = None, **changes: Any) -> Job:
    """A training whose every second step is validated; `lines` gets what a person is told."""
    settings = {
        "base_model": str(inputs / "tiny"),
        "epochs": 4,
        "global_batch_examples": 16,
        "learning_rate": 3e-3,
        "max_length": 512,
        "tokens_per_micro_batch": 1024,
        "checkpoint_every_steps": 4,
        "keep_checkpoints": 1,
        "validation": {"asynchronous": True, "every_steps": 2, "generate": 3, "max_new_tokens": 12},
        **changes,
    }
    tree = {"name": "t", "output": str(folder), "data": {"faq": [{"path": "x"}]}, "train": settings}
    audit = {"leakage": {"tests": 10, "leaked": 0, "leaked_share": 0.0}}
    needs: Any = {
        "prepare": Artifact("prepare", inputs / "prepare", SimpleNamespace(metrics=audit)),  # type: ignore[arg-type]
        "augment": Artifact("augment", inputs / "augment", None),  # type: ignore[arg-type]
    }
    for name in ("draft", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    told = (lines if lines is not None else []).append
    return Job(validate_config(tree, "test"), needs, Draft(folder / "draft"), folder / "work", told, warn=told)


if __name__ == "__main__":
    train.build(make_job(Path(sys.argv[1]), Path(sys.argv[2])))

"""The merge stage: one remote task that merges the adapter into its base model.

In: the train artifact, which names its base model. Out: `model/`, a plain model folder. It is a task, not
work of the driver, so that a cluster places it where the memory for a float32 copy of the base is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.distributed.task_errors import TASK_RETRIES, plain_errors

MODEL = "model"


def build(job: Job) -> None:
    """Merge, check, and record what was checked."""
    connect()
    import ray

    trained = job.inputs["train"]
    task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(_merge)
    reference = task.remote(
        str(trained.file("adapter").resolve()),
        str(trained.file("base_model.json").resolve()),
        str((job.draft.folder / MODEL).resolve()),
    )
    with plain_errors("merge"):
        check: dict[str, float] = ray.get(reference)
    job.draft.counts.update({name: int(check.pop(name)) for name in ("layers", "token_rows")})
    job.draft.metrics.update(check)


def _merge(adapter_folder: str, base_record: str, out_folder: str) -> dict[str, float]:
    from ragray.engine.merge import merge_adapter

    return merge_adapter(Path(adapter_folder), Path(base_record), Path(out_folder))


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {}


def _headline(artifact: Artifact) -> str:
    counts, metrics = artifact.manifest.counts, artifact.manifest.metrics
    return f"{counts['layers']} layers, max weight error {metrics['max_weight_error']:.1e}"


STAGE = Stage(
    name="merge",
    format_version=1,
    needs=("train",),
    code=(
        "prompt",
        "dataprep.normalize",
        "engine.merge",
        "engine.weight_format",
        "train.adapter",
        "train.base_record",
        "train.loading",
        "train.lora",
        "train.template",
        "distributed.merge",
    ),
    settings=_settings,
    build=build,
    headline=_headline,
)

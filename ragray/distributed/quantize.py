"""Stage quantize: quantized checkpoints, one remote task for each method.

In: the merged model. Out: one Hugging Face folder for each method, and quantize.json with what each lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.distributed.folder_task import collect_all, local_folder, start
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage

if TYPE_CHECKING:
    from ragray.engine.quantize import QuantizationRecord

QUANTIZE_JSON = "quantize.json"
_TIME_LIMIT_S = 3600.0
_RESOURCES: Mapping[str, Mapping[str, Any]] = {"bitsandbytes_int8": {"num_cpus": 1}}  # Ray's, by method


def _build(job: Job) -> None:
    connect()
    merged = job.inputs["merge"]
    methods = list(dict.fromkeys(job.config.quantize.methods))
    job.report(f"quantizing by {', '.join(methods)}")
    tasks = [
        start(f"quantize {method}", _quantize, method, merged, options=_RESOURCES[method], limit_s=_TIME_LIMIT_S)
        for method in methods
    ]
    made = collect_all(tasks, [job.draft.folder / method for method in methods])
    records: dict[str, Any] = {method: asdict(record) for method, record in zip(methods, made, strict=True)}
    text = json.dumps(records, indent=2, sort_keys=True)
    (job.draft.folder / QUANTIZE_JSON).write_text(text + "\n", encoding="utf-8")
    job.draft.counts["methods"] = len(records)
    job.draft.metrics.update(records)


def _quantize(method: str, merged: Artifact, out: Path) -> QuantizationRecord:
    from ragray.engine.quantize import quantize

    return quantize(method, local_folder(merged) / "model", out)


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {"methods": list(config.quantize.methods)}


def _headline(artifact: Artifact) -> str:
    return "; ".join(
        f"{method}: {record['bytes'] / 1e6:.1f} MB of {record['full_bytes'] / 1e6:.1f} MB, KL {record['kl_nats']:.4f}"
        for method, record in artifact.manifest.metrics.items()
    )


STAGE = Stage(
    name="quantize",
    format_version=1,
    needs=("merge",),
    code=(
        "prompt", "engine.batching", "engine.quantize", "engine.tokens", "engine.transformers_runtime",
        "engine.verification", "train.examples", "train.template", "distributed.folder_task", "distributed.quantize",
    ),
    settings=_settings,
    build=_build,
    headline=_headline,
)  # fmt: skip

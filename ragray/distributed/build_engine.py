"""Stage engine: an engine for a type of device, built and verified by a remote task on such a device.

In: the merged model. Out: `engine/` and `engine.json`. The key holds the versions of all that decides the
engine's bytes, and the type of device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragray.artifact import Artifact
from ragray.config import EngineConfig, RunConfig
from ragray.distributed.folder_task import local_folder, start
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.engine.build import BUILDERS, Build, build_engine, effective_weights
from ragray.engine.manifest import EngineManifest

DEVICE = "cpu"
_TIME_LIMIT_S = 3600.0


def placement(device_type: str) -> dict[str, Any]:
    """Ray's options that put a build on a device of a type: "cpu", or an accelerator type such as "H100"."""
    return {"num_cpus": 1} if device_type == "cpu" else {"num_gpus": 1, "accelerator_type": device_type}


def _build(job: Job) -> None:
    connect()
    settings = job.config.engine
    job.report(f"building the {settings.kind} engine for {DEVICE}")
    task = start(
        f"engine for {DEVICE}",
        _build_here,
        job.inputs["merge"],
        settings,
        options=placement(DEVICE),
        limit_s=_TIME_LIMIT_S,
    )
    built = task.collect(job.draft.folder)
    job.draft.timings_s.update(built.timings_s)
    _record(job, built.manifest)


def _build_here(merged: Artifact, settings: EngineConfig, out: Path) -> Build:
    return build_engine(local_folder(merged) / "model", settings, out)


def _record(job: Job, manifest: EngineManifest) -> None:
    verification = manifest.verification
    assert verification is not None  # build_engine verifies or raises
    job.draft.counts.update(
        parameters=manifest.model.parameters, bytes=sum(entry["bytes"] for entry in manifest.files.values())
    )
    job.draft.metrics.update(
        kind=manifest.builder,
        weights=manifest.weights,
        device=manifest.device.type,
        prefix_share=verification.prefix_share,
        equal_answers=verification.equal_answers,
        verified_prompts=verification.prompts,
    )


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {
        "kind": config.engine.kind,
        "weights": effective_weights(config.engine),
        "device": DEVICE,
        "builder": BUILDERS[config.engine.kind].version(),
    }


def _headline(artifact: Artifact) -> str:
    counts, metrics = artifact.manifest.counts, artifact.manifest.metrics
    return (
        f"{metrics['kind']} {metrics['weights']} for {metrics['device']}, {counts['bytes'] / 1e6:.1f} MB, "
        f"agreement {metrics['prefix_share']:.2f}"
    )


STAGE = Stage(
    name="engine",
    format_version=1,
    needs=("merge",),
    code=(
        "prompt", "engine.batching", "engine.build", "engine.manifest", "engine.openvino_export",
        "engine.openvino_runtime", "engine.protocol", "engine.runtime", "engine.tokens",
        "engine.transformers_runtime", "engine.verification", "train.examples", "train.template",
        "engine.weight_format", "distributed.build_engine", "distributed.folder_task",
    ),
    settings=_settings,
    build=_build,
    headline=_headline,
)  # fmt: skip

"""Stage engine: engines, each built and verified by a remote task on a device of its type.

In: the merged model. Out: `engine/`, `engine.json` and `build.log`. `STAGE` builds for the CPU; `build_engines` for
any types of the cluster's devices. The key holds all that decides what the engine is (see `Target.key`), so one that
is there is not built again, and two builders of one key build once.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ragray.ancestry import ancestor
from ragray.artifact import Artifact, Store
from ragray.config import EngineConfig, RunConfig
from ragray.distributed.devices import ask_device, chosen_types, no_place, placement
from ragray.distributed.folder_task import local_folder, start
from ragray.distributed.quantize_material import calibration_examples
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Outcome, Report, Stage, bring
from ragray.engine.build import BUILD_LOG, Build, Target, build_engine, choose_target
from ragray.engine.device import CPU, device_here, this_device
from ragray.engine.manifest import ENGINE_FOLDER, ENGINE_JSON, EngineManifest, more_precise, shortfall
from ragray.engine.tokens import load_tokenizer
from ragray.engine.verification import Reference, make_reference
from ragray.errors import ArtifactError, EngineError, RagrayError, WorkError

_REFERENCE_LIMIT_S = 3600.0


def build_engines(
    config: RunConfig,
    merged: Artifact,
    asked: Sequence[str],
    *,
    expected: Callable[[int], None] = lambda builds: None,
    started: Callable[[Stage], None] = lambda stage: None,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    report: Report = lambda line: None,
) -> dict[str, Outcome]:
    """Build the engines for types of devices, all at once; those that are there are kept.

    Args:
        config: of the run.
        merged: the artifact of stage merge.
        asked: device types; "all" stands for those of the cluster.
        expected: hears how many engines that is.
        started: hears of each build that begins.
        finished: hears of each that ended.
        report: hears what happens.

    Returns:
        The outcomes by name, such as "engine H100".

    Raises:
        RagrayError: not all engines could be built; those that could are kept.
    """
    connect()
    reference = _Once(lambda: _reference(merged, config, report))
    outcomes: dict[str, Outcome] = {}
    failures: dict[str, Exception] = {}

    def build(device_type: str) -> None:
        try:
            device = ask_device(device_type, config.engine.wait_s, report)
            stage = stage_for(choose_target(config.engine, device), reference)
            started(stage)
            outcomes[stage.shown] = outcome = bring(config, Store(config.output), stage, {"merge": merged}, report)
            finished(outcome)
        except Exception as error:  # noqa: BLE001 - raised below, in the main thread
            failures[device_type] = error

    types = chosen_types(asked)
    expected(len(types))
    threads = [threading.Thread(target=build, args=(each,), daemon=True) for each in types]  # Ctrl-C leaves them
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _raise(failures, len(types))
    return {name: outcomes[name] for each in types if (name := f"{STAGE.name} {each}") in outcomes}


def _raise(failures: Mapping[str, Exception], types: int) -> None:
    unknown = [error for error in failures.values() if not isinstance(error, RagrayError)]
    if unknown:
        raise unknown[0] from ExceptionGroup("engines", list(failures.values()))
    known = {name: error for name, error in failures.items() if isinstance(error, RagrayError)}
    if len(known) == 1:
        raise next(iter(known.values()))
    if known:
        lines = "\n".join(f"  {name}: {error}" for name, error in known.items())
        raise WorkError(f"{len(known)} of {types} engines were not built:\n{lines}")


def check_usable(artifact: Artifact) -> None:
    """Check that an engine answers as its model does.

    Raises:
        EngineError: it was marked unusable when it was verified.
    """
    if not artifact.manifest.metrics["usable"]:
        manifest = EngineManifest.read(artifact.folder)
        raise EngineError(f"{artifact.uri}: {shortfall(manifest)}", more_precise(manifest))


def stage_for(target: Target, reference: Callable[[], Reference]) -> Stage:
    """The engine stage for a device that is not this machine's CPU."""
    if target.device.type == CPU:
        return replace(STAGE, title=f"{STAGE.name} {CPU}")
    return replace(
        STAGE,
        title=f"{STAGE.name} {target.device.type}",
        settings=lambda config: {**target.key(), "calibration_examples": config.quantize.calibration_examples},
        build=partial(_build, target=target, reference=reference),
    )


class _Once:
    """A function's value or error, made at its first call; other threads wait for it."""

    def __init__(self, make: Callable[[], Reference]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: Reference | Exception | None = None

    def __call__(self) -> Reference:
        with self._lock:
            if self._made is None:
                try:
                    self._made = self._make()
                except Exception as error:  # noqa: BLE001 - raised below, for each thread that asks
                    self._made = error
            if isinstance(self._made, Exception):
                raise self._made
            return self._made


def _reference(merged: Artifact, config: RunConfig, report: Report) -> Reference:
    """The merged model's answers, made in ragray's own environment: a builder's may not read this model."""
    settings = config.engine
    report("the merged model answers the fixed prompts")
    task = start(
        "the merged model's answers",
        _reference_here,
        merged,
        _augmented(merged, report),
        config,
        options=placement(CPU, settings.device(CPU)),
        limit_s=_REFERENCE_LIMIT_S,
        wait_s=settings.wait_s,
        report=report,
    )
    with tempfile.TemporaryDirectory() as nothing:
        return task.collect(Path(nothing))


def _augmented(merged: Artifact, report: Report) -> Artifact | None:
    """The artifact with the examples that the model was trained on; None where its lineage does not lead there."""
    try:
        return ancestor(merged, "train", "augment")
    except ArtifactError as error:
        report(f"builders calibrate on the fixed prompts, as the training examples are not there: {error}")
        return None


def _reference_here(merged: Artifact, augmented: Artifact | None, config: RunConfig, out: Path) -> Reference:
    model = local_folder(merged) / "model"
    reference = make_reference(model, config.engine.cpu_threads)
    if augmented is None:
        return reference
    examples = local_folder(augmented) / "examples.parquet"
    return replace(reference, calibration=calibration_examples(examples, load_tokenizer(model), config))


def _build(job: Job, target: Target | None = None, reference: Callable[[], Reference] | None = None) -> None:
    connect()
    settings = job.config.engine
    target = target or choose_target(settings, this_device())
    device_type = target.device.type
    because = f" ({target.plan.reason})" if target.plan.reason else ""
    expected = reference() if reference else None
    job.report(f"building the {target.builder.name} {target.plan.weights} engine for {device_type}{because}")
    task = start(
        f"engine for {device_type}",
        _build_here,
        job.inputs["merge"],
        settings,
        target,
        expected,
        options=placement(device_type, settings.device(device_type)),
        limit_s=settings.build_s,
        wait_s=settings.wait_s,
        unplaced=lambda: no_place(device_type, settings.wait_s),
        report=job.report,
    )
    built = task.collect(job.draft.folder)
    if isinstance(built, RagrayError):
        raise _with_log(built, job)
    job.draft.timings_s.update(built.timings_s)
    job.draft.volatile.update((ENGINE_JSON, BUILD_LOG))  # they hold times
    _record(job, built.manifest)


def _build_here(
    merged: Artifact, settings: EngineConfig, target: Target, reference: Reference | None, out: Path
) -> Build | RagrayError:
    """The build, on the device; an error comes back as a value, beside the log."""
    import ray

    (out / BUILD_LOG).write_text(
        f"node {ray.get_runtime_context().get_node_id()}, {platform.node()}\n", encoding="utf-8"
    )
    try:
        found = device_here(target.device.type)
        if found.compute_capability != target.device.compute_capability:
            raise EngineError(
                f"this {found.type} has compute capability {found.compute_capability}, another one of the cluster "
                f"{target.device.compute_capability}",
                "give nodes of different capability different accelerator types",
            )
        here = replace(target, device=found)
        return build_engine(local_folder(merged) / "model", settings, out, here, reference)
    except RagrayError as error:
        shutil.rmtree(out / ENGINE_FOLDER, ignore_errors=True)
        with (out / BUILD_LOG).open("a", encoding="utf-8") as log:
            log.write(f"failed: {error}\n")
        return error


def _with_log(error: RagrayError, job: Job) -> RagrayError:
    """The error of a failed build, its log kept where a later run of the same key finds it."""
    kept = job.work_folder / BUILD_LOG
    shutil.copyfile(job.draft.folder / BUILD_LOG, kept)
    return type(error)(error.message, f"{error.fix}; the build's log: {kept}" if error.fix else f"read {kept}")


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
        f1=verification.f1,
        verified_prompts=verification.prompts,
        usable=verification.usable,
    )


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return choose_target(config.engine, this_device()).key()


def _headline(artifact: Artifact) -> str:
    counts, metrics = artifact.manifest.counts, artifact.manifest.metrics
    return (
        f"{metrics['kind']} {metrics['weights']} for {metrics['device']}, {counts['bytes'] / 1e6:.1f} MB, "
        f"agreement {metrics['prefix_share']:.2f}, F1 {metrics['f1']:.2f}{'' if metrics['usable'] else ', UNUSABLE'}"
    )


STAGE = Stage(
    name="engine",
    format_version=2,
    needs=("merge",),
    code=(
        "ancestry", "prompt", "schema", "dataprep.normalize",
        "engine.batching", "engine.build", "engine.builders", "engine.device", "engine.environment",
        "engine.manifest", "engine.openvino_export", "engine.openvino_runtime", "engine.openvino_settings",
        "engine.adapter_rows", "engine.protocol", "engine.runtime",
        "engine.repeats", "engine.tokens", "engine.transformers_runtime", "engine.verification", "engine.weight_format",
        "engine.commands", "engine.compat", "engine.compat_config", "engine.gpu_policy", "engine.modelopt",
        "engine.modelopt_task", "engine.tensorrt_llm", "engine.tensorrt_llm_builders", "engine.tensorrt_llm_engine",
        "engine.tensorrt_llm_runtime", "evaluation.answers", "train.examples", "train.template",
        "distributed.build_engine", "distributed.folder_task", "distributed.quantize_material",
    ),
    settings=_settings,
    build=_build,
    headline=_headline,
    once=True,
)  # fmt: skip

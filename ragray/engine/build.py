"""What is built for a device, and the build that ends with a verified engine.

In: a merged checkpoint and the engine settings. Out: `engine/`, `engine.json` and `build.log` in a folder. A built
engine is loaded and its greedy answers to fixed prompts are compared with the checkpoint's; one that answers
worse than the bars of its weight format is kept and marked, and loading refuses it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ragray.config import EngineConfig
from ragray.engine.builders import BUILDERS
from ragray.engine.device import CPU, this_device
from ragray.engine.environment import check_named, checked_interpreters
from ragray.engine.manifest import ENGINE_FOLDER, EngineManifest, ModelFacts, files_below
from ragray.engine.protocol import (
    Builder,
    BuildOrder,
    BuildPlan,
    BuiltEngine,
    DeviceInfo,
    EngineSpec,
)
from ragray.engine.verification import GREEDY, Reference, make_reference, verify
from ragray.errors import EngineError

BUILD_LOG = "build.log"


@dataclass(frozen=True, slots=True)
class Target:
    """An engine that is to be built: by which builder, for which device, with which weights and limits."""

    builder: Builder
    device: DeviceInfo
    spec: EngineSpec
    plan: BuildPlan

    def key(self) -> dict[str, Any]:
        """All of the target that decides what the engine is."""
        limits = self.plan.limits
        return {
            "kind": self.builder.name,
            "builder": self.builder.version(),
            "weights": self.plan.weights,
            "device": self.device.type,
            "arch": self.device.arch,
            "compute_capability": self.device.compute_capability,
            "limits": [
                limits.max_batch_size, limits.max_input_tokens, limits.max_sequence_tokens, limits.max_num_tokens
            ],
            "tensor_parallel": self.plan.tensor_parallel,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build."""

    manifest: EngineManifest
    timings_s: dict[str, float]  # build, verify


def choose_target(settings: EngineConfig, device: DeviceInfo) -> Target:
    """The builder and the plan for a device.

    Raises:
        EngineError: no builder supports the device, or not the one that the settings name.
        ConfigError: the builder needs an environment that the settings do not name.
    """
    wanted = settings.device(device.type)
    names = [wanted.kind] if wanted.kind else [settings.kind, *(name for name in BUILDERS if name != settings.kind)]
    refusals = []
    for name in names:
        builder, spec = BUILDERS[name], _spec(settings, device, name)
        refusal = builder.supports(device, spec)
        if refusal is None:
            check_named(builder, settings, device.type)
            return Target(builder, device, spec, builder.plan(device, spec))
        refusals.append(refusal)
        if device.type == CPU:
            break  # the CPU's engine is the one that the settings name
    kinds = f"engine.devices.{device.type}.kind" if device.type != CPU else "engine.kind"
    raise EngineError("; ".join(refusals), f"set {kinds} to one of {', '.join(BUILDERS)} that runs on {device.type}")


def _spec(settings: EngineConfig, device: DeviceInfo, kind: str) -> EngineSpec:
    weights = settings.device(device.type).weights or (settings.weights if kind == "openvino" else None)
    return EngineSpec(weights, settings.max_batch_size, settings.max_input_tokens, settings.max_new_tokens)


def build_engine(
    checkpoint: Path,
    settings: EngineConfig,
    out: Path,
    target: Target | None = None,
    reference: Reference | None = None,
) -> Build:
    """Build an engine for the device at hand, by default this machine's CPU, and verify it.

    Args:
        checkpoint: merged Hugging Face folder with tokenizer.
        settings: what to build, and with which threads to verify it.
        out: existing folder; gets engine/, engine.json and build.log.
        target: what to build and for which device, which must be the one at hand, as builders tune and verify on it.
        reference: the checkpoint's own answers; made here where there is none.

    Raises:
        EngineError: the builder does not support the model or device, or the build failed.
        ConfigError: an environment that the builder needs is not the right one.
    """
    target = target or choose_target(settings, this_device())
    log = out / BUILD_LOG
    _note(log, f"{target.builder.name} {target.builder.version()} for {target.device}")
    _note(log, f"plan: {target.plan}")
    interpreters = checked_interpreters(target.builder, settings, target.device.type)
    examples = reference.calibration if reference else ()
    order = BuildOrder(checkpoint, target.device, target.spec, target.plan, settings, log, interpreters, examples)
    started = time.perf_counter()
    (out / ENGINE_FOLDER).mkdir()
    built = target.builder.build(order, out / ENGINE_FOLDER)
    build_s = time.perf_counter() - started
    _note(log, f"built in {build_s:.1f} s")
    reference = reference or make_reference(checkpoint, settings.cpu_threads)
    manifest = _manifest(target, built, reference, checkpoint, out, build_s)
    started = time.perf_counter()
    answers = target.builder.verify(order, manifest, out / ENGINE_FOLDER, reference.prompts, GREEDY.max_new_tokens)
    verification = verify(answers, reference, checkpoint, manifest.weights)
    _note(log, f"verified: {verification}")
    manifest = replace(manifest, verification=verification)
    manifest.write(out)
    return Build(manifest, {"build": build_s, "verify": time.perf_counter() - started})


def _note(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}\n")


def _manifest(
    target: Target, built: BuiltEngine, reference: Reference, checkpoint: Path, out: Path, build_s: float
) -> EngineManifest:
    return EngineManifest(
        builder=target.builder.name,
        builder_version=target.builder.version(),
        format=built.format,
        weights=target.plan.weights,
        quantization=built.quantization,
        kv_cache=built.kv_cache,
        model=model_facts(checkpoint),
        source=replace(reference.source, calibration=built.calibration),
        device=target.device,
        runtime=dict(built.runtime),
        versions=dict(built.versions),
        files=files_below(out),
        limits=target.plan.limits,
        tensor_parallel=target.plan.tensor_parallel,
        plugins=_tree(built.plugins),
        lora=_tree(built.lora),
        commands=built.commands,
        build_s=round(build_s, 3),
    )


def _tree(mapping: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if mapping is None else dict(mapping)


def model_facts(checkpoint: Path) -> ModelFacts:
    """Architecture, size and limits, from a checkpoint's config.json and the headers of its tensors."""
    from safetensors import safe_open

    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    parameters = 0
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                parameters += size
    rope = config.get("rope_parameters") or {}
    return ModelFacts(
        architecture=config["model_type"],
        parameters=parameters,
        context_tokens=config["max_position_embeddings"],
        rope_theta=rope.get("rope_theta", config.get("rope_theta")),
    )

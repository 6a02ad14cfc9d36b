"""Builders of the engines that run in ragray's own environment, and the registry of all builders.

In: a `BuildOrder`. Out: an engine's files, and its greedy answers to prompts. See `protocol.Builder`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ragray.engine.device import CPU
from ragray.engine.manifest import EngineManifest, installed, release
from ragray.engine.protocol import (
    Builder,
    BuildOrder,
    BuildPlan,
    BuiltEngine,
    DeviceInfo,
    Engine,
    EngineSpec,
    Environment,
    SamplingParams,
)
from ragray.engine.tensorrt_llm_builders import TensorRtLlmBuilder, TensorRtLlmTorchBuilder
from ragray.train.template import TEMPLATE

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
_CONFIG_FILES = ("config.json", "generation_config.json")
_OPENVINO_QUANTIZATION = {"fp32": None, "int8": "int8_asym", "int4": "int4_sym_g64"}


class _LocalBuilder:
    """What builders have in common whose packages live beside ragray's."""

    _packages: tuple[str, ...] = ()

    def version(self) -> str:
        """Versions of everything that decides the engine's bytes."""
        return _joined(installed(*self._packages))

    def environment(self) -> tuple[Environment, ...]:
        """None beside ragray's own."""
        return ()


class OpenVinoBuilder(_LocalBuilder):
    """OpenVINO IR for any x86-64 or ARM CPU."""

    name = "openvino"
    _packages = ("openvino", "openvino-genai", "nncf", "torch", "transformers")

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        """None, or the reason why this engine cannot be built for `device`."""
        if device.type != CPU:
            return f"the openvino engine runs on CPUs, not on {device.type}"
        if spec.weights is not None and spec.weights not in _OPENVINO_QUANTIZATION:
            return f"the openvino engine has {', '.join(_OPENVINO_QUANTIZATION)} weights, not {spec.weights}"
        return None

    def plan(self, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
        """The weights that were asked for, by default int8; limits are set when it is loaded."""
        return BuildPlan(weights=spec.weights or "int8")

    def build(self, order: BuildOrder, out: Path) -> BuiltEngine:
        """Trace, compress and save; see `openvino_export`."""
        from ragray.engine.openvino_export import export

        export(order.checkpoint, order.plan.weights, out)
        for name in (*_TOKENIZER_FILES, *_CONFIG_FILES, TEMPLATE):
            if (order.checkpoint / name).exists():
                shutil.copyfile(order.checkpoint / name, out / name)
        versions = installed(*self._packages)
        return BuiltEngine(
            format="openvino_ir",
            quantization=_OPENVINO_QUANTIZATION[order.plan.weights],
            kv_cache="f32",
            runtime={name: release(versions[name]) for name in ("openvino", "openvino-genai")},
            versions=versions,
        )

    def verify(
        self, order: BuildOrder, manifest: EngineManifest, out: Path, prompts: Sequence[Sequence[int]], tokens: int
    ) -> list[tuple[int, ...]]:
        """Load what was built and answer the prompts greedily."""
        from ragray.engine.openvino_runtime import OpenVinoEngine

        return greedy_answers(OpenVinoEngine(out, manifest, order.settings), prompts, tokens)


class TransformersBuilder(_LocalBuilder):
    """The checkpoint itself, in float32: on CPUs the reference, on NVIDIA GPUs what is left where no other runs."""

    name = "transformers"
    _packages = ("torch", "transformers")

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        """None, or the reason why this engine cannot be built for `device`."""
        if device.type != CPU and device.compute_capability is None:
            return f"the transformers engine runs on CPUs and NVIDIA GPUs; {device.type} tells no compute capability"
        if spec.weights not in (None, "fp32"):
            return f"the transformers engine keeps fp32 weights, not {spec.weights}"
        return None

    def plan(self, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
        """Float32; limits are set when it is loaded."""
        return BuildPlan(weights="fp32")

    def build(self, order: BuildOrder, out: Path) -> BuiltEngine:
        """Copy the checkpoint's files."""
        for path in sorted(p for p in order.checkpoint.rglob("*") if p.is_file()):
            target = out / path.relative_to(order.checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        versions = installed(*self._packages)
        return BuiltEngine(
            format="huggingface",
            quantization=None,
            kv_cache="f32",
            runtime={"transformers": versions["transformers"].split(".")[0]},
            versions=versions,
        )

    def verify(
        self, order: BuildOrder, manifest: EngineManifest, out: Path, prompts: Sequence[Sequence[int]], tokens: int
    ) -> list[tuple[int, ...]]:
        """Load what was built and answer the prompts greedily."""
        from ragray.engine.transformers_runtime import load_model_folder

        engine = load_model_folder(out, len(prompts), order.settings.cpu_threads, device_type=order.device.type)
        return greedy_answers(engine, prompts, tokens)


def greedy_answers(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> list[tuple[int, ...]]:
    """What an engine answers to prompts by the most probable tokens; the engine is closed."""
    try:
        return [answer.token_ids for answer in engine.generate(prompts, SamplingParams(max_new_tokens=tokens))]
    finally:
        engine.close()


# By the engine's kind. The first that supports a device is taken where the settings name none.
BUILDERS: dict[str, Builder] = {
    builder.name: builder
    for builder in (OpenVinoBuilder(), TensorRtLlmBuilder(), TensorRtLlmTorchBuilder(), TransformersBuilder())
}


def _joined(versions: Mapping[str, str]) -> str:
    return " ".join(f"{name}=={version}" for name, version in sorted(versions.items()))

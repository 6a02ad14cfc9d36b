"""Engine builders, and the build that ends with a verified engine.

In: a merged checkpoint and the engine settings. Out: `engine/` and `engine.json` in a folder. A built
engine is loaded and its greedy answers to fixed prompts are compared with the checkpoint's; one that answers
worse than the bar of its weight format is refused.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.artifact import file_digest, folder_digest
from ragray.config import EngineConfig
from ragray.engine.manifest import (
    ENGINE_FOLDER,
    EngineManifest,
    ModelFacts,
    SourceDigests,
    files_below,
    installed,
    release,
    this_device,
)
from ragray.engine.protocol import BuiltEngine, DeviceInfo, EngineBuilder, EngineSpec
from ragray.engine.runtime import start_engine
from ragray.errors import EngineError
from ragray.train.template import TEMPLATE, template_digests

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
_CONFIG_FILES = ("config.json", "generation_config.json")


class OpenVinoBuilder:
    """OpenVINO IR for any x86-64 or ARM CPU."""

    name = "openvino"
    _packages = ("openvino", "openvino-genai", "nncf", "torch", "transformers")

    def version(self) -> str:
        """Versions of everything that decides the engine's bytes."""
        return _joined(installed(*self._packages))

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        """None, or the reason why this engine cannot be built for `device`."""
        if device.type != "cpu":
            return f"the openvino engine runs on CPUs, not on {device.type}"
        return None

    def build(self, checkpoint: Path, spec: EngineSpec, out: Path) -> BuiltEngine:
        """Trace, compress and save; see `openvino_export`."""
        from ragray.engine.openvino_export import export

        export(checkpoint, spec.weights, out)
        for name in (*_TOKENIZER_FILES, *_CONFIG_FILES, TEMPLATE):
            if (checkpoint / name).exists():
                shutil.copyfile(checkpoint / name, out / name)
        versions = installed(*self._packages)
        return BuiltEngine(
            format="openvino_ir",
            quantization={"fp32": None, "int8": "int8_asym", "int4": "int4_sym_g64"}[spec.weights],
            kv_cache="f32",
            runtime={name: release(versions[name]) for name in ("openvino", "openvino-genai")},
            versions=versions,
        )


class TransformersBuilder:
    """The checkpoint itself, for any device that torch knows."""

    name = "transformers"
    _packages = ("torch", "transformers")

    def version(self) -> str:
        """Versions of everything that decides the engine's bytes."""
        return _joined(installed(*self._packages))

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        """None, or the reason why this engine cannot be built for `device`."""
        if device.type != "cpu":
            return f"the transformers engine is built for CPUs only, not for {device.type}"
        return None

    def build(self, checkpoint: Path, spec: EngineSpec, out: Path) -> BuiltEngine:
        """Copy the checkpoint's files."""
        for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
            target = out / path.relative_to(checkpoint)
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


BUILDERS: Mapping[str, EngineBuilder] = {
    builder.name: builder for builder in (OpenVinoBuilder(), TransformersBuilder())
}


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build."""

    manifest: EngineManifest
    timings_s: dict[str, float]  # build, load, verify


def effective_weights(settings: EngineConfig) -> str:
    """The weight format that an engine of these settings has: the transformers engine keeps float32."""
    return settings.weights if settings.kind == "openvino" else "fp32"


def build_engine(checkpoint: Path, settings: EngineConfig, out: Path, device: DeviceInfo | None = None) -> Build:
    """Build an engine for a device, by default this machine's CPU, and verify it.

    Args:
        checkpoint: merged Hugging Face folder with tokenizer.
        settings: what to build, and with which threads to verify it.
        out: existing folder; gets engine/ and engine.json.
        device: what to build for; must be the device at hand, as builders tune and verify on it.

    Raises:
        EngineError: the builder does not support the model or device, or the engine answers worse than the
            bar.
    """
    device = device or this_device()
    builder = BUILDERS[settings.kind]
    spec = EngineSpec(weights=effective_weights(settings), max_batch_size=settings.max_batch_size)
    if refusal := builder.supports(device, spec):
        raise EngineError(refusal, f"set engine.kind to one of {', '.join(BUILDERS)} that runs on {device.type}")
    started = time.perf_counter()
    (out / ENGINE_FOLDER).mkdir()
    built = builder.build(checkpoint, spec, out / ENGINE_FOLDER)
    manifest = _manifest(builder, built, spec, checkpoint, out, device)
    build_s = time.perf_counter() - started
    manifest, timings_s = _verified(manifest, settings, checkpoint, out)
    manifest.write(out)
    return Build(manifest, {"build": build_s, **timings_s})


def _manifest(
    builder: EngineBuilder, built: BuiltEngine, spec: EngineSpec, checkpoint: Path, out: Path, device: DeviceInfo
) -> EngineManifest:
    from ragray.engine.tokens import load_tokenizer

    return EngineManifest(
        builder=builder.name,
        builder_version=builder.version(),
        format=built.format,
        weights=spec.weights,
        quantization=built.quantization,
        kv_cache=built.kv_cache,
        model=model_facts(checkpoint),
        source=_source(checkpoint, load_tokenizer(checkpoint)),
        device=device,
        runtime=dict(built.runtime),
        versions=dict(built.versions),
        files=files_below(out),
    )


def _verified(
    manifest: EngineManifest, settings: EngineConfig, checkpoint: Path, out: Path
) -> tuple[EngineManifest, dict[str, float]]:
    from ragray.engine.transformers_runtime import load_model_folder
    from ragray.engine.verification import verify

    started = time.perf_counter()
    engine = start_engine(out / ENGINE_FOLDER, manifest, settings)
    load_s = time.perf_counter() - started
    reference = load_model_folder(checkpoint, 8, settings.cpu_threads, manifest.source.checkpoint)
    try:
        verification = verify(engine, reference, manifest.weights)
    finally:
        engine.close()
        reference.close()
    if not verification.usable:
        raise EngineError(
            f"the {manifest.builder} {manifest.weights} engine answers worse than its model: agreement "
            f"{verification.prefix_share:.2f} on {verification.prompts} prompts, least {verification.bar:.2f}",
            "set engine.weights to a more precise format, such as fp32",
        )
    timings_s = {"load": load_s, "verify": time.perf_counter() - started - load_s}
    return replace(manifest, verification=verification), timings_s


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


def _source(checkpoint: Path, tokenizer: PreTrainedTokenizerBase) -> SourceDigests:
    return SourceDigests(
        checkpoint=folder_digest(checkpoint),
        tokenizer=file_digest(checkpoint / "tokenizer.json"),
        chat_template=template_digests(tokenizer)["chat_template"],
    )


def _joined(versions: Mapping[str, str]) -> str:
    return " ".join(f"{name}=={version}" for name, version in sorted(versions.items()))

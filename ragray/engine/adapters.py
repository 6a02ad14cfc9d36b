"""Which LoRA adapters an engine can answer with beside its own model, and what it applies for each.

In: an adapter with the record of what it was trained on, an engine's manifest, and what the engine's model was merged
of. Out: an adapter folder in PEFT's form for the engine's weights. An engine's model is a base W with an adapter's
update D merged in. Two kinds of adapters fit it:

    trained on the merged model itself   its update D' is applied as it is
    trained on the base W, as D was      D' - D is applied: (W + D) + (D' - D) = W + D', of both ranks together

All else is refused: the update of one model added to another gives fluent nonsense without any error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.engine.manifest import ENGINE_FOLDER, EngineManifest
from ragray.errors import ArtifactError, EngineError
from ragray.train.base_record import BASE_MODEL
from ragray.train.lora import CONFIG, WEIGHTS
from ragray.train.template import TEMPLATE

if TYPE_CHECKING:
    import torch

    from ragray.train.adapter import Adapter, LoraLayer

ADAPTER = "adapter"  # of a train artifact: the folder in PEFT's form
_BATCHES_ADAPTERS = ("transformers", "tensorrt_llm", "tensorrt_llm_torch")


@dataclass(frozen=True, slots=True)
class Trained:
    """A `train` artifact's folder, and how to name it in a message."""

    folder: Path
    name: str

    @property
    def record(self) -> Mapping[str, Any]:
        """What the adapter was trained on: digests of the base model and of the template.

        Raises:
            ArtifactError: there is none.
        """
        try:
            record: dict[str, Any] = json.loads((self.folder / BASE_MODEL).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{self.name}: does not say what it was trained on: {error}", "train it again with `ragray train`"
            ) from None
        return record

    def adapter(self) -> Adapter:
        """Its weights, of plain LoRA.

        Raises:
            ArtifactError: they are damaged, or of a kind that cannot be applied to single rows of a batch.
        """
        from ragray.train.adapter import read_adapter

        adapter = read_adapter(self.folder / ADAPTER)
        if adapter.config.get("use_dora") or adapter.tokens:
            kind = "DoRA" if adapter.config.get("use_dora") else "trained tokens"
            raise ArtifactError(
                f"{self.name}: an adapter with {kind}, which changes more than W + BA and cannot be applied to single "
                "rows of a batch",
                "merge it and build an engine of its own, or train it with train.lora.method=lora and without "
                "trainable tokens",
            )
        return adapter


def check_engine(folder: Path) -> None:
    """Check that an engine can apply an adapter of each request's choice.

    Raises:
        EngineError: it cannot; the message says which can.
    """
    manifest = EngineManifest.read(folder)
    if manifest.builder not in _BATCHES_ADAPTERS:
        raise EngineError(
            f"{folder}: a {manifest.builder} engine cannot apply an adapter of each request's choice",
            "build a transformers engine: `ragray build-engine --config FILE --set engine.kind=transformers`",
        )
    if manifest.builder == "tensorrt_llm" and manifest.lora is None:
        raise EngineError(
            f"{folder}: this TensorRT engine was compiled without adapters",
            "build a tensorrt_llm_torch or transformers engine for this device: engine.devices.TYPE.kind",
        )


def fitted(wanted: Trained, merged: Trained | None, engine: Path) -> tuple[LoraLayer, ...]:
    """What an engine applies to answer as `wanted` was trained to.

    Args:
        wanted: the adapter.
        merged: the one in the engine's model; None where the engine's lineage does not lead there.
        engine: the engine artifact's folder.

    Raises:
        ArtifactError: it was trained on another base model or with another template, or is of another kind.
    """
    base = wanted.record["digest"]
    if base == EngineManifest.read(engine).source.checkpoint:
        _check_template(wanted, engine)
        return wanted.adapter().layers
    if merged is None:
        raise ArtifactError(
            f"{wanted.name}: was not trained on this engine's model, and the adapter that is merged into that is not "
            "there to tell whether both have one base model",
            "put the train artifact of the engine's run back, or name an adapter trained on the engine's merged model",
        )
    if base != merged.record["digest"]:
        raise ArtifactError(
            f"{wanted.name}: trained on the base model {wanted.record['path']} ({base[:12]}); this engine's was "
            f"made of {merged.record['path']} ({merged.record['digest'][:12]})",
            "serve it with an engine of its own base model, or train it with train.base_model set to that of the "
            "engine's run",
        )
    _check_template(wanted, engine)
    return difference(wanted.adapter().layers, merged.adapter().layers)


def difference(wanted: tuple[LoraLayer, ...], merged: tuple[LoraLayer, ...]) -> tuple[LoraLayer, ...]:
    """The update that takes a merged one out and puts the wanted one in: s'B'A' - sBA = [s'B', -sB] [A'; A]."""
    import torch

    from ragray.train.adapter import LoraLayer

    parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for layers, sign in ((wanted, 1.0), (merged, -1.0)):
        for layer in layers:
            parts.setdefault(layer.name, []).append((layer.a, sign * layer.scale * layer.b))
    return tuple(
        LoraLayer(name, torch.cat([a for a, _ in both]), torch.cat([b for _, b in both], dim=1), scale=1.0)
        for name, both in parts.items()
    )


def write_layers(layers: tuple[LoraLayer, ...], folder: Path) -> None:
    """Write an adapter folder in PEFT's form whose layers all have one rank, the greatest, and the scale 1."""
    import torch
    from safetensors.torch import save_file

    rank = max(layer.rank for layer in layers)
    weights: dict[str, torch.Tensor] = {}
    for layer in layers:
        name = f"base_model.model.{layer.name.removesuffix('.weight')}"
        missing = rank - layer.rank
        weights[f"{name}.lora_A.weight"] = torch.nn.functional.pad(layer.a, (0, 0, 0, missing)).contiguous()
        weights[f"{name}.lora_B.weight"] = torch.nn.functional.pad(layer.scale * layer.b, (0, missing)).contiguous()
    config = {
        "base_model_name_or_path": None, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "lora_alpha": rank, "lora_dropout": 0.0, "peft_type": "LORA", "r": rank, "task_type": "CAUSAL_LM",
        "target_modules": sorted({layer.name.removesuffix(".weight").rpartition(".")[2] for layer in layers}),
    }  # fmt: skip
    folder.mkdir(parents=True)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_template(wanted: Trained, engine: Path) -> None:
    """Compare with what the engine's own model was trained with; the engine itself is checked when it is loaded."""
    found = next(iter((engine / ENGINE_FOLDER).rglob(TEMPLATE)), None)
    trained = wanted.record.get("template")
    if trained is None or found is None:
        return
    asked = json.loads(found.read_text(encoding="utf-8"))
    if asked != trained:
        raise ArtifactError(
            f"{wanted.name}: trained with another chat template or prompt than this engine is asked with",
            "train it again with this ragray and the engine's base model",
        )

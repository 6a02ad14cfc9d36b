"""LoRA's matrix update in figures: how large it is, how many directions it uses, and where they point.

In: an adapter and the base model's weights, read one at a time. Out: a `LayerUpdate` for each adapted weight. BA is
never made whole for its singular values: they follow from the QR factors of A and B, which are thin.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ragray.errors import ArtifactError, EngineError
from ragray.train.adapter import Adapter, LoraLayer, read_adapter

ENERGY = 0.9  # share of the squared singular values that `energy_rank` keeps
_EXACT_UP_TO = 1024  # of the shorter side; the top of larger matrices is found by random projections
_OVERSAMPLED, _POWER_STEPS = 16, 4
_SAME = 1e-6  # of the largest weight, between our sum and PEFT's

ReadWeight = Callable[[str], torch.Tensor]


@dataclass(frozen=True, slots=True)
class LayerUpdate:
    """The update of one weight W [out, in]; sizes are of the scaled BA, angles in degrees.

    `angles` are the principal angles between the row space of A and as many of W's top right singular vectors, the
    smallest first; `random_angle` is the root-mean-square cosine of a random subspace, as an angle.
    """

    layer: int | None  # number of its block; None outside the blocks
    module: str
    shape: tuple[int, int]
    rank: int
    scale: float
    weight_norm: float  # Frobenius
    weight_spectral: float
    update_norm: float
    update_spectral: float
    singular_values: tuple[float, ...]
    effective_rank: float
    energy_rank: int
    angles: tuple[float, ...]
    random_angle: float
    merge_error: float  # max |PEFT's merge in float32 - the law|
    cast_loss: float | None  # share of the update lost if the sum is rounded to the base's own format; None: float32
    length_change: float | None  # DoRA: mean |trained length / row's length - 1|

    @property
    def relative(self) -> float:
        """Frobenius norm of the update over that of W."""
        return self.update_norm / self.weight_norm

    @property
    def mean_angle(self) -> float:
        """The angle of the root-mean-square cosine, to hold against `random_angle`."""
        return _angle_of([math.cos(math.radians(angle)) for angle in self.angles]) if self.angles else 90.0

    def tree(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "relative": self.relative, "mean_angle": self.mean_angle}


def singular_values(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The singular values of BA, float64 [r], largest first.

    With B = Qb Rb and A' = Qa Ra, BA = Qb (Rb Ra') Qa' and the r x r matrix in the middle has the same ones.

    Args:
        a: [r, in].
        b: [out, r].
    """
    right, left = torch.linalg.qr(a.double().T, mode="r").R, torch.linalg.qr(b.double(), mode="r").R
    values: torch.Tensor = torch.linalg.svdvals(left @ right.T)
    return values


def effective_rank(values: torch.Tensor) -> float:
    """exp of the entropy of the singular values as shares of their sum; 0 for a zero matrix.

    Source: Roy and Vetterli 2007, "The effective rank: A measure of effective dimensionality", definition 1.
    """
    total = float(values.sum())
    if total == 0.0:
        return 0.0
    shares = (values / total)[values > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def energy_rank(values: torch.Tensor, share: float = ENERGY) -> int:
    """The fewest singular values whose squares sum to `share` of all squares; 0 for a zero matrix."""
    energy = values.square().cumsum(0)
    if not len(values) or float(energy[-1]) == 0.0:
        return 0
    return min(int((energy < share * energy[-1] * (1 - 1e-12)).sum()) + 1, len(values))


def row_space(a: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of A's rows, float64 [in, d]; d is A's rank."""
    _, values, right = torch.linalg.svd(a.double(), full_matrices=False)
    kept = values > values.max() * max(a.shape) * torch.finfo(torch.float32).eps
    basis: torch.Tensor = right[kept].T
    return basis


def top_right_vectors(weight: torch.Tensor, count: int) -> tuple[torch.Tensor, float]:
    """W's top right singular vectors, float64 [in, count], and its largest singular value.

    Exact where the shorter side is at most 1024. Above, by random projections from a fixed seed with four power
    steps. Source: Halko, Martinsson and Tropp 2011, "Finding structure with randomness", algorithm 4.4.
    """
    weight = weight.double()
    if min(weight.shape) <= _EXACT_UP_TO:
        _, values, right = torch.linalg.svd(weight, full_matrices=False)
        return right[:count].T, float(values[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = min(count + _OVERSAMPLED, min(weight.shape))
        _, values, columns = torch.svd_lowrank(weight.float(), q=size, niter=_POWER_STEPS)
    return columns[:, :count].double(), float(values[0])


def principal_angles(first: torch.Tensor, second: torch.Tensor) -> list[float]:
    """The angles between two subspaces in degrees, smallest first.

    The cosines are the singular values of Q1' Q2. Source: Björck and Golub 1973, "Numerical methods for computing
    angles between linear subspaces", theorem 1. Angles below 1e-6 degrees read as about that.

    Args:
        first: an orthonormal basis, [in, d].
        second: another, [in, d].
    """
    cosines = torch.linalg.svdvals(first.T @ second).clamp(max=1.0)
    return [math.degrees(math.acos(float(cosine))) for cosine in cosines]


def change(before: LoraLayer, after: LoraLayer) -> float:
    """Frobenius norm of the difference of two updates, from their thin factors side by side."""
    b = torch.cat([after.scale * after.b, -before.scale * before.b], dim=1)
    return float(torch.linalg.vector_norm(singular_values(torch.cat([after.a, before.a]), b)))


def inspect_update(layer: LoraLayer, stored: torch.Tensor) -> LayerUpdate:
    """All figures of one layer's update.

    Args:
        layer: of the adapter.
        stored: W as the base model's file has it.

    Raises:
        ArtifactError: the shapes do not fit.
        EngineError: merging by PEFT in float32 is not what the law says.
    """
    weight = stored.float()
    if weight.shape != (layer.b.shape[0], layer.a.shape[1]):
        raise ArtifactError(f"{layer.name}: the adapter does not fit this base model", "name the right base model")
    values = layer.scale * singular_values(layer.a, layer.b)
    basis = row_space(layer.a)
    top, spectral = top_right_vectors(weight, basis.shape[1])
    lengths = torch.linalg.vector_norm(weight, dim=1)
    block, module = _place(layer.name)
    return LayerUpdate(
        layer=block,
        module=module,
        shape=(weight.shape[0], weight.shape[1]),
        rank=layer.rank,
        scale=layer.scale,
        weight_norm=float(torch.linalg.vector_norm(weight)),
        weight_spectral=spectral,
        update_norm=float(torch.linalg.vector_norm(values)),
        update_spectral=float(values[0]),
        singular_values=tuple(values.tolist()),
        effective_rank=effective_rank(values),
        energy_rank=energy_rank(values),
        angles=tuple(principal_angles(basis, top)),
        random_angle=math.degrees(math.acos(math.sqrt(min(1.0, basis.shape[1] / weight.shape[1])))),
        merge_error=_merge_error(layer, weight),
        cast_loss=_cast_loss(layer, weight, stored.dtype),
        length_change=None if layer.magnitude is None else float((layer.magnitude / lengths - 1).abs().mean()),
    )


def inspect_adapter(adapter: Adapter, read_weight: ReadWeight) -> Iterator[LayerUpdate]:
    """The figures of all layers, one weight in memory at a time."""
    for layer in adapter.layers:
        yield inspect_update(layer, read_weight(layer.name))


@dataclass(frozen=True, slots=True)
class StepChange:
    """The updates of one checkpoint: means over the layers of each module."""

    step: int
    module: str
    update_norm: float
    effective_rank: float
    change: float | None  # Frobenius norm of the difference to the checkpoint before, over that of this update


def changes(folder: Path) -> list[StepChange]:
    """How the updates changed over the checkpoints `step-*/adapter` of a folder.

    Raises:
        ArtifactError: there is none.
    """
    steps = sorted(path for path in folder.glob("step-*") if (path / "adapter").is_dir())
    if not steps:
        raise ArtifactError(
            f"{folder}: holds no checkpoint (step-*/adapter)",
            "name the folder `checkpoints` of a run, raise train.keep_checkpoints to keep more of them",
        )
    found: list[StepChange] = []
    before: dict[str, LoraLayer] = {}
    for path in steps:
        layers = {layer.name: layer for layer in read_adapter(path / "adapter").layers}
        found += _changes_at(int(path.name.removeprefix("step-")), before, layers)
        before = layers
    return found


def _changes_at(step: int, before: dict[str, LoraLayer], layers: dict[str, LoraLayer]) -> list[StepChange]:
    by_module: dict[str, list[tuple[float, float, float | None]]] = {}
    for name, layer in layers.items():
        values = layer.scale * singular_values(layer.a, layer.b)
        norm = float(torch.linalg.vector_norm(values))
        moved = change(before[name], layer) / norm if name in before and norm > 0 else None
        by_module.setdefault(_place(name)[1], []).append((norm, effective_rank(values), moved))
    return [
        StepChange(step, module, _mean([f[0] for f in figures]), _mean([f[1] for f in figures]), _moved(figures))
        for module, figures in sorted(by_module.items())
    ]


def _moved(figures: Sequence[tuple[float, float, float | None]]) -> float | None:
    known = [moved for _, _, moved in figures if moved is not None]
    return _mean(known) if known else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def weight_reader(folder: Path) -> ReadWeight:
    """A function that reads one weight of a model's folder by name, as it is stored.

    Raises:
        ArtifactError: (the function) the model has no such weight.
    """
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    else:
        files = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as opened:
                files.update(dict.fromkeys(opened.keys(), path.name))

    def read(name: str) -> torch.Tensor:
        if name not in files:
            raise ArtifactError(
                f"{folder}: has no weight {name}", "name the base model that the adapter was trained on"
            )
        with safe_open(folder / files[name], framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor

    return read


def _merge_error(layer: LoraLayer, weight: torch.Tensor) -> float:
    """PEFT's own merge of this one layer in float32, before any cast, against the law."""
    import peft

    config = peft.LoraConfig(
        r=layer.rank, lora_alpha=1, target_modules=["linear"], use_dora=layer.magnitude is not None
    )
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    holder: Any = torch.nn.ModuleDict({"linear": linear})
    with torch.no_grad():
        linear.weight.copy_(weight)
        tuned = peft.inject_adapter_in_model(config, holder)["linear"]
        tuned.lora_A["default"].weight.copy_(layer.a)
        tuned.lora_B["default"].weight.copy_(layer.b)
        if layer.magnitude is not None:
            tuned.lora_magnitude_vector["default"].weight.copy_(layer.magnitude)
    tuned.scaling["default"] = layer.scale
    tuned.merge(safe_merge=True)
    error = float((tuned.get_base_layer().weight - layer.merged(weight)).abs().max())
    if not error <= _SAME * float(weight.abs().max()):
        raise EngineError(f"{layer.name}: PEFT's merge differs from W + BA by {error:.2e}", "report this as a defect")
    return error


def _cast_loss(layer: LoraLayer, weight: torch.Tensor, dtype: torch.dtype) -> float | None:
    """How much of the update is lost if W + BA is rounded to the format that W is stored in."""
    if dtype == torch.float32:
        return None
    merged = layer.merged(weight)
    update = torch.linalg.vector_norm(merged - weight)
    lost = torch.linalg.vector_norm(merged.to(dtype).float() - merged)
    return float(lost / update) if float(update) > 0 else 0.0


def _place(name: str) -> tuple[int | None, str]:
    """The number of the block, and the module's name, of a weight's name."""
    parts = name.removesuffix(".weight").split(".")
    numbers = [int(part) for part in parts if part.isdigit()]
    return (numbers[0] if numbers else None), parts[-1]


def _angle_of(cosines: Sequence[float]) -> float:
    return math.degrees(math.acos(min(1.0, math.sqrt(_mean([cosine**2 for cosine in cosines])))))

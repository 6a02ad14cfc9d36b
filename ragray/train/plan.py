"""The plan of a training before any work: what is trained, on what, in how much memory, in how many steps.

In: `TrainConfig` and a device. Out: a `Plan`, and an error for settings that cannot fit, which names the nearest that
do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ragray.config_train import Offload, TrainConfig
from ragray.errors import ConfigError
from ragray.train.attention import choose_attention
from ragray.train.device import AMPERE, Choice, Device
from ragray.train.hardware import check_variant, choose_precision, ready_settings
from ragray.train.loading import model_config
from ragray.train.losses import wrong_answers
from ragray.train.memory import Memory, ModelSize, gigabytes, memory_of, row_tokens, size_of_model
from ragray.train.zero_config import check_zero

ANSWER_SHARE = 0.25  # of a row's tokens; assumed where there are no examples


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to do, counted from examples."""

    examples: int
    steps: int
    tokens: int  # of the whole run, all epochs
    answer_tokens: int  # of right answers
    loss_tokens: int  # of wrong answers too, where the loss has them
    pairs: int  # sum of the squared lengths of all sequences, which attention's work grows with


@dataclass(frozen=True)
class Plan:
    """All that is known of a training before it starts."""

    settings: TrainConfig  # ready
    device: Device
    precision: Choice
    attention: Choice
    size: ModelSize
    memory: Memory  # of one worker under these settings
    on_node: int  # workers on one machine, which share its memory
    answer_share: float
    work: Work | None

    @property
    def sharing(self) -> int:
        """Workers that share the device's memory: a machine's, or a GPU's one."""
        return self.on_node if self.device.kind == "cpu" else 1

    @property
    def needed_bytes(self) -> int:
        """Of the device, all its workers together."""
        return self.memory.total * self.sharing

    @property
    def host_bytes(self) -> int:
        """Of the machine that GPUs are in, all its workers together."""
        return self.memory.host * self.on_node

    @property
    def host_fits(self) -> bool:
        """Whether that machine has as much, as far as is known."""
        return self.device.host_bytes is None or self.host_bytes <= self.device.host_bytes

    @property
    def fits(self) -> bool:
        """Whether device and machine have that much."""
        return self.needed_bytes <= self.device.memory_bytes and self.host_fits

    @property
    def flops(self) -> float | None:
        """Model FLOPs of the whole run, DPO's second forward pass with them; None where they are not known."""
        if self.work is None or self.size.work is None:
            return None
        return self.size.work.flops_of(self.work.tokens, self.work.loss_tokens, self.work.pairs)

    @property
    def row_tokens(self) -> int:
        """The longest row: an example that is longer than a row has one to itself."""
        return row_tokens(self.settings)

    def stages(self) -> dict[int, dict[int, Memory]]:
        """What one worker needs, by ZeRO stage and number of workers: one, those configured, and twice as many."""
        numbers = sorted({1, self.settings.most_workers, 2 * self.settings.most_workers})
        return {
            stage: {n: memory_of(self.size, self.settings, self.device, stage, n, self.answer_share) for n in numbers}
            for stage in range(4)
        }

    def tree(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "architecture": self.size.architecture,
            "device": asdict(self.device),
            "precision": asdict(self.precision),
            "attention": asdict(self.attention),
            "size": asdict(self.size),
            "memory": self.memory.tree(),
            "needed_bytes": self.needed_bytes,
            "host_bytes": self.host_bytes,
            "flops": self.flops,
            "fits": self.fits,
            "answer_share": self.answer_share,
            "stages": {s: {n: m.tree() for n, m in row.items()} for s, row in self.stages().items()},
            "work": None if self.work is None else asdict(self.work),
        }


def make_plan(settings: TrainConfig, folder: Path, device: Device, work: Work | None = None) -> Plan:
    """Plan a training, on one machine.

    Args:
        settings: as the user wrote them.
        folder: of the base model.
        device: what its workers compute on.
        work: counted from examples, where they are at hand.

    Raises:
        ConfigError: an attention that is named does not fit the device or the model.
    """
    precision = choose_precision(settings, device)
    ready = ready_settings(settings, folder, lambda: device)
    needy = ready.most_workers if device.kind == "cpu" else ready.least_workers  # a CPU's workers share its memory
    ready = ready.model_copy(update={"num_workers": needy})
    share = work.loss_tokens / work.tokens if work else ANSWER_SHARE
    asked = ready.model_copy(update={"attention": settings.attention})
    size = size_of_model(folder, ready)
    return Plan(
        settings=ready,
        device=device,
        precision=precision,
        attention=choose_attention(asked, device, lambda: model_config(folder)),
        size=size,
        memory=_memory(size, ready, device, share),
        on_node=_on_node(ready, 1),
        answer_share=share,
        work=work,
    )


def _memory(size: ModelSize, ready: TrainConfig, device: Device, share: float) -> Memory:
    return memory_of(size, ready, device, ready.zero_stage, ready.most_workers, share)


def _on_node(settings: TrainConfig, nodes: int) -> int:
    return math.ceil(settings.most_workers / nodes)


def check_fits(plan: Plan, folder: Path, nodes: int = 1) -> None:
    """Check that a plan fits its device.

    Args:
        plan: of the training.
        folder: of the base model.
        nodes: machines that the workers are spread over.

    Raises:
        ConfigError: it does not; the message has the nearest settings that do.
    """
    plan = replace(plan, on_node=_on_node(plan.settings, nodes))
    if plan.fits:
        return
    found = nearest_fitting(plan, folder, nodes)
    needed = f"train: the plan needs {gigabytes(plan.needed_bytes)} of {device_memory(plan.device)}"
    if plan.device.host_bytes is not None and not plan.host_fits:
        needed += f", and {gigabytes(plan.host_bytes)} of its machine's {gigabytes(plan.device.host_bytes)}"
    if found is None:
        raise ConfigError(needed, "no setting makes it fit: choose a smaller base model, or a device with more memory")
    changes, smaller = found
    sets = " ".join(f"--set train.{name}={_shown(value)}" for name, value in changes.items())
    raise ConfigError(
        needed,
        f"the nearest that fits, in {gigabytes(smaller.needed_bytes)}: {sets}; `ragray inspect model` has all parts",
    )


def nearest_fitting(plan: Plan, folder: Path, nodes: int = 1) -> tuple[dict[str, Any], Plan] | None:
    """The settings to change so that the plan fits, and its plan; None where nothing helps.

    The fewest changes first, and among as many those first that leave the result the same: smaller rows, gradient
    checkpointing, a higher ZeRO stage, offload, then bf16, fewer workers on a machine, int8 and NF4 of the base.
    """
    options = list(_options(plan))
    sizes: dict[str, ModelSize] = {plan.settings.precision: plan.size}
    for count in range(1, len(options) + 1):
        for group in itertools.combinations(options, count):
            for values in itertools.product(*(values for _, values in group)):
                changes = {name: value for (name, _), value in zip(group, values, strict=True)}
                settings = plan.settings.model_copy(update=changes)
                if not _go_together(settings):
                    continue
                if settings.precision not in sizes:
                    sizes[settings.precision] = size_of_model(folder, settings)
                size = sizes[settings.precision]
                memory = _memory(size, settings, plan.device, plan.answer_share)
                smaller = replace(plan, settings=settings, size=size, memory=memory, on_node=_on_node(settings, nodes))
                if smaller.fits:
                    return changes, smaller
    return None


def _options(plan: Plan) -> Iterator[tuple[str, list[Any]]]:
    """Settings that save memory, and their values, the gentlest first; some alone do not go with the others."""
    settings, device = plan.settings, plan.device
    if not settings.gradient_checkpointing:
        yield "gradient_checkpointing", [True]
    rows = settings.tokens_per_micro_batch
    halved = [rows >> n for n in range(1, 12) if rows >> n > settings.max_length]
    if rows > settings.max_length:
        yield "tokens_per_micro_batch", [*halved, settings.max_length]
    if (settings.most_workers > 1 or device.kind == "cuda") and settings.zero_stage < 3:
        yield "zero_stage", list(range(settings.zero_stage + 1, 4))
    if device.kind == "cuda":
        yield "offload", [value for value in get_args(Offload) if value != settings.offload]
    if settings.precision == "fp32" and device.capability is not None and device.capability >= AMPERE:
        yield "precision", ["bf16"]
    if plan.sharing > 1:
        yield "num_workers", list(range(settings.most_workers - 1, 0, -1))
    if settings.quantization != "nf4" and settings.zero_stage < 3:
        yield "quantization", ["int8", "nf4"] if settings.quantization == "none" else ["nf4"]


def _go_together(settings: TrainConfig) -> bool:
    try:
        check_variant(settings)
        check_zero(settings)
    except ConfigError:
        return False
    return True


def count_work(examples_file: Path, folder: Path, settings: TrainConfig, seed: int) -> Work:
    """Steps and tokens of a whole run, from its examples.

    Raises:
        DataError: no example to train on.
    """
    from ragray.train.packing import DataOrder
    from ragray.train.stored_examples import stored_in_memory
    from ragray.train.token_store import TokenSource

    source = TokenSource(examples_file, folder, settings.max_length, wrong_answers(settings.loss))
    examples, _ = stored_in_memory(source)
    order = DataOrder(examples.ids, seed, settings.global_batch_examples, settings.epochs, settings.max_steps)
    passes = order.total_examples / len(examples)
    return Work(
        examples=len(examples),
        steps=order.total_steps,
        tokens=round(passes * int(examples.lengths.sum())),
        answer_tokens=round(passes * int(examples.answer_tokens.sum())),
        loss_tokens=round(passes * int(examples.loss_tokens.sum())),
        pairs=round(passes * float(examples.pairs.sum())),
    )


def device_memory(device: Device) -> str:
    """How much memory a device has, in words."""
    return f"the {gigabytes(device.memory_bytes)} of {'this machine' if device.kind == 'cpu' else device.name}"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

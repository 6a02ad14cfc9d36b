"""`ragray inspect model`: the plan of a training in words, or as a tree for JSON.

In: a configuration, perhaps examples, perhaps a number of steps to measure. Out: `Inspection`, and its lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ragray.config import RunConfig
from ragray.train.device import this_device
from ragray.train.hardware import check_variant
from ragray.train.loading import load_tokenizer, model_folder
from ragray.train.measure import Pace, measure
from ragray.train.memory import gigabytes
from ragray.train.plan import Plan, count_work, device_memory, make_plan
from ragray.train.template import template_digests
from ragray.train.zero_config import check_zero


@dataclass(frozen=True)
class Inspection:
    """What is known of a training before it starts."""

    plan: Plan
    chat_template: str  # SHA-256
    pace: Pace | None

    @property
    def seconds(self) -> float | None:
        """How long all steps take, where a pace was measured and the examples were counted."""
        if self.pace is None or self.plan.work is None:
            return None
        return self.pace.seconds_for(self.plan.work.tokens, self.plan.settings.most_workers)

    def tree(self) -> dict[str, Any]:
        """For JSON."""
        pace = self.pace and {**asdict(self.pace), "tokens_per_s": self.pace.tokens_per_s}
        return {**self.plan.tree(), "chat_template": self.chat_template, "pace": pace, "seconds": self.seconds}


def inspect_model(config: RunConfig, examples: Path | None, measured_steps: int | None) -> Inspection:
    """Plan a training on this machine, and measure its pace where that is asked for.

    Raises:
        RagrayError: the model cannot be trained so: what training would raise.
    """
    check_variant(config.train)
    check_zero(config.train)
    folder = model_folder(config.train.base_model).resolve()
    template = template_digests(load_tokenizer(folder))["chat_template"]
    work = count_work(examples, folder, config.train, config.seed) if examples else None
    plan = make_plan(config.train, folder, this_device(config.train.use_gpu), work)
    pace = measure(plan.settings, folder, measured_steps) if measured_steps is not None else None
    return Inspection(plan, template, pace)


def lines(found: Inspection) -> Iterator[str]:
    """The inspection in words."""
    plan = found.plan
    settings, size, device = plan.settings, plan.size, plan.device
    variant = ("rs" if settings.lora.use_rslora else "") + ("DoRA" if settings.lora.method == "dora" else "LoRA")
    yield f"model      {size.architecture}, {size.parameters:,} parameters, {size.blocks} blocks"
    yield f"template   sha256 {found.chat_template[:12]}; serving is held to it"
    yield f"device     {device.kind} {device.name}, {gigabytes(device.memory_bytes)}"
    yield f"precision  {plan.precision.value}: {plan.precision.reason}"
    yield f"attention  {plan.attention.value}: {plan.attention.reason}"
    yield f"base       {'not quantized' if settings.quantization == 'none' else settings.quantization}"
    yield f"adapter    {variant}, rank {settings.lora.rank}: {size.trainable:,} trainable parameters"
    share = "counted" if plan.work else "assumed"
    yield f"rows       {plan.row_tokens:,} tokens, {plan.answer_share:.0%} with loss ({share})"
    yield from _work_lines(found)
    yield ""
    yield from _memory_lines(plan)


def _work_lines(found: Inspection) -> Iterator[str]:
    work, pace = found.plan.work, found.pace
    if work is None:
        yield "work       unknown: name examples.parquet of `ragray augment` by --examples"
    else:
        yield f"work       {work.examples:,} examples, {work.steps:,} steps, {work.tokens:,} tokens"
    if found.plan.flops is not None:
        yield f"compute    {found.plan.flops:.3g} FLOPs of the model"
    if pace is None:
        yield "time       unknown: --measure N runs N real steps"
        return
    yield (
        f"pace       {pace.seconds_per_step:.3f} s a step of {pace.tokens_per_step:,.0f} tokens, "
        f"{pace.tokens_per_s:,.0f} tokens/s of one worker (median of {pace.steps})"
    )
    if found.seconds is not None:
        yield f"time       {timedelta(seconds=round(found.seconds))}, without starting, validating and saving"


def _memory_lines(plan: Plan) -> Iterator[str]:
    yield f"{'memory of a worker':<22}" + "".join(f"{name:>13}" for name in plan.memory.tree())
    for stage, by_number in plan.stages().items():
        for number, memory in by_number.items():
            here = stage == plan.settings.zero_stage and number == plan.settings.most_workers
            name = f"{'>' if here else ' '} ZeRO-{stage}, {number} worker{'s' if number > 1 else ''}"
            yield f"{name:<22}" + "".join(f"{gigabytes(value):>13}" for value in memory.tree().values())
    together = f" for {plan.sharing} workers together" if plan.sharing > 1 else ""
    verdict = "fits" if plan.fits else "does NOT fit"
    if plan.host_bytes:
        yield f"offload    {gigabytes(plan.host_bytes)} of the machine's memory for {plan.on_node} of its workers"
    yield f"needs {gigabytes(plan.needed_bytes)}{together}: {verdict} {device_memory(plan.device)}"

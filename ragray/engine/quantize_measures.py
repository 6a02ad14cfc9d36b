"""What a quantized model costs and what it lost, measured on what lies on disk.

In: a `Request` whose folder is filled. Out: `Measured`. The model answers the test questions first, alone in its
process, so that times and memory are its own; the full model is loaded for the comparison after that.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ragray.engine.process_memory import peak_bytes, resident_bytes
from ragray.engine.quantize_protocol import HeldOut, LocalMethod, Measured, Reply, Request, Scorer

if TYPE_CHECKING:
    import numpy.typing as npt

    from ragray.engine.protocol import Engine


@dataclass
class Divergence:
    """Sums over positions, from which the comparison of two models follows."""

    positions: int = 0
    kl: float = 0.0
    same: int = 0
    answer_tokens: int = 0
    log_likelihood: float = 0.0  # of the answers' tokens by the quantized model, nats
    full_log_likelihood: float = 0.0

    def add(self, example: HeldOut, full: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> None:
        """Count one held-out example.

        Args:
            example: prompt and answer.
            full: log probabilities of the next token by the full model, float32 [tokens, vocabulary].
            found: those by the quantized model.
        """
        p, q = full.astype(np.float64), found.astype(np.float64)
        self.positions += len(p)
        self.kl += float((np.exp(p) * (p - q)).sum())
        self.same += int((p.argmax(-1) == q.argmax(-1)).sum())
        told_at = np.arange(example.answer_start - 1, len(example.token_ids) - 1)
        told = np.asarray(example.token_ids[example.answer_start :])
        self.answer_tokens += len(told)
        self.log_likelihood += float(q[told_at, told].sum())
        self.full_log_likelihood += float(p[told_at, told].sum())

    @property
    def kl_nats(self) -> float:
        """Mean KL(full || quantized) over all positions."""
        return self.kl / self.positions

    @property
    def agreement(self) -> float:
        """Share of positions with the same most probable next token."""
        return self.same / self.positions

    @property
    def perplexity(self) -> float:
        """Of the quantized model on the answers' tokens: exp(-mean log likelihood)."""
        return _perplexity(self.log_likelihood, self.answer_tokens)

    @property
    def full_perplexity(self) -> float:
        """Of the full model on the same tokens."""
        return _perplexity(self.full_log_likelihood, self.answer_tokens)


def compare(examples: Iterable[HeldOut], full: Scorer, found: Scorer) -> Divergence:
    """Read both models' predictions of all examples, one example at a time."""
    total = Divergence()
    for example in examples:
        wanted = full(example.token_ids)
        total.add(example, wanted, wanted if found is full else found(example.token_ids))
    return total


def measure(method: LocalMethod, request: Request, full: LocalMethod) -> Measured:
    """Load what a method wrote, let it answer, and compare it with the full model.

    Args:
        method: wrote `request.out`.
        request: with at least one held-out example.
        full: loads `request.model`.

    Raises:
        EngineError: what was written cannot be loaded.
    """
    _warm_up()
    before = resident_bytes()
    started = time.perf_counter()
    engine = method.load(request)
    load_s = time.perf_counter() - started
    resident = resident_bytes()
    answers, generate_s = _answer(engine, request)
    peak = peak_bytes()
    scorer = method.scorer(request, engine)
    itself = method.name == full.name
    reference = engine if itself else full.load(replace(request, out=request.model))
    try:
        expected = scorer if itself else full.scorer(request, reference)
        found = compare(request.material.held_out, expected, scorer)
    finally:
        engine.close()
        reference.close()
    return Measured(
        positions=found.positions,
        kl_nats=found.kl_nats,
        argmax_agreement=found.agreement,
        perplexity=found.perplexity,
        full_perplexity=found.full_perplexity,
        answers=answers,
        load_s=load_s,
        memory_bytes=max(resident - before, 0),
        peak_memory_bytes=max(peak - before, 0),
        generate_s=generate_s,
    )


def _answer(engine: Engine, request: Request) -> tuple[tuple[Reply, ...], float]:
    from ragray.engine.protocol import SamplingParams

    prompts: Sequence[Sequence[int]] = request.material.prompts
    started = time.perf_counter()
    found = (
        engine.generate(prompts, SamplingParams(max_new_tokens=request.max_new_tokens, stop_repeats=True))
        if prompts
        else []
    )
    seconds = time.perf_counter() - started
    return tuple(Reply(each.token_ids, "stop" if each.finish_reason == "stop" else "length") for each in found), seconds


def _warm_up() -> None:
    """Import what loading would import, so that libraries do not count as the model's memory."""
    import torch
    import transformers  # noqa: F401

    gc.collect()
    torch.zeros(8, 8) @ torch.zeros(8, 8)


def _perplexity(log_likelihood: float, tokens: int) -> float:
    return math.exp(min(-log_likelihood / tokens, 700.0)) if tokens else math.nan

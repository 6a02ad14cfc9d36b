"""Which quantized model may take the full model's place: one that answers about as well, and costs least.

In: what each model costs, and its answers' scores on the same questions. Out: a `Decision` with a reason for every
model; and the Pareto front, the models that no other one beats in both cost and quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragray.config_quantize import GateConfig
from ragray.evaluation.significance import Difference, Resampling


@dataclass(frozen=True)
class Candidate:
    """A model at the gate."""

    name: str
    bytes: int
    tokens_per_second: float | None  # None: not measured
    kl_nats: float  # from the full model, on held-out prompts
    values: tuple[float, ...]  # of the gate's metric, one for each question that it counts


@dataclass(frozen=True)
class Verdict:
    """Whether a model passed, and why."""

    name: str
    passed: bool
    reason: str
    difference: Difference | None  # of the metric, model - full; None where no question counts


@dataclass(frozen=True)
class Decision:
    """What the gate said."""

    chosen: str | None  # None: the full model stays
    reason: str
    verdicts: tuple[Verdict, ...]


def decide(full: Candidate, candidates: Sequence[Candidate], settings: GateConfig, resampling: Resampling) -> Decision:
    """Let those pass whose answers stay within the allowed drop, and choose the cheapest of them.

    Args:
        full: the model that is compared against.
        candidates: with values for the same questions in the same order.
        settings: metric, allowed drop, preference.
        resampling: of the paired comparison.
    """
    verdicts = tuple(_verdict(full, candidate, settings, resampling) for candidate in candidates)
    passed = [c for c, verdict in zip(candidates, verdicts, strict=True) if verdict.passed]
    if not passed:
        return Decision(None, f"none of {len(verdicts)} models passed: the full model stays", verdicts)
    best = min(passed, key=lambda candidate: _cost(candidate, settings))
    return Decision(best.name, _praise(best, len(passed), settings), verdicts)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """The names of the points that no other one beats, sorted by cost.

    Args:
        points: name -> (cost, quality); a point is beaten by one that is no worse in both and better in one.
    """
    front = [
        name
        for name, (cost, quality) in points.items()
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points.values())
    ]
    return tuple(sorted(front, key=lambda name: (points[name], name)))


def _verdict(full: Candidate, candidate: Candidate, settings: GateConfig, resampling: Resampling) -> Verdict:
    gap = None
    if full.values:
        gap = resampling.compare(candidate.values, full.values, f"{candidate.name}-{full.name}.{settings.metric}")
    passed, reason = _judged(candidate, gap, settings)
    return Verdict(candidate.name, passed, reason, gap)


def _judged(candidate: Candidate, gap: Difference | None, settings: GateConfig) -> tuple[bool, str]:
    if not candidate.kl_nats <= settings.max_kl_nats:
        return False, (
            f"damaged: {candidate.kl_nats:.3f} nats from the full model, at most {settings.max_kl_nats:g} allowed"
        )
    if settings.prefer == "fastest" and candidate.tokens_per_second is None:
        return False, "its speed was not measured"
    if gap is None:
        return False, "no question can be scored"
    lowest = gap.mean if settings.drop == "mean" else gap.low
    what = settings.metric if settings.drop == "mean" else f"the low end of {settings.metric}'s interval"
    told = f"{what} {lowest:+.3f}, p = {gap.p_value:.3f} on {gap.n} questions; allowed -{settings.max_drop:g}"
    return lowest >= -settings.max_drop - 1e-12, told


def _cost(candidate: Candidate, settings: GateConfig) -> tuple[float, float, str]:
    """What is least for the best; of equal ones the one that is nearer to the full model."""
    cost = float(candidate.bytes) if settings.prefer == "smallest" else -(candidate.tokens_per_second or 0.0)
    return cost, candidate.kl_nats, candidate.name


def _praise(best: Candidate, passed: int, settings: GateConfig) -> str:
    figure = f"{best.bytes / 1e6:.1f} MB" if settings.prefer == "smallest" else f"{best.tokens_per_second:.1f} tokens/s"
    return (
        f"{best.name} is the {settings.prefer} ({figure}) of {passed} that keep {settings.metric} within "
        f"{settings.max_drop:g} of the full model's"
    )

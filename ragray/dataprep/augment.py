"""Variants of questions: what else people might type to ask the same.

In: records, candidates for each (made by rules, or written by a model), and what a variant must not collide with.
Out: variants as records of the same answer, group and split, each with the method that made it, and the refusals by
reason. A record's variants depend on (seed, record id) and on the checks alone, not on other records' order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import pyarrow as pa

from ragray.dataprep.dedup import normalized
from ragray.dataprep.methods import LANGUAGES, REWORDINGS, RULES, SLIPS
from ragray.schema import EvalQuestion, QARecord, stable_digest

REFUSED = pa.schema({"parent": pa.string(), "question": pa.string(), "method": pa.string(), "reason": pa.string()})

_COMBINED_SHARE = 0.5  # of variants that two methods make one after the other
_COMBINED_WITH = ("synonyms", "dropped_words", "colloquial")  # second methods that keep the first's effect; and a slip
_ROUNDS = 3  # of all methods before giving up
_ENDINGS = "。.？?！!；; "

Candidate = tuple[str, str]  # a question, and the method that made it
Passes = Callable[[Sequence[QARecord]], Sequence[bool]]  # whether each of some variants passes a check


@dataclass(frozen=True, slots=True)
class Refused:
    """A candidate that was not kept, in words that differ from its question's."""

    parent: str
    question: str
    method: str
    reason: str


@dataclass
class Variants:
    """Variants that were kept, and why others were refused: all counted, and listed unless nothing was changed."""

    records: list[QARecord] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    listed: list[Refused] = field(default_factory=list)

    def add(self, other: Variants) -> None:
        """Take over another's variants and refusals."""
        self.records += other.records
        self.refused += other.refused
        self.listed += other.listed


@dataclass(frozen=True)
class Checks:
    """What a variant must pass.

    `owners` is from `owners_of_questions`. `min_edit_distance` is the least share of characters that must differ.
    `together` are checks made of many variants at once, by the reason of those that do not pass.
    """

    owners: Mapping[str, str] = field(default_factory=dict)
    min_edit_distance: float = 0.0
    together: Mapping[str, Passes] = field(default_factory=dict)


@dataclass
class Asked:
    """A record with the candidates for its variants; at most `count` are kept, named `{id}{mark}{n}`."""

    record: QARecord
    count: int
    candidates: Iterator[Candidate]
    mark: str = "~"
    taken: set[str] = field(default_factory=set)  # the `form` of those kept before
    kept: list[QARecord] = field(default_factory=list)


def owners_of_questions(records: Sequence[QARecord], held_out: Sequence[EvalQuestion]) -> dict[str, str]:
    """The group that each normalized question belongs to; "" for held-out questions, which belong to no group."""
    owners = {normalized(record.question): record.group for record in records}
    return owners | {normalized(question.question): "" for question in held_out}


def form(question: str) -> str:
    """In what two variants must differ: letter case, spaces and final marks aside, but not the width of letters."""
    return " ".join(question.casefold().split()).rstrip(_ENDINGS)


def rule_candidates(record: QARecord, methods: Sequence[str], seed: int) -> Iterator[Candidate]:
    """What the rules make of a record's question, in an order that depends on seed and record id."""
    chance = Random(stable_digest(seed, "variants", record.id))
    for method in _method_order(methods, chance):
        yield _reword(record.question, method, methods, record.lang, chance)


def make_variants(asked: Sequence[Asked], checks: Checks) -> Variants:
    """Keep of each record's candidates the first that pass all checks.

    The answers of all records are searched together, round by round: where a candidate fails, its record's next one
    takes its place.
    """
    made = Variants()
    for each in asked:
        each.taken.add(form(each.record.question))
        if each.record.lang not in LANGUAGES:
            made.refused["language"] += each.count
    waiting = [each for each in asked if each.record.lang in LANGUAGES]
    while waiting:
        drawn = [(each, variant) for each in waiting for variant in _draw(each, checks, made)]
        reasons = _failures([variant for _, variant in drawn], checks)
        missed: dict[str, Asked] = {}
        for (each, variant), reason in zip(drawn, reasons, strict=True):
            if reason:
                _refuse(made, variant, reason)
                missed[each.record.id] = each
                continue
            number = len(each.kept) + 1
            each.kept.append(replace(variant, id=f"{each.record.id}{each.mark}{number}"))
        waiting = list(missed.values())
    made.records = [variant for each in asked for variant in each.kept]
    return made


def _draw(each: Asked, checks: Checks, made: Variants) -> list[QARecord]:
    """As many of a record's next candidates as are still wanted and pass the checks on their text."""
    drawn: list[QARecord] = []
    while len(each.kept) + len(drawn) < each.count:
        candidate = next(each.candidates, None)
        if candidate is None:
            break
        question, method = candidate
        variant = replace(each.record, question=question, parent=each.record.id, method=method)
        reason = _refusal(variant, each, checks)
        if reason:
            _refuse(made, variant, reason)
            continue
        each.taken.add(form(question))
        drawn.append(variant)
    return drawn


def _refusal(variant: QARecord, each: Asked, checks: Checks) -> str:
    """Why a variant is not wanted, or ""."""
    from rapidfuzz.distance import Levenshtein

    changed, original = form(variant.question), form(each.record.question)
    if not changed or changed == original:
        return "unchanged"
    if changed in each.taken:
        return "repeated"
    if Levenshtein.normalized_distance(changed, original) < checks.min_edit_distance:
        return "too_similar"
    owner = checks.owners.get(normalized(variant.question), each.record.group)
    if owner != each.record.group:
        return "other_question" if owner else "held_out_question"
    return ""


def _failures(variants: Sequence[QARecord], checks: Checks) -> list[str]:
    """For each variant the first check made together that it does not pass, or ""."""
    reasons = [""] * len(variants)
    for reason, passes in checks.together.items():
        left = [number for number, found in enumerate(reasons) if not found]
        for number, passed in zip(left, passes([variants[number] for number in left]), strict=True):
            reasons[number] = "" if passed else reason
    return reasons


def _refuse(made: Variants, variant: QARecord, reason: str) -> None:
    made.refused[reason] += 1
    if reason != "unchanged":
        made.listed.append(Refused(variant.parent, variant.question, variant.method, reason))


def _method_order(methods: Sequence[str], chance: Random) -> list[str]:
    """Rounds of all rewordings and one slip each, in random order; the rest of the slips stand at the end.

    Rewriting the whole pattern comes first: it changes most.
    """
    slips = [method for method in SLIPS if method in methods] * _ROUNDS
    chance.shuffle(slips)
    order: list[str] = []
    for _ in range(_ROUNDS):
        round_ = [method for method in REWORDINGS if method in methods] + slips[:1]
        slips = slips[1:]
        chance.shuffle(round_)
        order += round_
    if "pattern" in order:
        order.remove("pattern")
        order.insert(0, "pattern")
    return order + slips


def _reword(question: str, method: str, methods: Iterable[str], lang: str, chance: Random) -> Candidate:
    """The reworded question and the name of what was done to it."""
    changed = RULES[method][lang](question, chance)
    if changed == question or chance.random() >= _COMBINED_SHARE:
        return changed, method
    allowed = [name for name in methods if name != method]
    slips = [name for name in SLIPS if name in allowed and method not in SLIPS]
    seconds = [name for name in _COMBINED_WITH if name in allowed] + ([chance.choice(slips)] if slips else [])
    if not seconds:
        return changed, method
    second = chance.choice(seconds)
    again = RULES[second][lang](changed, chance)
    return (again, f"{method}+{second}") if again != changed else (changed, method)

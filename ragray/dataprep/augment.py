"""Variants of questions: what else people might type to ask the same.

In: a record, and all questions that a variant must not collide with. Out: variants as records of the same
answer, group and split, each with the method that made it, and the refusals counted by reason. The result
depends on (seed, record id) alone, not on other records' order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from types import ModuleType

from ragray.dataprep import wording_en, wording_zh
from ragray.dataprep.dedup import normalized
from ragray.schema import EvalQuestion, QARecord, stable_digest

METHODS = ("pattern", "synonyms", "politeness", "colloquial", "dropped_words", "word_order", "keywords", "typo")

_RULES: dict[str, ModuleType] = {"en": wording_en, "zh": wording_zh}
_COMBINED_SHARE = 0.5  # of variants that two methods make one after the other
_COMBINED_WITH = ("synonyms", "dropped_words", "colloquial", "typo")  # second methods that keep the first's effect
_ROUNDS = 3  # of all methods before giving up


@dataclass
class Variants:
    """Variants made so far, and why others were refused."""

    records: list[QARecord] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def owners_of_questions(records: Sequence[QARecord], held_out: Sequence[EvalQuestion]) -> dict[str, str]:
    """The group that each normalized question belongs to; "" for held-out questions, which belong to no group."""
    owners = {normalized(record.question): record.group for record in records}
    return owners | {normalized(question.question): "" for question in held_out}


def make_variants(record: QARecord, count: int, owners: Mapping[str, str], seed: int, into: Variants) -> None:
    """Add up to `count` variants of a record's question.

    Args:
        record: with its group and split.
        count: how many are wanted; fewer are made where the rules find no more.
        owners: from `owners_of_questions`; a variant that another group or a held-out question owns is refused.
        seed: of the run.
        into: where variants and refusals are added.
    """
    rules = _RULES.get(record.lang)
    if rules is None or not count:
        into.refused["language"] += count
        return
    chance = Random(stable_digest(seed, "variants", record.id))
    taken = {normalized(record.question)}
    made = 0
    for method in _method_order(chance):
        if made == count:
            return
        question, name = _reword(record.question, method, rules, chance)
        reason = _refusal(question, record, taken, owners)
        if reason:
            into.refused[reason] += 1
            continue
        made += 1
        taken.add(normalized(question))
        variant_id = f"{record.id}~{made}"
        into.records.append(replace(record, id=variant_id, question=question, parent=record.id, method=name))


def _method_order(chance: Random) -> list[str]:
    """All methods in several rounds, each in a random order; rewriting the whole pattern comes first most often."""
    order: list[str] = []
    for _ in range(_ROUNDS):
        round_ = list(METHODS)
        chance.shuffle(round_)
        order += round_
    order.remove("pattern")
    return ["pattern", *order]


def _reword(question: str, method: str, rules: ModuleType, chance: Random) -> tuple[str, str]:
    """The reworded question and the name of what was done to it."""
    changed = _call(rules, method)(question, chance)
    if changed == question or chance.random() >= _COMBINED_SHARE:
        return changed, method
    second = chance.choice([name for name in _COMBINED_WITH if name != method])
    again = _call(rules, second)(changed, chance)
    return (again, f"{method}+{second}") if again != changed else (changed, method)


def _call(rules: ModuleType, method: str) -> Callable[[str, Random], str]:
    found: Callable[[str, Random], str] = getattr(rules, method)
    return found


def _refusal(question: str, record: QARecord, taken: set[str], owners: Mapping[str, str]) -> str:
    """Why a variant is not wanted, or ""."""
    form = normalized(question)
    if not form or form == normalized(record.question):
        return "unchanged"
    if form in taken:
        return "repeated"
    owner = owners.get(form, record.group)
    if owner != record.group:
        return "other_question" if owner else "held_out_question"
    return ""

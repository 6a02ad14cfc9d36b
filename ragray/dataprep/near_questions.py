"""Whether a question is nearly one that belongs to somebody else.

In: questions, each with the group that owns it. Out: for new questions whether each stands apart from all questions of
other groups. A variant that comes too near to a held-out question would leak it into training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ragray.dataprep.hashing import Hashes
from ragray.dataprep.shingles import count_shingles, prefix_keys, question_shingles
from ragray.schema import EvalQuestion, QARecord


class NearQuestions:
    """Questions with their owners, ready to be compared with.

    Args:
        records: own questions by their group.
        held_out: questions that belong to no group, so that nothing may come near them.
        threshold: Jaccard similarity of question shingles from which two are too near, above 0.
    """

    def __init__(self, records: Sequence[QARecord], held_out: Sequence[EvalQuestion], threshold: float) -> None:
        self._owners = [record.group for record in records] + [""] * len(held_out)
        self._sets = question_shingles([*(r.question for r in records), *(q.question for q in held_out)])
        self._counts = count_shingles(self._sets)
        self._threshold = threshold
        keys, texts, _ = prefix_keys(self._sets, self._counts, threshold)
        order = np.argsort(keys, kind="stable")
        self._keys, self._texts = keys[order], texts[order]

    def apart(self, variants: Sequence[QARecord]) -> list[bool]:
        """For each variant whether no question of another group is as near as the threshold."""
        sets = question_shingles([variant.question for variant in variants])
        keys, asking, _ = prefix_keys(sets, self._counts, self._threshold)
        first, last = np.searchsorted(self._keys, keys), np.searchsorted(self._keys, keys, side="right")
        near: list[set[int]] = [set() for _ in variants]
        for text, begin, end in zip(asking.tolist(), first.tolist(), last.tolist(), strict=True):
            near[text].update(self._texts[begin:end].tolist())
        return [
            not any(
                self._owners[other] != variant.group and self._similar(sets.of(number), self._sets.of(other))
                for other in near[number]
            )
            for number, variant in enumerate(variants)
        ]

    def _similar(self, left: Hashes, right: Hashes) -> bool:
        common = len(np.intersect1d(left, right, assume_unique=True))
        return common >= self._threshold * (len(left) + len(right) - common) > 0

"""Phrases in a sequence of units, such as the words of a text and its Chinese characters.

In: phrases, each with what it stands for. Out: where they are in a sequence, from the left, of several that begin at
the same place the longest. It exists so that words and synonyms of a user are found by one rule.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

CJK = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_RUN = re.compile(rf"[{CJK}]+")

Units = tuple[str, ...]
Told = tuple[str, ...] | None  # terms, or None: what there is stays as it is


def is_chinese(text: str) -> bool:
    """Whether all characters belong to a script written without spaces: Chinese, or Japanese syllables."""
    return _RUN.fullmatch(text) is not None


class Phrases:
    """Phrases that are looked for; safe to share between threads."""

    def __init__(self, told: Mapping[Units, Told]) -> None:
        self.told = dict(told)
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for units in told:
            lengths[units[0]].add(len(units))
        self._lengths = {first: sorted(of, reverse=True) for first, of in lengths.items()}

    def found(self, units: Sequence[str]) -> Iterator[tuple[int, int, Told]]:
        """(place of its first unit, place after its last, what it stands for) of each phrase; none share a unit."""
        place = 0
        while place < len(units):
            end = self._end(units, place)
            if end is None:
                place += 1
            else:
                yield place, end, self.told[tuple(units[place:end])]
                place = end

    def _end(self, units: Sequence[str], place: int) -> int | None:
        for length in self._lengths.get(units[place], ()):
            end = place + length
            if end <= len(units) and tuple(units[place:end]) in self.told:
                return end
        return None

"""One part of an application, such as its engine, in several releases at once.

In: releases. Out: the part of each, opened and checked. Releases with the same artifacts share what was opened. While a
swap runs there are two; what no release needs any more is closed when its last answer has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ragray.serve.artifacts import Served
from ragray.serve.releases import Release

P = TypeVar("P")


@dataclass(frozen=True, slots=True, eq=False)
class _Opened(Generic[P]):
    key: Hashable
    part: P


class Shelf(Generic[P]):
    """Opened parts by the number of their release.

    Args:
        open_part: opens and checks the part of a release; may take minutes and raise anything.
        key: what the part depends on.
        close: closes a part that is needed no more; False: an answer still runs on it, so it is asked again.
    """

    def __init__(
        self,
        open_part: Callable[[Served], P],
        key: Callable[[Served], Hashable],
        close: Callable[[P], bool] = lambda part: True,
    ) -> None:
        self._open, self._key, self._close = open_part, key, close
        self._opened: dict[int, _Opened[P]] = {}
        self._leaving: list[_Opened[P]] = []
        self._current = 0
        self._changing = threading.Lock()  # not while a part opens

    def __getitem__(self, number: int) -> P:
        """The part of a release; of the current one where that is not there, as in a replica that was just started."""
        opened = self._opened.get(number) or self._opened[self._current]
        return opened.part

    def loaded(self) -> tuple[int, ...]:
        """Numbers of the releases that are there."""
        return tuple(self._opened)

    def load(self, release: Release) -> bool:
        """Open the part of a release; False: not yet, as a third one would be in memory beside one that is leaving.

        Raises:
            Exception: what opening it raises.
        """
        key = self._key(release.served)
        with self._changing:
            for opened in self._opened.values():
                if opened.key == key:
                    self._opened[release.number] = opened
                    return True
            if len({opened.key for opened in self._opened.values()}) + len(self._leaving) > 1:
                return False
        part = self._open(release.served)
        with self._changing:
            self._opened[release.number] = _Opened(key, part)
        return True

    def keep(self, numbers: Collection[int]) -> None:
        """Drop all other releases; their parts are closed from the next call on, when nothing runs on them any more."""
        self._leaving = [opened for opened in self._leaving if not self._close(opened.part)]
        with self._changing:
            former = {id(opened): opened for opened in self._opened.values()}
            self._opened = {number: opened for number, opened in self._opened.items() if number in numbers}
            for opened in self._opened.values():
                former.pop(id(opened), None)
            self._leaving += former.values()

    def switch(self, release: Release) -> None:
        """Make a loaded release the current one."""
        self._current = release.number

    def oldest(self) -> int:
        """The current release: whoever asks says how long others are needed."""
        return self._current

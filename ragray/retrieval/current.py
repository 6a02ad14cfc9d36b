"""The current version of an index that changes, followed while it is searched.

In: the folder of a `store`. Out: an opened index, and another one once `CURRENT` names another version. A search takes
an index and keeps it to its end, so it sees one version. A version that cannot be opened leaves the one before: the log
says so, and `failure` until another opens.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from ragray.errors import ArtifactError, RagrayError
from ragray.retrieval.index import HybridIndex, version_folder

_LOOK_EVERY_S = 0.1
_RETRY_S = 2.0  # after which a version that could not be opened is tried again
_TRIAL_CHARS = 200
WARM_UP = "warm up 预热"  # a query that loads the tokenizers of both languages


class CurrentIndex:
    """An index that is always of the current version; safe to share between threads.

    Args:
        root: folder of the store.
        look_every_s: `CURRENT` is read at most once in so many seconds.
        logger: is told of each new version, and of those that cannot be opened.

    Raises:
        ArtifactError: the current version is missing or damaged; there is no earlier one to stay with.
    """

    def __init__(self, root: Path, look_every_s: float = _LOOK_EVERY_S, logger: logging.Logger | None = None) -> None:
        self.root = Path(root)
        self._look_every_s, self._logger = look_every_s, logger or logging.getLogger(__name__)
        self._opening = threading.Lock()
        self._look_at = 0.0  # monotonic time, seconds
        self._failure = ""
        self._index = self._open()

    @property
    def index(self) -> HybridIndex:
        """The version that was opened last; nothing is looked up."""
        return self._index

    @property
    def failure(self) -> str:
        """Why the version that `CURRENT` names is not searched; empty when it is."""
        return self._failure

    def now(self) -> HybridIndex:
        """The current version. The thread that finds a new one opens it, others take the one before meanwhile."""
        if self.is_behind():
            self.follow()
        return self._index

    def is_behind(self) -> bool:
        """Whether `follow` may find a new version; not while it is at work, nor where this was asked a moment ago."""
        if time.monotonic() < self._look_at or self._opening.locked():
            return False
        self._look_at = time.monotonic() + self._look_every_s
        try:
            return self._failure != "" or version_folder(self.root) != self._index.folder
        except ArtifactError:
            return True  # `follow` says what is wrong

    def follow(self) -> None:
        """Open the version that `CURRENT` names and put it in place of the one before; one thread at a time does."""
        if not self._opening.acquire(blocking=False):
            return
        try:
            if version_folder(self.root) != self._index.folder:
                self._index = self._open()
                self._logger.info("%s: version %d is searched now", self.root, version_of(self._index))
            self._failure = ""
        except RagrayError as error:
            self._look_at = time.monotonic() + _RETRY_S
            if error.message != self._failure:
                kept = version_of(self._index)
                self._logger.error("%s; version %d stays. `ragray live roll-back` names another", error.message, kept)
            self._failure = error.message
        finally:
            self._opening.release()

    def _open(self) -> HybridIndex:
        while True:
            place = version_folder(self.root)
            try:
                return _tried(HybridIndex.open(place))
            except RagrayError:
                if version_folder(self.root) == place:
                    raise
                # pruned before it was open: there is a newer one


def version_of(index: HybridIndex) -> int:
    """The number of an opened version of a store."""
    return int(index.folder.name)


def _tried(index: HybridIndex) -> HybridIndex:
    """The index, after a search that reads from all of its files.

    Raises:
        ArtifactError: that fails.
    """
    try:
        for part in index.corpus.parts:
            first = part.segment.passage(0)
            index.search(f"{WARM_UP} {first.title} {first.text[:_TRIAL_CHARS]}", 1)
    except (OSError, EOFError, ValueError, IndexError, KeyError) as error:
        raise ArtifactError(f"{index.folder}: the index is damaged: {error}", "`ragray live roll-back`") from None
    return index

"""Replies of a writing model, kept on disk: nothing is asked twice, and an interrupted run goes on.

In: keys of `dataprep.rewording.rewording_key`. Out: the model's replies as they came, good or bad. One SQLite file,
written by the driver alone as replies come in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

from ragray.errors import WorkError

FILE = "replies.sqlite"
REPLIES_FOLDER = "replies"  # folder beside the stages' work folders: outlives them, so that nothing is asked twice
_AT_ONCE = 500  # keys in one query; SQLite takes 999 at least


class Replies:
    """An open cache.

    Raises:
        WorkError: the file is damaged, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path)
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
                )
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from None

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """The replies that are there, by key."""
        found: dict[str, str] = {}
        try:
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, reply FROM replies WHERE key IN ({marks})"  # noqa: S608 - question marks only
                with closing(self._connection.execute(query, part)) as rows:
                    found.update(rows)
        except sqlite3.Error as error:
            raise self._error(error) from None
        return found

    def keep(self, replies: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Add replies; they are on disk when this returns."""
        rows = list(replies.items() if isinstance(replies, Mapping) else replies)
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> WorkError:
        return WorkError(f"{self.path}: the replies of the writer cannot be kept: {error}", f"remove {self.path}")

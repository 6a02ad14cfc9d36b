"""What all workers must do alike: take up the same value, or stop with the same error.

In: torch.distributed. Out: an error of one worker is raised by all, so that none waits for ever in a
collective that another has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed

from ragray.errors import RagrayError

T = TypeVar("T")


def first_workers(value: T) -> T:
    """The first worker's value, on every worker; a collective."""
    values: list[T | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value if torch.distributed.get_rank() == 0 else None)
    return values[0]  # type: ignore[return-value]


def raise_alike(error: RagrayError | None) -> None:
    """Raise the error of the first worker that has one; a collective.

    Raises:
        RagrayError: some worker's error.
    """
    errors: list[RagrayError | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(errors, error)
    for found in errors:
        if found is not None:
            raise found


class Kept:
    """An error of this worker alone, kept until a collective tells the others.

    Between two collectives of a step nobody may wait: what fails there, such as a report, is kept, the next step's
    sum says that somebody has an error, and all raise it.
    """

    def __init__(self) -> None:
        self._error: RagrayError | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep a `RagrayError` of the block; the first one stays."""
        try:
            yield
        except RagrayError as error:
            self._error = self._error or error

    def pending(self) -> bool:
        """Whether this worker keeps an error."""
        return self._error is not None

    def tell(self) -> None:
        """Raise what any worker keeps; a collective.

        Raises:
            RagrayError: some worker's error.
        """
        raise_alike(self._error)


@contextmanager
def alike() -> Iterator[None]:
    """Raise a `RagrayError` of the block's work on any worker on all of them; no collectives in the block.

    Raises:
        RagrayError: some worker's error.
    """
    error: RagrayError | None = None
    try:
        yield
    except RagrayError as caught:
        error = caught
    raise_alike(error)

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

"""What an ingress answers from now, and which former releases its answers still run on.

In: the parts of a release, switched as a whole between two requests. Out: one release for each answer, from its search
to its last token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ragray.serve.api import ApiError
from ragray.serve.generator import Generation
from ragray.serve.retriever import Retrieval


@dataclass(frozen=True, slots=True)
class Behind:
    """The parts behind an ingress, of one release."""

    retriever: Retrieval
    generator: Generation
    lineage: Mapping[str, str]  # digests of all that answers
    created: int = 0  # when its engine was made, seconds since 1970
    number: int = 1
    adapters: Mapping[str, str] = field(default_factory=dict)  # digests of those of further models, by id

    def lineage_of(self, adapter: str | None) -> dict[str, str]:
        """Digests of what answers as one of the models; None is the engine's own.

        Raises:
            ApiError: 404, there is no such model any more.
        """
        if adapter is None:
            return dict(self.lineage)
        if adapter not in self.adapters:
            message = f"the model {adapter!r} is not served any more"
            raise ApiError(404, message, param="model", code="model_not_found")
        return {**self.lineage, "adapter": self.adapters[adapter]}


class Current:
    """The release that answers.

    Args:
        behind: its parts.
    """

    def __init__(self, behind: Behind) -> None:
        self.now = behind
        self._open: Counter[int] = Counter()

    @contextmanager
    def used(self, behind: Behind) -> Iterator[Behind]:
        """For as long as an answer needs the parts of a release."""
        self._open[behind.number] += 1
        try:
            yield behind
        finally:
            self._open[behind.number] -= 1

    def oldest(self) -> int:
        """The oldest release that an answer runs on. Any thread may ask."""
        return min([self.now.number, *(number for number, answers in list(self._open.items()) if answers)])

"""What an ingress answers through: parts that it holds in process, or handles to deployments of their own.

In: handles where a part runs apart, and releases. Out: for each release a retriever and a generator with the same
interface wherever they run, and refusals in place of parts that are not served.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ragray.config import EngineConfig, ServeConfig
from ragray.serve.artifacts import Served
from ragray.serve.cache_open import thresholds
from ragray.serve.closed_book import ClosedBook
from ragray.serve.current import Behind, Current
from ragray.serve.generator import (
    WAITING_BATCHES,
    Generation,
    Generator,
    NoGenerator,
    RemoteGenerator,
    open_generator,
)  # fmt: skip
from ragray.serve.releases import Release
from ragray.serve.retriever import Batches, RemoteRetriever, Retrieval, Retriever, open_retriever
from ragray.serve.shelf import Shelf

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.serve.replicas import GeneratorReplica, RetrieverReplica


def retrievers(batches: Batches | None = None) -> Shelf[Retriever]:
    """Retrievers of releases; see `open_retriever`."""
    return Shelf(partial(open_retriever, batches=batches), lambda served: served.of_retriever)


def generators(settings: EngineConfig, stream_every_s: float, most_open: int | None = None) -> Shelf[Generator]:
    """Generators of releases; see `open_generator`."""
    opened = partial(open_generator, settings=settings, stream_every_s=stream_every_s, most_open=most_open)
    return Shelf(opened, lambda served: served.of_generator, Generator.close)


class Held:
    """The parts of an ingress by release; a `follower.Stand`.

    Args:
        retriever: handle of its deployment; None: it is held here, or there is none.
        generator: the same of the generator.
        engine: settings of an engine that is held here.
        settings: of the application.
        retune: gets the thresholds of the semantic cache when a release begins to answer.
        watch: puts the parts of a release behind what traces them.
    """

    def __init__(
        self,
        retriever: DeploymentHandle[RetrieverReplica] | None,
        generator: DeploymentHandle[GeneratorReplica] | None,
        engine: EngineConfig,
        settings: ServeConfig,
        retune: Callable[[Mapping[str, float]], None],
        watch: Callable[[Behind], Behind] = lambda behind: behind,
    ) -> None:
        self._retriever, self._generator, self._retune, self._watch = retriever, generator, retune, watch
        most = engine.max_batch_size * (1 + WAITING_BATCHES)
        self._retrievers = retrievers()
        self._generators = generators(engine, settings.stream_every_ms / 1e3, most)
        self._thresholds = Shelf(
            lambda served: thresholds(settings.cache, served.confidence), lambda served: served.confidence
        )
        self.current = Current(Behind(ClosedBook(), NoGenerator(), {}, number=0))  # until the first switch

    def loaded(self) -> tuple[int, ...]:
        """Numbers of the releases that are there."""
        return self._thresholds.loaded()

    def load(self, release: Release) -> bool:
        """Load and check a release beside the others; False: not yet."""
        return all(shelf.load(release) for shelf in [*self._shelves(release.served), self._thresholds])

    def keep(self, numbers: Collection[int]) -> None:
        """Drop all other releases."""
        for shelf in (self._retrievers, self._generators, self._thresholds):
            shelf.keep(numbers)

    def switch(self, release: Release) -> None:
        """Answer from a loaded release."""
        served = release.served
        for shelf in [*self._shelves(served), self._thresholds]:
            shelf.switch(release)
        lineage = served.lineage
        behind = Behind(
            self._retrieval(release),
            self._generation(release),
            lineage,
            served.created,
            release.number,
            served.adapter_digests,
        )
        self._retune(self._thresholds[release.number])
        self.current.now = self._watch(behind)

    def oldest(self) -> int:
        """The oldest release that an answer runs on."""
        return self.current.oldest()

    def _shelves(self, served: Served) -> list[Shelf[Any]]:
        """Those of parts that are held here."""
        shelves: list[Shelf[Any]] = []
        if served.index is not None and self._retriever is None:
            shelves.append(self._retrievers)
        if served.engine is not None and self._generator is None:
            shelves.append(self._generators)
        return shelves

    def _retrieval(self, release: Release) -> Retrieval:
        if self._retriever is not None:
            return RemoteRetriever(self._retriever, release.served.follows, release.number)
        return ClosedBook() if release.served.index is None else self._retrievers[release.number]

    def _generation(self, release: Release) -> Generation:
        if self._generator is not None:
            return RemoteGenerator(self._generator, release.number)
        return NoGenerator() if release.served.engine is None else self._generators[release.number]

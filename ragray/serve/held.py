"""What an ingress answers through: parts that it holds in process, or handles to deployments of their own.

In: handles where a part runs apart, and what is served. Out: a retriever and a generator with the same interface
wherever they run, and refusals in place of parts that are not served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragray.config import EngineConfig, ServeConfig
from ragray.serve.artifacts import Served
from ragray.serve.closed_book import ClosedBook
from ragray.serve.generator import WAITING_BATCHES, Generation, GeneratorReplica, NoGenerator, RemoteGenerator
from ragray.serve.retriever import RemoteRetriever, Retrieval, RetrieverReplica

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.serve.generator import Generator
    from ragray.serve.retriever import Retriever


def retrieval(handle: DeploymentHandle[Retriever] | None, served: Served) -> Retrieval:
    """The retriever behind `handle`; without one it is opened here."""
    if handle is not None:
        return RemoteRetriever(handle, served.follows)
    if served.index is None:
        return ClosedBook()
    return RetrieverReplica(served.index, served.confidence, served.follows)


def generation(
    handle: DeploymentHandle[Generator] | None, served: Served, engine: EngineConfig, settings: ServeConfig
) -> Generation:
    """The generator behind `handle`; without one the engine is loaded here."""
    if handle is not None:
        return RemoteGenerator(handle)
    if served.engine is None:
        return NoGenerator()
    most = engine.max_batch_size * (1 + WAITING_BATCHES)
    return GeneratorReplica(served.engine, engine, settings.stream_every_ms / 1e3, most, served.adapters)

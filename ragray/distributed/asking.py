"""Asking a model many things through Ray Data, with every reply kept as it comes back.

In: rows with keys, and how a block of them is asked. Out: the replies in a cache, and the failures counted by reason.
Rows travel in small blocks; the driver keeps each block's replies as it comes back, so an interruption loses little.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ragray.config_data import EndpointConfig
from ragray.distributed.endpoint import Endpoint, Messages, Secret
from ragray.distributed.replies import Replies
from ragray.distributed.session import connect
from ragray.distributed.task_errors import plain_errors
from ragray.errors import ConfigError, WorkError

ROUNDS = 4  # requests of each thread in one block: what an interruption may lose
_THREADS = 16  # requests at once in one task

Ask = Callable[[list[pa.Table]], Iterable[pa.Table]]  # blocks of rows to blocks of `REPLIES`, as they come


def endpoint_of(settings: EndpointConfig, messages: Messages, setting: str, temperature: float) -> Endpoint:
    """How a server is asked; `setting` is where its settings stand in the configuration.

    Raises:
        ConfigError: the variable with the key is not set.
    """
    name = settings.api_key_env
    if name is not None and not os.environ.get(name):
        raise ConfigError(f"{setting}.api_key_env: no such environment variable is set", "export it, then run again")
    threads = min(_THREADS, settings.concurrency)
    return Endpoint(settings, Secret(os.environ[name] if name else ""), messages, threads, temperature, setting)


def asker(endpoint: Endpoint, name: str) -> Ask:
    """Asks a server, `concurrency` rows at once in all; `name` is what errors call it."""
    tasks = max(1, endpoint.settings.concurrency // endpoint.threads)
    return functools.partial(through_ray_data, functools.partial(_ask_endpoint, endpoint), tasks, {}, name)


def blocks_of(rows: Sequence[Mapping[str, str]], schema: pa.Schema, size: int) -> list[pa.Table]:
    """Rows as blocks of at most `size`."""
    return [pa.Table.from_pylist(list(rows[n : n + size]), schema=schema) for n in range(0, len(rows), size)]


def ask_blocks(blocks: list[pa.Table], ask: Ask, kept: Replies, setting: str) -> Counter[str]:
    """Ask all blocks and keep the replies; the rows without one are counted by reason.

    Raises:
        WorkError: the server refuses all further questions.
    """
    failures: Counter[str] = Counter()
    for block in ask(blocks) if blocks else ():
        replies = block.to_pylist()
        kept.keep((row["key"], row["reply"]) for row in replies if row["reply"] is not None)
        failures.update(row["failure"] for row in replies if row["reply"] is None)
        for row in replies:
            if row["fix"]:
                raise WorkError(f"{setting}: {row['failure']}", row["fix"])
    return failures


def check_failures(failures: Counter[str], asked: int, max_share: float, name: str) -> None:
    """Stop where too many rows stayed without a reply.

    Raises:
        WorkError: more than `max_share` of what was asked.
    """
    failed = failures.total()
    if failed > max_share * asked:
        often = ", ".join(f"{reason} ({number:,})" for reason, number in failures.most_common(3))
        raise WorkError(
            f"{name}: {failed:,} of {asked:,} questions stayed without a reply: {often}",
            "see that the server answers, then run again: replies so far are kept",
        )


def through_ray_data(
    work: Any, tasks: int, options: dict[str, Any], name: str, blocks: list[pa.Table]
) -> Iterable[pa.Table]:
    """The blocks' replies, each as its task ends, at most `tasks` at a time."""
    connect()
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    asked = ray.data.from_arrow(blocks).map_batches(
        work, batch_size=None, batch_format="pyarrow", concurrency=tasks, **options
    )
    with plain_errors(name):
        yield from asked.iter_batches(batch_size=None, batch_format="pyarrow")


def _ask_endpoint(endpoint: Endpoint, batch: pa.Table) -> pa.Table:
    return endpoint.ask_batch(batch)

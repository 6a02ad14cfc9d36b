"""Question variants written by a model: a server with OpenAI's API, or an engine of the project's own.

In: records. Out: for each record the questions that the model wrote for it, and counts of what was asked, found in the
cache, and bad. Questions go through Ray Data in small blocks; the driver keeps each block's replies as it comes back.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ragray import prompt
from ragray.config import EngineConfig
from ragray.config_data import AugmentConfig, EndpointConfig
from ragray.dataprep.methods import LANGUAGES
from ragray.dataprep.rewording import BadReplyError, parse_rewordings, rewording_key, rewording_messages
from ragray.distributed.endpoint import REPLIES, Endpoint, Secret
from ragray.distributed.replies import Replies
from ragray.distributed.session import connect
from ragray.distributed.task_errors import plain_errors
from ragray.errors import ConfigError, WorkError
from ragray.schema import QARecord

_THREADS = 16  # requests at once in one task
_ROUNDS = 4  # requests of each thread in one block: what an interruption may lose
_ENGINE_BLOCK = 64  # questions
_TOKENS_PER_VARIANT = 96
_QUESTIONS = pa.schema({"key": pa.string(), "question": pa.string(), "lang": pa.string()})

Ask = Callable[[list[pa.Table]], Iterable[pa.Table]]  # blocks of `_QUESTIONS` to blocks of `REPLIES`, as they come


@dataclass
class Written:
    """What the model wrote: questions by record id, in the reply's order, and counts."""

    questions: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Writer:
    """A model that is asked: its name in cache keys, how many questions go into one block, and how to ask."""

    model: str
    block_rows: int
    ask: Ask
    max_failed_share: float = 0.0


def writer_of(settings: AugmentConfig, engine: EngineConfig) -> Writer | None:
    """The writer that the settings name, or None.

    Raises:
        ConfigError: the variable with the server's key is not set.
        EngineError: the engine is damaged or built for another device.
    """
    if settings.writer == "endpoint" and settings.endpoint is not None:
        return endpoint_writer(settings.endpoint, settings.written_per_question)
    if settings.writer == "engine" and settings.engine is not None:
        return engine_writer(Path(settings.engine), engine, settings.written_per_question)
    return None


def write_variants(records: Sequence[QARecord], writer: Writer, count: int, cache: Path) -> Written:
    """Ask for `count` variants of each record's question; only what the cache does not know is asked.

    Raises:
        WorkError: the server refuses, or too many questions stay without a reply.
    """
    wanted = [record for record in records if record.lang in LANGUAGES]
    keys = {record.id: rewording_key(writer.model, record.question, record.lang, count) for record in wanted}
    with Replies(cache) as kept:
        known = kept.find(sorted(set(keys.values())))
        rows = {keys[r.id]: (keys[r.id], r.question, r.lang) for r in wanted if keys[r.id] not in known}
        written = Written(counts=Counter(asked=len(rows), cached=len(known)))
        _ask(list(rows.values()), writer, kept)
        replies = kept.find(sorted(set(keys.values())))
    for record in wanted:
        reply = replies.get(keys[record.id])
        if reply is None:
            written.counts["unanswered"] += 1
            continue
        try:
            written.questions[record.id] = parse_rewordings(reply, count)
        except BadReplyError as error:
            written.counts[f"bad.{error}"] += 1
    return written


def _ask(rows: Sequence[tuple[str, str, str]], writer: Writer, kept: Replies) -> None:
    blocks = [
        pa.Table.from_pylist([dict(zip(_QUESTIONS.names, row, strict=True)) for row in part], schema=_QUESTIONS)
        for part in (rows[n : n + writer.block_rows] for n in range(0, len(rows), writer.block_rows))
    ]
    failures: Counter[str] = Counter()
    for block in writer.ask(blocks) if blocks else ():
        replies = block.to_pylist()
        kept.keep((row["key"], row["reply"]) for row in replies if row["reply"] is not None)
        failures.update(row["failure"] for row in replies if row["reply"] is None)
        for row in replies:
            if row["fix"]:
                raise WorkError(f"augment.endpoint: {row['failure']}", row["fix"])
    failed = failures.total()
    if failed > writer.max_failed_share * len(rows):
        often = ", ".join(f"{reason} ({number:,})" for reason, number in failures.most_common(3))
        raise WorkError(
            f"augment.writer: {failed:,} of {len(rows):,} questions stayed without a reply: {often}",
            "see that the server answers, then run again: replies so far are kept",
        )


def endpoint_writer(settings: EndpointConfig, count: int) -> Writer:
    """A writer that asks a server, `settings.concurrency` questions at once.

    Raises:
        ConfigError: the variable with the key is not set.
    """
    name = settings.api_key_env
    if name is not None and not os.environ.get(name):
        raise ConfigError(
            "augment.endpoint.api_key_env: no such environment variable is set", "export it, then run again"
        )
    threads = min(_THREADS, settings.concurrency)
    endpoint = Endpoint(settings, Secret(os.environ[name] if name else ""), count, threads=threads)
    work = functools.partial(_ask_endpoint, endpoint)
    ask = functools.partial(_through_ray_data, work, max(1, settings.concurrency // threads), {})
    return Writer(settings.model, threads * _ROUNDS, ask, settings.max_failed_share)


def engine_writer(folder: Path, settings: EngineConfig, count: int) -> Writer:
    """A writer that runs an engine artifact in one worker.

    Raises:
        EngineError: the engine is damaged or built for another device.
    """
    from ragray.engine.device import this_device
    from ragray.engine.manifest import verified_manifest

    manifest = verified_manifest(folder, this_device())
    options = {"fn_constructor_args": (folder.absolute(), settings, count)}
    ask = functools.partial(_through_ray_data, EngineAsker, 1, options)
    return Writer(f"engine {manifest.digest}", _ENGINE_BLOCK, ask)


def _through_ray_data(work: Any, tasks: int, options: dict[str, Any], blocks: list[pa.Table]) -> Iterable[pa.Table]:
    """The blocks' replies, each as its task ends, at most `tasks` at a time."""
    connect()
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    asked = ray.data.from_arrow(blocks).map_batches(
        work, batch_size=None, batch_format="pyarrow", concurrency=tasks, **options
    )
    with plain_errors("augment.writer"):
        yield from asked.iter_batches(batch_size=None, batch_format="pyarrow")


def _ask_endpoint(endpoint: Endpoint, batch: pa.Table) -> pa.Table:
    return endpoint.ask_batch(batch)


class EngineAsker:
    """An engine in a worker, loaded once."""

    def __init__(self, folder: Path, settings: EngineConfig, count: int) -> None:
        from ragray.engine.runtime import load_engine

        self._engine, self._count = load_engine(folder, settings), count

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A row of `REPLIES` for each row (key, question, lang), in their order; greedy, so always the same."""
        from ragray.engine.protocol import SamplingParams
        from ragray.train.examples import prompt_tokens

        asked = [
            rewording_messages(prompt.escape(row["question"]), row["lang"], self._count) for row in batch.to_pylist()
        ]
        prompts = [prompt_tokens(self._engine.tokenizer, messages) for messages in asked]
        done = self._engine.generate(prompts, SamplingParams(max_new_tokens=_TOKENS_PER_VARIANT * self._count))
        replies = [completion.text for completion in done]
        nothing = [""] * len(replies)
        return pa.table([batch.column("key"), replies, nothing, nothing], schema=REPLIES)

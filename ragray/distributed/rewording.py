"""Question variants written by a model: a server with OpenAI's API, or an engine of the project's own.

In: records. Out: for each record the questions that the model wrote for it, and counts of what was asked, found in the
cache, and bad. Questions go through Ray Data in small blocks; the driver keeps each block's replies as it comes back.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ragray import prompt
from ragray.config import EngineConfig
from ragray.config_data import AugmentConfig, EndpointConfig
from ragray.dataprep.methods import LANGUAGES
from ragray.dataprep.rewording import BadReplyError, parse_rewordings, rewording_key, rewording_messages
from ragray.distributed.asking import (
    ROUNDS,
    Ask,
    ask_blocks,
    asker,
    blocks_of,
    check_failures,
    endpoint_of,
    through_ray_data,
)
from ragray.distributed.endpoint import REPLIES
from ragray.distributed.replies import Replies
from ragray.schema import QARecord

_WRITER, _ENDPOINT = "augment.writer", "augment.endpoint"
_ENGINE_BLOCK = 64  # questions
_TOKENS_PER_VARIANT = 96
_QUESTIONS = pa.schema({"key": pa.string(), "question": pa.string(), "lang": pa.string()})


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
        left = [record for record in wanted if keys[record.id] not in known]
        rows = {keys[r.id]: {"key": keys[r.id], "question": r.question, "lang": r.lang} for r in left}
        written = Written(counts=Counter(asked=len(rows), cached=len(known)))
        blocks = blocks_of(list(rows.values()), _QUESTIONS, writer.block_rows)
        failures = ask_blocks(blocks, writer.ask, kept, _ENDPOINT)
        check_failures(failures, len(rows), writer.max_failed_share, _WRITER)
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


def endpoint_writer(settings: EndpointConfig, count: int) -> Writer:
    """A writer that asks a server, `settings.concurrency` questions at once.

    Raises:
        ConfigError: the variable with the key is not set.
    """
    endpoint = endpoint_of(settings, functools.partial(_messages_of, count), _ENDPOINT, temperature=0.7)
    return Writer(settings.model, endpoint.threads * ROUNDS, asker(endpoint, _WRITER), settings.max_failed_share)


def _messages_of(count: int, row: Mapping[str, str]) -> list[dict[str, str]]:
    return rewording_messages(row["question"], row["lang"], count)


def engine_writer(folder: Path, settings: EngineConfig, count: int) -> Writer:
    """A writer that runs an engine artifact in one worker.

    Raises:
        EngineError: the engine is damaged or built for another device.
    """
    from ragray.engine.device import this_device
    from ragray.engine.manifest import verified_manifest

    manifest = verified_manifest(folder, this_device())
    options = {"fn_constructor_args": (folder.absolute(), settings, count)}
    ask = functools.partial(through_ray_data, EngineAsker, 1, options, _WRITER)
    return Writer(f"engine {manifest.digest}", _ENGINE_BLOCK, ask)


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

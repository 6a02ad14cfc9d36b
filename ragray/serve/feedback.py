"""Feedback on answers, kept as Parquet files that `ragray prepare` reads as a source of question-answer pairs.

In: `POST /v1/feedback`, which names a completion by its id. Out: rows of `SCHEMA`, the rating joined with the question,
the answer, its citations and its lineage. Rows are collected, written beside the folder's files under another name,
and renamed: a file is whole or absent. What is collected is written at shutdown, too.

The column `answer` is what is to be learned: the correction if there is one, else the answer that a thumb up
confirmed, else empty, and `prepare` rejects such a row as `empty_answer`. So no answer that somebody found wrong and
no decline is trained on; `served_answer` has what was shown.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from fastapi import FastAPI, Request

from ragray.config import ServeConfig
from ragray.config_feedback import UserFeedbackConfig
from ragray.engine.assistant import without_marks
from ragray.errors import ConfigError
from ragray.prompt import parse_answer
from ragray.serve.api import ApiError, FeedbackRequest, check_text
from ragray.serve.artifacts import absolute_uri
from ragray.serve.chat import Ask, Reply

_MOST_WAITING = 20  # times batch_rows; more is refused while the folder cannot be written

logger = logging.getLogger("ray.serve")

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),  # as it was searched: makes sense without the conversation
        ("answer", pa.string()),  # what is to be learned; empty: nothing
        ("rating", pa.string()),  # "up" or "down"
        ("comment", pa.string()),
        ("asked", pa.string()),  # the question as it was written
        ("served_answer", pa.string()),  # without citation marks
        ("corrected", pa.bool_()),
        ("declined", pa.bool_()),
        ("from_server", pa.bool_()),  # False: the client sent question and answer
        ("citations", pa.list_(pa.string())),  # doc_ids
        ("lineage", pa.string()),  # a JSON object
        ("completion_id", pa.string()),
        ("request_id", pa.string()),
        ("created", pa.int64()),  # seconds since 1970
    ]
)


@dataclass(frozen=True, slots=True)
class Given:
    """A question and the answer that was given to it."""

    question: str
    asked: str
    answer: str
    declined: bool
    citations: tuple[str, ...] = ()
    lineage: dict[str, str] = field(default_factory=dict)
    from_server: bool = True


class FeedbackFiles:
    """Rows that become Parquet files of a folder, by number or by age.

    Args:
        settings: the folder, and how many rows wait for how long.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, settings: UserFeedbackConfig) -> None:
        self._settings = settings
        self._fs, self._base = _file_system(settings.folder or "")
        self._waiting: dict[str, dict[str, Any]] = {}  # by completion: a later rating replaces one that waits
        self._timer: asyncio.TimerHandle | None = None
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._fails = False  # the last write did

    def __len__(self) -> int:
        return len(self._waiting)

    def waits(self, completion_id: str) -> bool:
        """Whether the last rating of an answer is not written yet, so that another can replace it."""
        return completion_id in self._waiting

    def add(self, row: dict[str, Any]) -> None:
        """Take a row in; written once there are enough, or after a while.

        Raises:
            ApiError: 503, the folder cannot be written and too many rows wait.
        """
        if len(self._waiting) >= _MOST_WAITING * self._settings.batch_rows:
            raise ApiError(503, "feedback cannot be kept now; try later", code="feedback_full", retry_after_s=60)
        self._waiting[row["completion_id"] or row["id"]] = row
        is_busy = self._fails or (self._task is not None and not self._task.done())
        if len(self._waiting) >= self._settings.batch_rows and not is_busy:
            self._start()
        elif self._timer is None:
            self._set_timer()

    async def flush(self) -> None:
        """Write what waits, as one file; what cannot be written goes on waiting."""
        async with self._writing:
            self._stop_timer()
            rows = self._waiting
            if not rows:
                return
            self._waiting = {}
            try:
                await asyncio.to_thread(self._write, list(rows.values()))
            except (OSError, pa.ArrowException) as error:
                logger.error("feedback cannot be written below %s: %s", self._settings.folder, error)
                self._waiting = rows | self._waiting
                self._fails = True
                self._stop_timer()  # that of a rating which came during the write
                self._set_timer()
            else:
                self._fails = False

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._settings.flush_s, self._start)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self.flush())
        else:
            self._set_timer()

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        name = f"{self._base}/feedback-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:12]}.parquet"
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        pq.write_table(table, f"{name}.part", filesystem=self._fs, compression="zstd")
        self._fs.move(f"{name}.part", name)


class Feedback:
    """The answers that were given lately, and what users say about them."""

    def __init__(self, settings: UserFeedbackConfig) -> None:
        self.files = FeedbackFiles(settings)
        self._most = settings.recent_answers
        self._recent: OrderedDict[str, Given] = OrderedDict()
        self._confirmed: OrderedDict[str, None] = OrderedDict()  # completions whose thumb up may be written already

    @classmethod
    def of(cls, settings: UserFeedbackConfig) -> Feedback | None:
        """What the settings ask for; None where feedback is off."""
        return cls(settings) if settings.folder else None

    def remember(self, completion_id: str, ask: Ask, reply: Reply) -> None:
        """An answer that is on its way; the oldest beyond `recent_answers` is forgotten."""
        answer = reply.answer
        self._recent[completion_id] = Given(
            question=ask.question,
            asked=ask.asked or ask.question,
            answer=answer.plain_text,
            declined=answer.declined,
            citations=tuple(citation.doc_id for citation in answer.citations),
            lineage=dict(reply.lineage),
        )
        _bound(self._recent, self._most)

    def take(self, request: FeedbackRequest, max_question_chars: int, request_id: str = "") -> str:
        """Keep a rating; returns the row's id.

        Raises:
            ApiError: 404, no such answer is remembered and the request has none; 409, its thumb up is written already.
        """
        given = self._given(request, max_question_chars)
        key = request.completion_id or ""
        if key in self._confirmed and request.rating == "down" and not self.files.waits(key):
            message = "a thumb up for this answer is written already and may be trained on"
            raise ApiError(409, message, param="rating", code="feedback_kept")
        row_id = f"feedback-{uuid.uuid4().hex}"
        self.files.add(_row(row_id, request, given, request_id))
        self._confirmed.pop(key, None)
        if key and request.rating == "up":
            self._confirmed[key] = None
            _bound(self._confirmed, self._most)
        return row_id

    def _given(self, request: FeedbackRequest, max_question_chars: int) -> Given:
        known = self._recent.get(request.completion_id or "")
        if known is not None:
            return known
        if request.question is None or request.answer is None:
            raise ApiError(
                404,
                "this server does not remember that answer; send its question and answer, too",
                param="completion_id",
                code="completion_not_found",
            )
        question = check_text(request.question, max_question_chars, "question")
        shown = parse_answer(request.answer)
        return Given(question, question, without_marks(shown.text), shown.declined, from_server=False)


def add_feedback(api: FastAPI, feedback: Feedback | None, max_question_chars: int) -> None:
    """`POST /v1/feedback`; there is no such path where feedback is off."""
    if feedback is None:
        return

    @api.post("/v1/feedback")
    async def give_feedback(request: FeedbackRequest, http: Request) -> dict[str, Any]:
        """Rate an answer, and correct it."""
        row_id = feedback.take(request, max_question_chars, _request_id(http))
        return {"object": "feedback", "id": row_id, "completion_id": request.completion_id, "rating": request.rating}


def with_absolute_folder(settings: ServeConfig) -> ServeConfig:
    """Settings whose feedback folder means the same in every working directory, as replicas may have another."""
    if settings.feedback.folder is None:
        return settings
    feedback = settings.feedback.model_copy(update={"folder": absolute_uri(settings.feedback.folder)})
    return settings.model_copy(update={"feedback": feedback})


def lifespan_of(feedback: Feedback | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What an application does at its end: write the feedback that waits."""

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        yield
        if feedback is not None:
            await feedback.files.flush()

    return lifespan


def _row(row_id: str, request: FeedbackRequest, given: Given, request_id: str) -> dict[str, Any]:
    corrected = (request.corrected_answer or "").strip()
    confirmed = given.answer if request.rating == "up" and not given.declined else ""
    tree = asdict(given)
    del tree["answer"]
    return {
        **tree,
        "id": row_id,
        "answer": corrected or confirmed,
        "rating": request.rating,
        "comment": request.comment or "",
        "served_answer": given.answer,
        "corrected": bool(corrected),
        "citations": list(given.citations),
        "lineage": json.dumps(given.lineage, sort_keys=True),
        "completion_id": request.completion_id or "",
        "request_id": request_id,
        "created": int(time.time()),
    }


def _request_id(http: Request) -> str:
    """The id that this request has in the log, where it has one."""
    context = http.scope.get("state", {}).get("ragray")
    return str(getattr(context, "request_id", ""))


def _bound(kept: OrderedDict[str, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


def _file_system(folder: str) -> tuple[pafs.FileSystem, str]:
    """Where files are written: (file system, folder in it), which is made if it is not there."""
    try:
        where = absolute_uri(folder)
        fs, base = pafs.FileSystem.from_uri(where) if "://" in where else (pafs.LocalFileSystem(), where)
        fs.create_dir(base, recursive=True)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"serve.feedback.folder: {folder}: cannot be made: {error}", "name a folder that may be written to"
        ) from None
    return fs, base.rstrip("/")

"""Stage index: the hybrid index over the FAQ and the documents.

In: the prepare artifact. Out: the folder that `HybridIndex.open` reads. A corpus of fewer than 20,000
passages is indexed in this process, because starting Ray takes longer than the work; a larger one in a
remote task, wherever the cluster has room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.config import RetrievalConfig, RunConfig
from ragray.distributed.folder_task import start
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.retrieval.index import build_index
from ragray.schema import Passage, QARecord, records_of, table_of

IN_PROCESS_BELOW = 20_000  # passages
INDEX_CODE = tuple(
    f"retrieval.{name}"
    for name in (
        "analyzer", "bm25", "chunks", "counting", "index", "scoring", "segment", "statistics", "stopwords", "strings",
        "tfidf",
    )
)  # fmt: skip
_LIMIT_S = 24 * 3600.0


def withholds_test_questions(config: RunConfig) -> bool:
    """Whether test records are indexed without their question; by default where they are the evaluation."""
    chosen = config.retrieval.withhold_test_questions
    return config.evaluate.questions is None if chosen is None else chosen


def faq_passages(records: Sequence[QARecord], withhold_test: bool) -> list[Passage]:
    """One passage for each record: the question is its title, the answer its text."""
    return [
        Passage(
            doc_id=record.id,
            title="" if withhold_test and record.split == "test" else record.question,
            text=record.answer,
            lang=record.lang,
            source=record.source,
            kind="faq",
        )
        for record in records
    ]


def _build(job: Job) -> None:
    prepared = job.inputs["prepare"]
    records = records_of(QARecord, pq.read_table(prepared.file("records.parquet")))
    documents = records_of(Passage, pq.read_table(prepared.file("passages.parquet")))
    passages = faq_passages(records, withholds_test_questions(job.config)) + documents
    job.report(f"indexing {len(passages):,} passages")
    build = build_index if len(passages) < IN_PROCESS_BELOW else _build_remotely
    job.draft.counts.update(build(passages, job.config.retrieval, job.draft.folder))
    job.draft.counts.update(faq=len(records), passages=len(documents))


def _build_remotely(passages: Sequence[Passage], settings: RetrievalConfig, folder: Path) -> dict[str, int]:
    """`build_index` in a Ray task; the files come back, for the task may run on another machine."""
    connect()
    table = table_of(Passage, passages)
    return start("indexing", build_index, table, settings, options={"num_cpus": 1}, limit_s=_LIMIT_S).collect(folder)


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {
        "retrieval": config.retrieval.model_dump(),
        "withhold_test_questions": withholds_test_questions(config),
    }


def _headline(artifact: Artifact) -> str:
    counts = artifact.manifest.counts
    return f"{counts['documents']:,} passages, {counts['terms']:,} terms"


STAGE = Stage(
    name="index",
    format_version=2,
    needs=("prepare",),
    code=("schema", *INDEX_CODE, "distributed.index"),
    settings=_settings,
    build=_build,
    headline=_headline,
)

"""Stage index: the hybrid index over the FAQ and the documents.

In: the prepare artifact. Out: the folder that `HybridIndex.open` reads. A corpus of fewer than 20,000
passages is indexed in this process, because starting Ray takes longer than the work; a larger one in tasks, each of
which makes a segment of a part, wherever the cluster has room.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.config import RetrievalConfig, RunConfig
from ragray.distributed.folder_task import collect_all, start
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.errors import DataError
from ragray.retrieval.segment import Segment, merge_segments
from ragray.retrieval.writing import SEGMENT, build_index, write_passages, write_version
from ragray.schema import Passage, QARecord, records_of, table_of

IN_PROCESS_BELOW = 20_000  # passages
_OF_RETRIEVAL = (
    "analyzer", "bm25", "chunks", "counting", "feedback", "index", "local_models", "phrases", "prior", "reranker",
    "scoring", "segment", "statistics", "stopwords", "strings", "tfidf", "vectors", "word_rules", "writing",
)  # fmt: skip
INDEX_CODE = ("config_words", "dataprep.language", *(f"retrieval.{name}" for name in _OF_RETRIEVAL))
_PART_PASSAGES = 20_000  # of a task, at least
_LIMIT_S = 24 * 3600.0
_Write = Callable[[Sequence[pa.Table], RetrievalConfig, Sequence[Path]], None]


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
    build = _build_segments if job.config.retrieval.segments else build_index
    build = build if len(passages) < IN_PROCESS_BELOW else _build_remotely
    job.draft.counts.update(build(passages, job.config.retrieval, job.draft.folder))
    job.draft.counts.update(faq=len(records), passages=len(documents))


def _build_remotely(passages: Sequence[Passage], settings: RetrievalConfig, folder: Path) -> dict[str, int]:
    """`build_in_parts`, with a part for each CPU where that pays."""
    import ray

    connect()
    if settings.segments is not None:
        return build_segments(table_of(Passage, passages), settings, folder, _write_remotely)
    cpus: float = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    parts = min(int(cpus), len(passages) // _PART_PASSAGES)
    return build_in_parts(table_of(Passage, passages), settings, folder, max(parts, 1))


def build_in_parts(passages: pa.Table, settings: RetrievalConfig, folder: Path, parts: int) -> dict[str, int]:
    """`build_index` with as many Ray tasks as parts, whose segments are merged: the same bytes as one task gives.

    Raises:
        DataError: there are no passages, or two have the same id.
        WorkError: workers were lost too often.
    """
    with TemporaryDirectory(prefix="ragray-index-") as name:
        places = [Path(name) / str(part) for part in range(parts)]
        for place in places:
            place.mkdir()
        _write_remotely(_split(passages, parts), settings, places)
        segments = [(segment, np.ones(len(segment), np.bool_)) for segment in map(Segment, places)]
        target = folder / SEGMENT
        target.mkdir(exist_ok=True)
        merge_segments(segments, target)
    merged = Segment(target)
    return write_version([(merged, np.ones(len(merged), np.bool_))], [SEGMENT], settings, folder)


def _build_segments(passages: Sequence[Passage], settings: RetrievalConfig, folder: Path) -> dict[str, int]:
    """`build_segments` in this process."""
    return build_segments(table_of(Passage, passages), settings, folder, _write_here)


def build_segments(passages: pa.Table, settings: RetrievalConfig, folder: Path, write: _Write) -> dict[str, int]:
    """`build_index` with as many segments as the settings say, each of as many passages, in their order.

    Rankings and scores equal those of an index of one segment.

    Raises:
        DataError: there are fewer passages than segments, or two have the same id.
    """
    count = settings.segments or 1
    if len(passages) < count:
        raise DataError(f"{len(passages)} passages for {count} segments", "lower retrieval.segments")
    ids = Counter(passages.column("doc_id").to_pylist())  # a segment finds those of its own only
    if (most := ids.most_common(1)[0])[1] > 1:
        raise DataError(f"two passages have the id {most[0]!r}", "give every record its own id")
    names = [f"{SEGMENT}-{place}" for place in range(count)]
    places = [folder / name for name in names]
    for place in places:
        place.mkdir(exist_ok=True)
    write(_split(passages, count), settings, places)
    segments = [Segment(place) for place in places]
    return write_version([(one, np.ones(len(one), np.bool_)) for one in segments], names, settings, folder)


def _split(passages: pa.Table, parts: int) -> list[pa.Table]:
    edges = [len(passages) * part // parts for part in range(parts + 1)]
    return [passages.slice(begin, end - begin) for begin, end in itertools.pairwise(edges)]


def _write_here(parts: Sequence[pa.Table], settings: RetrievalConfig, folders: Sequence[Path]) -> None:
    for part, folder in zip(parts, folders, strict=True):
        write_passages(part, settings, folder)


def _write_remotely(parts: Sequence[pa.Table], settings: RetrievalConfig, folders: Sequence[Path]) -> None:
    """A segment of each part, by a Ray task, into the folder of the same place."""
    tasks = [
        start(
            f"indexing part {place} of {len(parts)}", _write_part, part, settings, options={"num_cpus": 1},
            limit_s=_LIMIT_S,
        )
        for place, part in enumerate(parts, 1)
    ]  # fmt: skip
    collect_all(tasks, folders)


def _write_part(passages: pa.Table, settings: RetrievalConfig, folder: Path) -> None:
    write_passages(passages, settings, folder)


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

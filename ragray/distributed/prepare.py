"""Stage prepare: raw question-answer files and documents become clean records, split without leaks.

In: the files that `data` and `evaluate.questions` name. Out: records, rejected rows, duplicates, passages and
evaluation questions as Parquet. Rows are read and cleaned by Ray Data in blocks; what needs all records
at once (duplicates, groups) runs here, on the collected table, so that blocks never show in the result.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ragray.artifact import Artifact, Source, file_digest
from ragray.config import RunConfig
from ragray.dataprep.dedup import remove_duplicates
from ragray.dataprep.passages import document_files, read_passages
from ragray.dataprep.questions import draw_questions, questions_of_test_split, read_questions, resolve_questions
from ragray.dataprep.read import faq_files
from ragray.dataprep.split import check_no_leak, split_records, worst_overlap
from ragray.distributed.read_clean import Outcomes, read_and_clean
from ragray.distributed.stage import Job, Stage
from ragray.errors import DataError, WorkError
from ragray.schema import Duplicate, EvalQuestion, Passage, QARecord, R, Rejected, stable_digest, table_of

NOT_SAMPLED = "not_sampled"  # left out by data.max_records; no fault of the row


def check_rejected_share(outcomes: Outcomes, rows_in: int, most: float) -> None:
    """Stop where the rows that were rejected say that the input or its description is wrong.

    Raises:
        DataError: no row is left, or more than the share `most` was rejected.
    """
    reasons = Counter(row.reason for row in outcomes.rejected)
    top = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
    first = next((f"; first: {r.source}:{r.line}: {r.detail}" for r in outcomes.rejected), "")
    if not outcomes.records:
        raise DataError(
            f"all {rows_in:,} rows were rejected: {top}{first}" if rows_in else "the files of data.faq hold no rows",
            "check that data.faq names the right files, format, encoding and columns",
        )
    share = len(outcomes.rejected) / rows_in
    if share > most:
        raise DataError(
            f"{len(outcomes.rejected):,} of {rows_in:,} rows ({share:.1%}) were rejected, "
            f"data.max_rejected_share allows {most:.1%}: {top}{first}",
            f"correct the rows, or raise the limit: --set data.max_rejected_share={min(1.0, share + 0.005):.2f}",
        )


def sample_records(
    records: Sequence[QARecord], limit: int | None, seed: int, held_out: Iterable[str]
) -> tuple[list[QARecord], list[Rejected]]:
    """At most `limit` records chosen by digest (those that are held out first), and the others as not sampled."""
    if limit is None or len(records) <= limit:
        return list(records), []
    named = set(held_out)
    ranked = sorted(records, key=lambda r: (r.id not in named, stable_digest(seed, "sample", r.id), r.id))
    chosen = {record.id for record in ranked[:limit]}
    left_out = [
        Rejected(r.source, r.line, NOT_SAMPLED, f"left out by data.max_records = {limit}", r.question[:200])
        for r in records
        if r.id not in chosen
    ]
    return [r for r in records if r.id in chosen], left_out


def _build(job: Job) -> None:
    data, seed = job.config.data, job.config.seed
    with _timed(job, "read_clean", "reading and cleaning"):
        outcomes = read_and_clean(faq_files(data.faq), data.clean)
    rows_in = Counter(r.source for r in outcomes.records) + Counter(r.source for r in outcomes.rejected)
    check_rejected_share(outcomes, rows_in.total(), data.max_rejected_share)
    with _timed(job, "dedup", f"looking for duplicates among {len(outcomes.records):,} records"):
        unique, duplicates = remove_duplicates(outcomes.records, data.dedup)
    asked = _resolved_questions(job.config, outcomes, unique, duplicates)
    held_out = None if asked is None else {i for question in asked for i in question.answer_ids}
    sampled, left_out = sample_records(unique, data.max_records, seed, held_out or ())
    with _timed(job, "split", f"splitting {len(sampled):,} records"):
        records = split_records(sampled, data.split, seed, held_out)
        check_no_leak(records)
        overlap = worst_overlap(records)
    questions = questions_of_test_split(records) if asked is None else asked
    with _timed(job, "passages", "splitting documents"):
        passages = read_passages(document_files(data.documents), data)
    rejected = outcomes.rejected + left_out
    _account(job, rows_in, records, rejected, duplicates)
    job.draft.metrics["worst_test_train_question_jaccard"] = {
        "jaccard": round(overlap[0], 4), "test": overlap[1], "train": overlap[2],
    }  # fmt: skip
    drawn = draw_questions(questions, job.config.evaluate.max_questions, seed)
    job.draft.counts.update(passages=len(passages), questions=len(drawn))
    _write(job.draft.folder / "records.parquet", QARecord, records)
    _write(job.draft.folder / "rejected.parquet", Rejected, rejected)
    _write(job.draft.folder / "duplicates.parquet", Duplicate, duplicates)
    _write(job.draft.folder / "passages.parquet", Passage, passages)
    _write(job.draft.folder / "questions.parquet", EvalQuestion, drawn)


def _resolved_questions(
    config: RunConfig, outcomes: Outcomes, unique: Sequence[QARecord], duplicates: Sequence[Duplicate]
) -> list[EvalQuestion] | None:
    """The evaluation questions of the configured file, or None where the test split's own are used."""
    if config.evaluate.questions is None:
        return None
    kept_for = {duplicate.id: duplicate.duplicate_of for duplicate in duplicates}
    questions = read_questions(Path(config.evaluate.questions))
    return resolve_questions(questions, unique, kept_for, outcomes.rejected_ids)


def _account(
    job: Job,
    rows_in: Mapping[str, int],
    records: Sequence[QARecord],
    rejected: Sequence[Rejected],
    duplicates: Sequence[Duplicate],
) -> None:
    """Record what became of every row, in all and by source.

    Raises:
        WorkError: the sums do not agree.
    """
    parts: dict[str, Sequence[QARecord | Rejected | Duplicate]] = {
        "records": records, "rejected": rejected, "duplicates": duplicates,
    }  # fmt: skip
    tallies = {name: Counter(row.source for row in rows) for name, rows in parts.items()}
    sources = {
        source: {"rows_in": rows, **{name: tally[source] for name, tally in tallies.items()}}
        for source, rows in sorted(rows_in.items())
    }
    for source, counts in sources.items():
        if counts["rows_in"] != counts["records"] + counts["rejected"] + counts["duplicates"]:
            raise WorkError(f"{source}: rows were lost: {counts}", "report this as a defect of ragray")
    splits = Counter(record.split for record in records)
    reasons = Counter(row.reason for row in rejected)
    job.draft.metrics["sources"] = sources
    job.draft.counts.update(
        rows_in=sum(rows_in.values()),
        **{name: len(rows) for name, rows in parts.items()},
        **{split: splits[split] for split in ("train", "valid", "test")},
        **{f"rejected.{reason}": count for reason, count in sorted(reasons.items())},
    )


@contextmanager
def _timed(job: Job, name: str, doing: str) -> Iterator[None]:
    job.report(doing)
    begin = time.perf_counter()
    yield
    job.draft.timings_s[name] = time.perf_counter() - begin


def _write(path: Path, kind: type[R], rows: Iterable[R]) -> None:
    pq.write_table(table_of(kind, rows), path, compression="zstd")


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {"data": config.data.model_dump(mode="json"), "max_questions": config.evaluate.max_questions}


def _sources(config: RunConfig) -> Mapping[str, Source]:
    paths = [file.file.path for file in faq_files(config.data.faq)]
    paths += [document.file.path for document in document_files(config.data.documents)]
    if config.evaluate.questions is not None:
        questions = Path(config.evaluate.questions)
        read_questions(questions)
        paths.append(questions)
    return {str(path): Source("file", str(path), file_digest(path)) for path in paths}


def _headline(artifact: Artifact) -> str:
    counts = artifact.manifest.counts
    return (
        f"{counts['rows_in']:,} rows = {counts['records']:,} records + {counts['rejected']:,} rejected "
        f"+ {counts['duplicates']:,} duplicates"
    )


STAGE = Stage(
    name="prepare",
    format_version=1,
    needs=(),
    code=("schema", "dataprep", "distributed.prepare", "distributed.read_clean"),
    settings=_settings,
    build=_build,
    headline=_headline,
    sources=_sources,
)

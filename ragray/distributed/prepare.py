"""Stage prepare: raw question-answer files and documents become clean records, split without leaks.

In: the files that `data` and `evaluate.questions` name. Out: records, rejected rows, duplicates, passages,
evaluation questions, the worst pairs of the leakage audit, and a report. Ray Data reads and cleans parts of the
files into blocks on disk; tasks look for near-duplicates among their keys; one task decides and writes.
The driver sees counts alone. Neither parts nor workers show in the result, and a killed run goes on with the
blocks that it finished.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ragray.artifact import Artifact, Source
from ragray.config import RunConfig
from ragray.dataprep.blocks import Blocks
from ragray.dataprep.decisions import (
    Decisions,
    Links,
    decide,
    near_links,
    repeated_ids,
    rows_of_ids,
    shares_of,
    split_counts,
)
from ragray.dataprep.dedup import banding_of
from ragray.dataprep.outputs import DUPLICATE_ID, Written, leakage_table, test_records, write_tables
from ragray.dataprep.passages import document_files, read_passages
from ragray.dataprep.questions import Known, draw_questions, questions_of_test_split, read_questions, resolve_questions
from ragray.dataprep.read import faq_files
from ragray.dataprep.sources import Place, digest_of
from ragray.distributed.blocks import list_parts, take_boilerplate, write_blocks
from ragray.distributed.folder_task import start
from ragray.distributed.stage import Job, Stage
from ragray.distributed.task_errors import run_tasks
from ragray.errors import DataError, WorkError
from ragray.evaluation.data_report import write_data_report
from ragray.schema import EvalQuestion, Passage, table_of

_LIMIT_S = 24 * 3600.0


@dataclass
class Summary:
    """What the deciding task tells of its work."""

    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)


def check_rejected_share(blocks: Blocks, most: float) -> None:
    """Stop where the rows that were rejected say that the input or its description is wrong.

    Raises:
        DataError: no row is left, or more than the share `most` was rejected.
    """
    rows_in, refused, kept = (sum(t[name] for t in blocks.tallies) for name in ("rows_in", "rejected", "kept"))
    repeated = int(repeated_ids(blocks.column("id")).sum())
    refused += repeated
    if kept and refused <= most * rows_in:
        return
    reasons = Counter({DUPLICATE_ID: repeated} if repeated else {})
    first = ""
    for n, tally in enumerate(blocks.tallies):
        table = blocks.rejected(n)
        reasons.update(table.column("reason").to_pylist())
        if len(table) and not first:
            first = f"; first: {tally['source']}:{table['line'][0]}: {table['detail'][0]}"
    top = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
    if not kept:
        raise DataError(
            f"all {rows_in:,} rows were rejected: {top}{first}" if rows_in else "the files of data.faq hold no rows",
            "check that data.faq names the right files, format, encoding and columns",
        )
    share = refused / rows_in
    raise DataError(
        f"{refused:,} of {rows_in:,} rows ({share:.1%}) were rejected, "
        f"data.max_rejected_share allows {most:.1%}: {top}{first}",
        f"correct the rows, or raise the limit: --set data.max_rejected_share={min(1.0, share + 0.005):.2f}",
    )


def _build(job: Job) -> None:
    data = job.config.data
    folder = job.work_folder / "blocks"
    with _timed(job.draft.timings_s, "read_clean"):
        parts = list_parts(faq_files(data.faq))
        job.report(f"reading and cleaning {len(parts):,} parts")
        write_blocks(parts, folder, data)
        blocks = take_boilerplate(Blocks(folder, [part.name for part in parts]), data)
        check_rejected_share(blocks, data.max_rejected_share)
    with _timed(job.draft.timings_s, "dedup"):
        job.report(f"looking for duplicates among {blocks.records:,} records")
        shares = shares_of(blocks, data)
        links = run_tasks("near-duplicates", near_links, [(blocks, data, (n, shares)) for n in range(shares)])
    job.report(f"splitting and writing {blocks.records:,} records")
    task = start("deciding", finish, job.config, blocks, links, options={"num_cpus": 1}, limit_s=_LIMIT_S)
    summary = task.collect(job.draft.folder)
    job.draft.counts.update(summary.counts)
    job.draft.metrics.update(summary.metrics)
    job.draft.timings_s.update(summary.timings_s)


def finish(config: RunConfig, blocks: Blocks, links: Sequence[Links], folder: Path) -> Summary:
    """Decide about every record and write all tables and the report into `folder`.

    Raises:
        DataError: evaluation questions name unknown records, or a document cannot be used.
        WorkError: rows were lost, or the split leaks.
    """
    data, summary = config.data, Summary()
    given = None if config.evaluate.questions is None else read_questions(Path(config.evaluate.questions))
    named = None if given is None else {i for question in given for i in question.answer_ids}
    with _timed(summary.timings_s, "split"):
        decided = decide(blocks, data, config.seed, links, named)
    with _timed(summary.timings_s, "write"):
        written = write_tables(blocks, decided, data.max_records, folder)
        pq.write_table(leakage_table(blocks, decided), folder / "leakage.parquet", compression="zstd")
        if given is None:
            questions = questions_of_test_split(test_records(blocks, decided))
        else:
            found = resolve_questions(given, _known(blocks, decided, named or set()))
            questions = table_of(EvalQuestion, found)
        drawn = draw_questions(questions, config.evaluate.max_questions, config.seed)
        pq.write_table(drawn, folder / "questions.parquet", compression="zstd")
    with _timed(summary.timings_s, "passages"):
        passages = read_passages(document_files(data.documents), data)
        pq.write_table(table_of(Passage, passages), folder / "passages.parquet", compression="zstd")
    _account(summary, blocks, decided, written)
    summary.counts |= {"passages": len(passages), "questions": len(drawn)}
    summary.metrics |= _metrics(config, blocks, decided, written)
    write_data_report(folder, config.name, summary.counts, summary.metrics)
    return summary


def _known(blocks: Blocks, decided: Decisions, named: set[str]) -> Known:
    """What the named records turned out to be; nothing is looked up of the others."""
    ids, answers = blocks.column("id"), blocks.column("answer")
    rows = rows_of_ids(ids, named, decided.repeated_id)
    kept = decided.verdicts.kept[rows]
    stands = {ids[k].as_py(): answers[k].as_py() for k in kept.tolist()}
    duplicate_of = {ids[r].as_py(): ids[k].as_py() for r, k in zip(rows.tolist(), kept.tolist(), strict=True) if r != k}
    rejected: dict[str, str] = {}
    for n in range(len(blocks.names)):
        table = blocks.rejected(n)
        for record_id, reason in zip(table.column("id").to_pylist(), table.column("reason").to_pylist(), strict=True):
            if record_id in named:
                rejected.setdefault(record_id, reason)
    return Known(stands, duplicate_of, rejected, ids.to_pylist)


def _account(summary: Summary, blocks: Blocks, decided: Decisions, written: Written) -> None:
    """Record what became of every row, in all and by source.

    Raises:
        WorkError: the sums do not agree.
    """
    for source, counts in written.sources.items():
        if counts["rows_in"] != counts["records"] + counts["rejected"] + counts["duplicates"]:
            raise WorkError(f"{source}: rows were lost: {dict(counts)}", "report this as a defect of ragray")
    names = ("rows_in", "records", "rejected", "duplicates")
    summary.metrics["sources"] = {
        source: {name: counts[name] for name in names} for source, counts in sorted(written.sources.items())
    }
    summary.counts |= {name: sum(counts[name] for counts in written.sources.values()) for name in names}
    summary.counts |= split_counts(decided.split[decided.chosen])
    summary.counts |= {f"duplicates.{method}": n for method, n in sorted(written.methods.items())}
    summary.counts |= {f"rejected.{reason}": n for reason, n in sorted(written.reasons.items())}


def _metrics(config: RunConfig, blocks: Blocks, decided: Decisions, written: Written) -> dict[str, Any]:
    data, audit = config.data, decided.audit
    steps: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    examples: dict[str, list[Any]] = {}
    for tally in blocks.tallies:
        steps.update(tally["steps"])
        languages.update(tally["languages"])
        for step, found in tally["step_examples"].items():
            examples.setdefault(step, []).extend(found[: 3 - len(examples.get(step, []))])
    lengths: dict[str, list[int]] = {}
    for name in ("question", "answer"):
        before = [sum(counts) for counts in zip(*(t["lengths"][name] for t in blocks.tallies), strict=True)]
        lengths |= {f"{name}_before": before, f"{name}_after": written.lengths[name].tolist()}
    banding = banding_of(data.dedup)
    return {
        "steps": dict(sorted(steps.items())),
        "step_examples": dict(sorted(examples.items())),
        "languages": {"before": dict(sorted(languages.items())), "after": dict(sorted(written.languages.items()))},
        "lengths": lengths,
        "banding": {"threshold": data.dedup.threshold, "bands": banding.bands, "rows": banding.rows},
        "leakage": {
            "tests": len(audit.test),
            "sampled": int(audit.sampled.sum()),
            "leaked": int(audit.leaked.sum()),
            "leaked_share": round(audit.leaked_share, 6),
            "threshold": data.split.question_threshold,
            "cosine_threshold": data.split.leak_cosine,
            "histogram": audit.histogram(),
        },
    }


@contextmanager
def _timed(timings_s: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    timings_s[name] = time.perf_counter() - begin


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {"data": config.data.model_dump(mode="json"), "max_questions": config.evaluate.max_questions}


def _sources(config: RunConfig) -> Mapping[str, Source]:
    places: list[Place] = [file.file.path for file in faq_files(config.data.faq)]
    places += [document.file.path for document in document_files(config.data.documents)]
    if config.evaluate.questions is not None:
        questions = Path(config.evaluate.questions)
        read_questions(questions)
        places.append(questions)
    return {str(place): Source("file", str(place), digest_of(place)) for place in places}


def _headline(artifact: Artifact) -> str:
    counts = artifact.manifest.counts
    return (
        f"{counts['rows_in']:,} rows = {counts['records']:,} records + {counts['rejected']:,} rejected "
        f"+ {counts['duplicates']:,} duplicates"
    )


STAGE = Stage(
    name="prepare",
    format_version=2,
    needs=(),
    code=(
        "schema",
        "dataprep",
        "distributed.prepare",
        "distributed.blocks",
        "evaluation.data_report",
        "evaluation.data_charts",
        "evaluation.samples",
        "evaluation.sections",
        "evaluation.drawing",
    ),
    settings=_settings,
    build=_build,
    headline=_headline,
    sources=_sources,
)

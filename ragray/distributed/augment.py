"""Stage augment: question variants, negatives, and training examples.

In: prepare (records), index (the hybrid index that serving uses). Out: variants of the questions, checked one by one;
negatives, as a list and in the layouts that sentence-transformers trains on; examples. Only records of the train and
valid splits are used.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.dataprep.augment import (
    REFUSED,
    Asked,
    Checks,
    Passes,
    Variants,
    form,
    make_variants,
    owners_of_questions,
    rule_candidates,
)
from ragray.dataprep.near_questions import NearQuestions
from ragray.dataprep.negatives import NEGATIVES, triples, tuples
from ragray.distributed.examples import EXAMPLES, Composer, Example, compose_examples, hard_negatives
from ragray.distributed.index import withholds_test_questions
from ragray.distributed.replies import REPLIES_FOLDER
from ragray.distributed.rewording import Written, write_variants, writer_of
from ragray.distributed.stage import Job, Stage
from ragray.errors import DataError
from ragray.evaluation.augment_report import write_augment_report
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.mining import Mined, Miner
from ragray.schema import EvalQuestion, QARecord, records_of, table_of

VALID_VARIANTS = 1  # variants of each validation question
_WRITTEN_MARK = "~w"
_HOW_ONLY = (
    "timeout_s",
    "max_retries",
    "first_wait_s",
    "concurrency",
    "api_key_env",
)  # of the endpoint: no part of the result


def _build(job: Job) -> None:
    config, prepared = job.config, job.inputs["prepare"]
    records = records_of(QARecord, pq.read_table(prepared.file("records.parquet")))
    questions = records_of(EvalQuestion, pq.read_table(prepared.file("questions.parquet")))
    used = [record for record in records if record.split in ("train", "valid")]
    if not any(record.split == "train" for record in used):
        raise DataError("no record is left for training", "give more records, or smaller data.split shares")
    index = HybridIndex.open(job.inputs["index"].folder)
    held_out = questions if config.evaluate.questions is not None else []
    variants, written = _variants(job, used, _checks(index, records, held_out, config))
    begin = time.perf_counter()
    job.report("mining negatives")
    mined = _negatives(index, used, records, config)
    job.draft.timings_s["negatives"] = time.perf_counter() - begin
    job.report(f"composing {len(used) + len(variants.records):,} examples")
    examples = _examples(index, used, variants.records, records, mined, config)
    _record(job, variants, written, mined, examples)
    folder = job.draft.folder
    _write(folder / "variants.parquet", table_of(QARecord, variants.records))
    _write_rows(folder / "refused_variants.parquet", REFUSED, variants.listed)
    _write_rows(folder / "examples.parquet", EXAMPLES, examples)
    _write_negatives(folder, index, mined, config)
    write_augment_report(folder, config.name, job.draft.counts, job.draft.metrics)


def _checks(
    index: HybridIndex, records: Sequence[QARecord], held_out: Sequence[EvalQuestion], config: RunConfig
) -> Checks:
    settings = config.augment
    together: dict[str, Passes] = {
        "near_question": NearQuestions(records, held_out, config.data.split.question_threshold).apart
    }
    if settings.check_top_k:
        groups = {record.id: record.group for record in records}
        together["other_answer"] = _finder(index, groups, settings.check_top_k)
    return Checks(owners_of_questions(records, held_out), settings.min_edit_distance, together)


def _finder(index: HybridIndex, groups: Mapping[str, str], top_k: int) -> Passes:
    """Whether each variant's answer, or another of its group, is among the first `top_k` that it finds."""

    def finds(variants: Sequence[QARecord]) -> list[bool]:
        hits = index.search_batch([variant.question for variant in variants], top_k)
        return [
            any(groups.get(hit.doc_id) == variant.group for hit in found)
            for variant, found in zip(variants, hits, strict=True)
        ]

    return finds


def _variants(job: Job, used: Sequence[QARecord], checks: Checks) -> tuple[Variants, Written]:
    """Variants by rules for all used records, then for training records those of the writer."""
    settings, seed = job.config.augment, job.config.seed
    job.report(f"variants of {len(used):,} questions")
    wanted = settings.variants_per_question
    by_rules = [
        Asked(
            record,
            wanted if record.split == "train" else min(wanted, VALID_VARIANTS),
            rule_candidates(record, settings.methods, seed),
        )
        for record in used
    ]
    variants, written = make_variants(by_rules, checks), Written()
    writer = writer_of(settings, job.config.engine)
    if writer is not None:
        train = [record for record in used if record.split == "train"]
        job.report(f"asking {writer.model} for variants of {len(train):,} questions")
        written = write_variants(train, writer, settings.written_per_question, job.work_folder.parent / REPLIES_FOLDER)
        variants.add(make_variants(_by_writer(train, written, variants.records, settings.writer), checks))
    return variants, written


def _by_writer(train: Sequence[QARecord], written: Written, kept: Sequence[QARecord], method: str) -> list[Asked]:
    forms: dict[str, set[str]] = defaultdict(set)
    for variant in kept:
        forms[variant.parent].add(form(variant.question))
    return [
        Asked(record, len(questions), ((question, method) for question in questions), _WRITTEN_MARK, forms[record.id])
        for record in train
        if (questions := written.questions.get(record.id))
    ]


def _negatives(index: HybridIndex, used: Sequence[QARecord], records: Sequence[QARecord], config: RunConfig) -> Mined:
    settings = config.augment
    counts = _negative_counts(config)
    if not sum(counts):
        return Mined()
    groups = {record.id: record.group for record in records}
    miner = Miner(index, groups, settings.guard, config.seed)
    return miner.mine([record for record in used if record.split == "train"], *counts)


def _negative_counts(config: RunConfig) -> tuple[int, int, int]:
    settings = config.augment
    return (
        settings.negatives_per_question,
        settings.topic_negatives_per_question,
        settings.random_negatives_per_question,
    )


def _write_negatives(folder: Path, index: HybridIndex, mined: Mined, config: RunConfig) -> None:
    used = {doc_id for row in mined.rows for doc_id in (row.positive_id, *row.negative_ids)}
    texts = {doc_id: index.passage(doc_id).text for doc_id in sorted(used)}
    _write_rows(folder / "negatives.parquet", NEGATIVES, mined.rows)
    _write(folder / "triples.parquet", triples(mined.rows, texts))
    _write(folder / "tuples.parquet", tuples(mined.rows, texts, sum(_negative_counts(config))))


def _examples(
    index: HybridIndex,
    used: Sequence[QARecord],
    variants: Sequence[QARecord],
    records: Sequence[QARecord],
    mined: Mined,
    config: RunConfig,
) -> list[Example]:
    """An example for each question and each variant, in the order of the records."""
    retrieval = config.retrieval
    composer = Composer(
        config.augment, config.seed, retrieval.prompt_passages, retrieval.prompt_passage_chars,
        withholds_test_questions(config),
    )  # fmt: skip
    by_parent: dict[str, list[QARecord]] = defaultdict(list)
    for variant in variants:
        by_parent[variant.parent].append(variant)
    pairs = [(query, record) for record in used for query in (record, *by_parent[record.id])]
    return compose_examples(index, pairs, _members(records), composer, hard_negatives(mined.rows))


def _members(records: Sequence[QARecord]) -> Mapping[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for record in records:
        members[record.group].append(record.id)
    return members


def _record(job: Job, variants: Variants, written: Written, mined: Mined, examples: Sequence[Example]) -> None:
    methods = Counter(method for record in variants.records for method in record.method.split("+"))
    splits = Counter(example.split for example in examples)
    kinds = Counter(kind for row in mined.rows for kind in row.negative_kinds)
    wanted = sum(_negative_counts(job.config))
    job.draft.counts.update(
        variants=len(variants.records),
        negatives=sum(len(row.negative_ids) for row in mined.rows),
        examples=len(examples),
        train=splits["train"],
        valid=splits["valid"],
        declines=sum(not example.closed_book and example.number == 0 for example in examples),
        closed_book=sum(example.closed_book for example in examples),
        with_negative=sum(example.negative is not None for example in examples),
        tuples=sum(len(row.negative_ids) >= wanted for row in mined.rows),
        **_named("refused", variants.refused),
        **_named("writer", written.counts),
        **_named("negatives", kinds),
        **_named("negatives_refused", mined.refused),
    )
    by_method = Counter((refused.method, refused.reason) for refused in variants.listed)
    job.draft.metrics["variant_methods"] = dict(sorted(methods.items()))
    job.draft.metrics["variant_refusals"] = {f"{method}: {why}": n for (method, why), n in sorted(by_method.items())}


def _named(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {f"{prefix}.{name}": count for name, count in sorted(counts.items())}


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")


def _write_rows(path: Path, schema: pa.Schema, rows: Iterable[Any]) -> None:
    _write(path, pa.Table.from_pylist([asdict(row) for row in rows], schema=schema))


def _settings(config: RunConfig) -> Mapping[str, Any]:
    augment = config.augment.model_dump()
    if augment["endpoint"]:
        augment["endpoint"] = {name: value for name, value in augment["endpoint"].items() if name not in _HOW_ONLY}
    return {
        "augment": augment,
        "prompt_passages": config.retrieval.prompt_passages,
        "prompt_passage_chars": config.retrieval.prompt_passage_chars,
        "withhold_test_questions": withholds_test_questions(config),
        "question_threshold": config.data.split.question_threshold,
        "given_questions": config.evaluate.questions is not None,
    }


def _headline(artifact: Artifact) -> str:
    counts = artifact.manifest.counts
    return f"{counts['examples']:,} examples, {counts['variants']:,} variants, {counts['negatives']:,} negatives"


STAGE = Stage(
    name="augment",
    format_version=2,
    needs=("prepare", "index"),
    code=(
        "schema", "prompt", "dataprep", "retrieval", "distributed.asking", "distributed.augment",
        "distributed.endpoint", "distributed.examples", "distributed.rewording", "evaluation.augment_report",
        "evaluation.data_charts", "evaluation.samples", "evaluation.sections", "evaluation.drawing",
    ),
    settings=_settings,
    build=_build,
    headline=_headline,
)  # fmt: skip

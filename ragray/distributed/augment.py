"""Stage augment: training examples in the very form in which the assistant will be asked.

In: prepare (records), index (the hybrid index that serving uses). Out: variants of the questions, hard
negatives, and examples: a question, the passages in real serving order, the answer with its number. Only
records of the train and valid splits are used.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ragray import prompt
from ragray.artifact import Artifact
from ragray.config import AugmentConfig, RunConfig
from ragray.dataprep.augment import Variants, make_variants, owners_of_questions
from ragray.dataprep.negatives import NEGATIVES, Negatives, answers_too, choose_negatives
from ragray.distributed.index import withholds_test_questions
from ragray.distributed.stage import Job, Stage
from ragray.errors import DataError
from ragray.retrieval.index import HybridIndex
from ragray.schema import EvalQuestion, Passage, QARecord, records_of, stable_digest, table_of

VALID_VARIANTS = 1  # variants of each validation question
_SPARE_HITS = 8  # searched beyond what is shown, for those that turn out to be answers

_SHOWN = pa.struct({"doc_id": pa.string(), "title": pa.string(), "text": pa.string()})
EXAMPLES = pa.schema(
    {
        "example_id": pa.string(),
        "split": pa.string(),
        "question": pa.string(),
        "lang": pa.string(),
        "closed_book": pa.bool_(),
        "passages": pa.list_(_SHOWN),
        "number": pa.int64(),
        "answer": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class Example:
    """A row of examples.parquet. `number` is the cited passage from 1; 0: declines, or closed book."""

    example_id: str
    split: str
    question: str
    lang: str
    closed_book: bool
    passages: list[dict[str, str]]
    number: int
    answer: str


@dataclass(frozen=True)
class Composer:
    """Makes an example of a question and what the index found for it."""

    settings: AugmentConfig
    seed: int
    passage_count: int
    passage_chars: int
    titles_withheld: bool  # test questions will be asked of passages without their titles

    def kind(self, example_id: str) -> str:
        """What the example teaches: "absent" (to decline), "closed_book", or "present"."""
        drawn = self._draw("kind", example_id)
        if drawn < self.settings.absent_share:
            return "absent"
        return "closed_book" if drawn < self.settings.absent_share + self.settings.closed_book_share else "present"

    def compose(self, query: QARecord, record: QARecord, found: Sequence[Passage]) -> Example:
        """The example of one query.

        Args:
            query: the record itself, or a variant of it.
            record: the record that answers.
            found: passages in serving order; without any that answers, where the kind is "absent".
        """
        kind = self.kind(query.id)
        if kind == "closed_book":
            return self._example(query, [], 0, self._cut(record.answer), closed_book=True)
        if kind == "absent":
            decline = prompt.DECLINE[prompt.template_language(record.lang)]
            shown = self._ordered(query.id, found[: self.passage_count])
            return self._example(query, [self._shown(passage) for passage in shown], 0, decline)
        gold = Passage(record.id, self._title(query, record), record.answer, record.lang, record.source, "faq")
        listed = [gold if passage.doc_id == record.id else passage for passage in found[: self.passage_count]]
        if gold not in listed:
            listed = [*listed[: self.passage_count - 1], gold]
        shown = self._ordered(query.id, listed)
        passages = [self._shown(passage) for passage in shown]
        return self._example(query, passages, shown.index(gold) + 1, self._cut(record.answer))

    def _title(self, query: QARecord, record: QARecord) -> str:
        """The title of the right passage: its question, but hidden in half of the examples where tests hide it."""
        hidden = self.titles_withheld and self._draw("title", query.id) < 0.5
        return "" if hidden else record.question

    def _ordered(self, example_id: str, passages: Sequence[Passage]) -> list[Passage]:
        if self._draw("shuffle", example_id) >= self.settings.shuffled_share:
            return list(passages)
        return sorted(passages, key=lambda p: stable_digest(self.seed, "order", example_id, p.doc_id))

    def _shown(self, passage: Passage) -> dict[str, str]:
        return {"doc_id": passage.doc_id, "title": passage.title, "text": self._cut(passage.text)}

    def _cut(self, text: str) -> str:
        return prompt.cut(text, self.passage_chars)

    def _draw(self, what: str, example_id: str) -> float:
        """A number from 0 up to 1 that depends on the seed and the example alone."""
        return stable_digest(self.seed, what, example_id) / 2**64

    def _example(
        self, query: QARecord, passages: list[dict[str, str]], number: int, answer: str, closed_book: bool = False
    ) -> Example:
        return Example(query.id, query.split, query.question, query.lang, closed_book, passages, number, answer)


def _build(job: Job) -> None:
    config, prepared = job.config, job.inputs["prepare"]
    records = records_of(QARecord, pq.read_table(prepared.file("records.parquet")))
    questions = records_of(EvalQuestion, pq.read_table(prepared.file("questions.parquet")))
    used = [record for record in records if record.split in ("train", "valid")]
    if not any(record.split == "train" for record in used):
        raise DataError("no record is left for training", "give more records, or smaller data.split shares")
    index = HybridIndex.open(job.inputs["index"].folder)
    job.report(f"variants of {len(used):,} questions")
    held_out = questions if config.evaluate.questions is not None else []
    variants = _variants(used, records, held_out, config)
    begin = time.perf_counter()
    job.report("mining negatives")
    negatives = _negatives(index, used, records, config)
    job.draft.timings_s["negatives"] = time.perf_counter() - begin
    job.report(f"composing {len(used) + len(variants.records):,} examples")
    examples = _examples(index, used, variants.records, records, config)
    _record(job, variants, negatives, examples)
    folder = job.draft.folder
    pq.write_table(table_of(QARecord, variants.records), folder / "variants.parquet", compression="zstd")
    _write_rows(folder / "negatives.parquet", NEGATIVES, negatives)
    _write_rows(folder / "examples.parquet", EXAMPLES, examples)


def _variants(
    used: Sequence[QARecord], records: Sequence[QARecord], held_out: Sequence[EvalQuestion], config: RunConfig
) -> Variants:
    owners = owners_of_questions(records, held_out)
    wanted = config.augment.variants_per_question
    variants = Variants()
    for record in used:
        count = wanted if record.split == "train" else min(wanted, VALID_VARIANTS)
        make_variants(record, count, owners, config.seed, variants)
    return variants


def _negatives(
    index: HybridIndex, used: Sequence[QARecord], records: Sequence[QARecord], config: RunConfig
) -> list[Negatives]:
    count = config.augment.negatives_per_question
    if not count:
        return []
    groups = {record.id: record.group for record in records}
    asked = [record for record in used if record.split == "train"]
    members = _members(records)
    hits = index.search_batch(
        [record.question for record in asked], count + _SPARE_HITS, [members[record.group] for record in asked]
    )
    return [
        choose_negatives(record, [(index.passage(hit.doc_id), hit.score) for hit in found], groups, count)
        for record, found in zip(asked, hits, strict=True)
    ]


def _examples(
    index: HybridIndex,
    used: Sequence[QARecord],
    variants: Sequence[QARecord],
    records: Sequence[QARecord],
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
    members = _members(records)
    absent = [composer.kind(query.id) == "absent" for query, _ in pairs]
    hits = index.search_batch(
        [query.question for query, _ in pairs],
        retrieval.prompt_passages + _SPARE_HITS,
        [members[record.group] if hide else () for (_, record), hide in zip(pairs, absent, strict=True)],
    )
    examples = []
    for (query, record), hide, found in zip(pairs, absent, hits, strict=True):
        passages = [index.passage(hit.doc_id) for hit in found]
        if hide:
            passages = [passage for passage in passages if not answers_too(passage, record)]
        examples.append(composer.compose(query, record, passages))
    return examples


def _members(records: Sequence[QARecord]) -> Mapping[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for record in records:
        members[record.group].append(record.id)
    return members


def _record(job: Job, variants: Variants, negatives: Sequence[Negatives], examples: Sequence[Example]) -> None:
    methods = Counter(method for record in variants.records for method in record.method.split("+"))
    splits = Counter(example.split for example in examples)
    job.draft.counts.update(
        variants=len(variants.records),
        negatives=sum(len(row.negative_ids) for row in negatives),
        examples=len(examples),
        train=splits["train"],
        valid=splits["valid"],
        declines=sum(not example.closed_book and example.number == 0 for example in examples),
        closed_book=sum(example.closed_book for example in examples),
        **{f"refused.{reason}": count for reason, count in sorted(variants.refused.items())},
    )
    job.draft.metrics["variant_methods"] = dict(sorted(methods.items()))


def _write_rows(path: Any, schema: pa.Schema, rows: Iterable[Any]) -> None:
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    pq.write_table(table, path, compression="zstd")


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {
        "augment": config.augment.model_dump(),
        "prompt_passages": config.retrieval.prompt_passages,
        "prompt_passage_chars": config.retrieval.prompt_passage_chars,
        "withhold_test_questions": withholds_test_questions(config),
        "given_questions": config.evaluate.questions is not None,
    }


def _headline(artifact: Artifact) -> str:
    counts = artifact.manifest.counts
    return f"{counts['examples']:,} examples, {counts['variants']:,} variants, {counts['negatives']:,} negatives"


STAGE = Stage(
    name="augment",
    format_version=1,
    needs=("prepare", "index"),
    code=("schema", "prompt", "dataprep", "retrieval", "distributed.augment"),
    settings=_settings,
    build=_build,
    headline=_headline,
)

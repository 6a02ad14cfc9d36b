"""Stage calibrate: learn when the passages do not answer, so that the assistant can say so.

In: prepare (records of the train and validation splits, never those of evaluation), index, augment (variants).
Out: `confidence.json`, and `semantic.json` for the semantic cache (`retrieval.false_hits`). For the confidence every
question is asked twice: as it is, and with its answer hidden from the index, which makes it a question on the subject
that nothing answers. Questions are reworded far more than variants are, because people's rephrasings share about half
of their words with the question in the FAQ.

Where test questions are withheld from the index, the questions used here are withheld too, in an index made
for this: they must meet what the test questions will meet.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.config import RetrievalConfig, RunConfig
from ragray.distributed.index import withholds_test_questions
from ragray.distributed.stage import Job, Stage
from ragray.retrieval.confidence import HITS, Examples, coverage, features, fit
from ragray.retrieval.false_hits import FalseHits, measure
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.paraphrase import HUMAN, UNRELATED, WordSources, content_words, imitate
from ragray.retrieval.similar import wording_of
from ragray.retrieval.writing import build_index
from ragray.schema import QARecord, records_of, stable_digest

MAX_RECORDS = 400  # records asked about, chosen by digest
MAX_QUESTIONS = 2000  # of a language, whose nearest other questions tell when the semantic cache may answer
_FOLDS = 5
_HIDE_COVERAGE = 0.6  # a passage that holds so much of an answer answers too
_HIDE_DEPTH = 20  # passages examined for that


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question as asked, and the record that it comes from."""

    text: str
    record: QARecord
    related: bool = True  # False: words of other questions, which nothing answers


def _build(job: Job) -> None:
    records = records_of(QARecord, pq.read_table(job.inputs["prepare"].file("records.parquet")))
    chosen = _choose(records, job.config.seed)
    index = HybridIndex.open(job.inputs["index"].folder)
    job.report(f"learning when to decline from {len(chosen):,} records")
    if withholds_test_questions(job.config):
        with TemporaryDirectory(prefix="ragray-calibrate-") as folder:
            withheld = _without_questions(index, chosen, Path(folder))
            examples = _examples(job, withheld, records, [_Asked(r.question, r) for r in chosen])
    else:
        examples = _examples(job, index, records, _reworded(index, chosen, job))
    confidence = fit(examples, job.config.retrieval.max_false_declines, job.inputs["index"].digest)
    confidence.write(job.draft.folder)
    _false_hits(index, records, job).write(job.draft.folder)
    job.draft.counts.update(records=len(chosen), **confidence.counts)
    job.draft.metrics.update(confidence.metrics, threshold=confidence.threshold)


def _false_hits(index: HybridIndex, records: Sequence[QARecord], job: Job) -> FalseHits:
    """How alike questions of different groups are, and questions and their variants; one question of each group."""
    ordered = sorted((stable_digest(job.config.seed, "semantic", r.id), r.id, r) for r in records if r.split != "test")
    chosen: dict[str, dict[str, QARecord]] = defaultdict(dict)  # by language, by group
    for _, _, record in ordered:
        of_lang = chosen[record.lang]
        if len(of_lang) < MAX_QUESTIONS:
            of_lang.setdefault(record.group, record)
    variants = records_of(QARecord, pq.read_table(job.inputs["augment"].file("variants.parquet")))
    reworded = {variant.parent: variant.question for variant in variants}  # the last one of each record
    languages = {}
    for lang, of_lang in sorted(chosen.items()):
        questions = [(wording_of(index, record.question), group) for group, record in of_lang.items()]
        places = {record.id: place for place, record in enumerate(of_lang.values())}
        same = [(wording_of(index, reworded[name]), places[name]) for name in places if name in reworded]
        languages[lang] = measure(questions, same)
    return FalseHits(languages)


def _choose(records: Sequence[QARecord], seed: int) -> list[QARecord]:
    """At most `MAX_RECORDS` of the train and validation splits, in their order."""
    ids = sorted((stable_digest(seed, "calibrate", r.id), r.id) for r in records if r.split != "test")
    kept = {record_id for _, record_id in ids[:MAX_RECORDS]}
    return [record for record in records if record.id in kept]


def _reworded(index: HybridIndex, records: Sequence[QARecord], job: Job) -> list[_Asked]:
    """Each record's question, or one of its variants, reworded in several strengths, and words without sense."""
    variants = records_of(QARecord, pq.read_table(job.inputs["augment"].file("variants.parquet")))
    wordings: dict[str, list[str]] = defaultdict(list)
    for variant in variants:
        wordings[variant.parent].append(variant.question)
    others: dict[str, list[str]] = {}
    for lang in sorted({record.lang for record in records}):
        others[lang] = content_words([r.question for r in records if r.lang == lang], index.analyzer)
    asked = []
    for record in records:
        chance = random.Random(stable_digest(job.config.seed, "reword", record.id))
        sources = WordSources(record.lang, content_words([record.answer], index.analyzer), others[record.lang])
        for rewording in (*HUMAN, UNRELATED):
            question = chance.choice([record.question, *wordings[record.id]])
            text = imitate(question, rewording, sources, index.analyzer, chance)
            asked.append(_Asked(text, record, related=rewording is not UNRELATED))
    return asked


def _without_questions(index: HybridIndex, records: Sequence[QARecord], folder: Path) -> HybridIndex:
    """The index again, in a folder of its own, with the chosen records' questions left out."""
    hidden = {record.id for record in records}
    passages = index.corpus.passages()
    shown = [replace(passage, title="") if passage.doc_id in hidden else passage for passage in passages]
    build_index(shown, index.settings, folder, index.prior)
    return HybridIndex.open(folder)


def _examples(job: Job, index: HybridIndex, records: Sequence[QARecord], asked: Sequence[_Asked]) -> Examples:
    """Every question as the index answers it, and again with all its answers hidden."""
    top_k = job.config.retrieval.prompt_passages
    answers = _Answers(index, records)
    rows, answered, answerable, folds = [], [], [], []
    for one in asked:
        right = answers.of(one.record)
        for absent in ((), right) if one.related else ((),):
            hits = index.search(one.text, max(top_k, HITS), absent)
            rows.append(features(index, one.text, hits, absent))
            answerable.append(one.related and not absent)
            answered.append(answerable[-1] and any(hit.doc_id in right for hit in hits[:top_k]))
            folds.append(stable_digest(job.config.seed, "fold", one.record.group) % _FOLDS)
    return Examples(np.array(rows), np.array(answered), np.array(answerable), np.array(folds, np.int64))


class _Answers:
    """Which passages answer a record's question: its group's, the same answer's, and those that hold its content."""

    def __init__(self, index: HybridIndex, records: Sequence[QARecord]) -> None:
        self._index = index
        self._groups: dict[str, set[str]] = defaultdict(set)
        self._same: dict[str, set[str]] = defaultdict(set)
        for record in records:
            self._groups[record.group].add(record.id)
            self._same[record.answer].add(record.id)
        self._found: dict[str, frozenset[str]] = {}

    def of(self, record: QARecord) -> frozenset[str]:
        """Ids of the passages that answer `record`."""
        if record.id not in self._found:
            ids = [hit.doc_id for hit in self._index.search(record.answer, _HIDE_DEPTH)]
            shares = coverage(self._index, record.answer, ids)
            alike = {doc_id for doc_id, share in zip(ids, shares, strict=True) if share >= _HIDE_COVERAGE}
            known = self._groups[record.group] | self._same[record.answer] | {record.id}
            self._found[record.id] = frozenset(known | alike)
        return self._found[record.id]


def _settings(config: RunConfig) -> Mapping[str, Any]:
    chosen: RetrievalConfig = config.retrieval
    return {
        "max_false_declines": chosen.max_false_declines,
        "prompt_passages": chosen.prompt_passages,
        "withhold_test_questions": withholds_test_questions(config),
    }


def _headline(artifact: Artifact) -> str:
    metrics = artifact.manifest.metrics
    refused = metrics["declined_answerable"]
    return f"declines {metrics['declined_unanswerable']:.0%} of unanswerable, {refused:.0%} of answerable"


STAGE = Stage(
    name="calibrate",
    format_version=1,
    needs=("prepare", "index", "augment"),
    code=("schema", "retrieval", "distributed.calibrate"),
    settings=_settings,
    build=_build,
    headline=_headline,
)

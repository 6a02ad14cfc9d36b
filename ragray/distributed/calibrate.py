"""Stage calibrate: learn when the passages do not answer, so that the assistant can say so.

In: prepare (records of the train and validation splits, never those of evaluation), index, augment (variants).
Out: `confidence.json`. Every question is asked twice: as it is, and with its answer hidden from the index, which
makes it a question on the subject that nothing answers. Questions are reworded far more than variants are,
because people's rephrasings share about half of their words with the question in the FAQ.

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
from ragray.retrieval.confidence import Confidence, Examples, coverage, features, fit
from ragray.retrieval.index import HybridIndex, build_index
from ragray.retrieval.paraphrase import content_words, imitate
from ragray.schema import Passage, QARecord, records_of, stable_digest

MAX_RECORDS = 400  # records asked about, chosen by digest
REWORDINGS = ((0.7, 0.4), (0.5, 0.6), (0.4, 0.7), (0.4, 0.8))  # share of words kept, words added per word
_HIDE_COVERAGE = 0.6  # a passage that holds so much of an answer answers too
_HIDE_DEPTH = 20  # passages examined for that


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question as asked, and the record that answers it."""

    text: str
    record: QARecord


def _build(job: Job) -> None:
    records = records_of(QARecord, pq.read_table(job.inputs["prepare"].file("records.parquet")))
    variants = records_of(QARecord, pq.read_table(job.inputs["augment"].file("variants.parquet")))
    chosen = _choose([r for r in records if r.split in ("train", "valid")], job.config.seed)
    index = HybridIndex.open(job.inputs["index"].folder)
    job.report(f"learning when to decline from {len(chosen):,} records")
    if withholds_test_questions(job.config):
        with TemporaryDirectory(prefix="ragray-calibrate-") as folder:
            withheld = _without_questions(index, job.inputs["index"], chosen, Path(folder))
            confidence = _fit(job, withheld, records, [_Asked(r.question, r) for r in chosen])
    else:
        asked = _reworded(index, chosen, variants, job.config.seed)
        confidence = _fit(job, index, records, asked)
    confidence.write(job.draft.folder)
    job.draft.counts.update(confidence.counts)
    job.draft.metrics.update(confidence.metrics, threshold=confidence.threshold)


def _choose(records: Sequence[QARecord], seed: int) -> list[QARecord]:
    """At most `MAX_RECORDS` of each split, in their order."""
    kept: set[str] = set()
    for split in ("train", "valid"):
        ids = sorted((stable_digest(seed, "calibrate", r.id), r.id) for r in records if r.split == split)
        kept.update(record_id for _, record_id in ids[:MAX_RECORDS])
    return [record for record in records if record.id in kept]


def _reworded(index: HybridIndex, records: Sequence[QARecord], variants: Sequence[QARecord], seed: int) -> list[_Asked]:
    """Each record's question, or one of its variants, reworded in several strengths."""
    wordings: dict[str, list[str]] = defaultdict(list)
    for variant in variants:
        wordings[variant.parent].append(variant.question)
    words: dict[str, list[str]] = {}
    for lang in sorted({record.lang for record in records}):
        same = [record.question for record in records if record.lang == lang]
        words[lang] = content_words(same, index.analyzer)
    asked = []
    for record in records:
        chance = random.Random(stable_digest(seed, "reword", record.id))
        for kept, added in REWORDINGS:
            question = chance.choice([record.question, *wordings[record.id]])
            text = imitate(question, index.analyzer, words[record.lang], chance, kept, added)
            asked.append(_Asked(text, record))
    return asked


def _without_questions(
    index: HybridIndex, artifact: Artifact, records: Sequence[QARecord], folder: Path
) -> HybridIndex:
    """The index again, in a folder of its own, with the chosen records' questions left out."""
    hidden = {record.id for record in records}
    passages = records_of(Passage, pq.read_table(artifact.file("passages.parquet")))
    shown = [replace(passage, title="") if passage.doc_id in hidden else passage for passage in passages]
    build_index(shown, index.settings, folder)
    return HybridIndex.open(folder)


def _fit(job: Job, index: HybridIndex, records: Sequence[QARecord], asked: Sequence[_Asked]) -> Confidence:
    top_k = index.settings.prompt_passages
    groups: dict[str, list[QARecord]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    same_answer: dict[str, list[str]] = defaultdict(list)
    for record in records:
        same_answer[record.answer].append(record.id)
    hidden = {
        record.id: _answering(index, record, groups[record.group], same_answer[record.answer])
        for record in {asked_one.record.id: asked_one.record for asked_one in asked}.values()
    }
    rows, answered, answerable = [], [], []
    for one in asked:
        right = {r.id for r in groups[one.record.group]} | set(same_answer[one.record.answer])
        for exclude in ((), hidden[one.record.id]):
            hits = index.search(one.text, max(top_k, 10), exclude)
            rows.append(features(index, one.text, hits, exclude))
            answerable.append(not exclude)
            answered.append(not exclude and any(hit.doc_id in right for hit in hits[:top_k]))
    held_out = _held_out([one.record for one in asked], job.config.seed)
    validation = np.repeat([one.record.id in held_out for one in asked], 2)
    examples = Examples(np.array(rows), np.array(answered), np.array(answerable), validation)
    limit = job.config.retrieval.max_false_declines
    return fit(examples, limit, job.inputs["index"].digest)


def _held_out(records: Sequence[QARecord], seed: int) -> set[str]:
    """Ids of the validation split's records; of a fifth of all where a small corpus has none there."""
    valid = {record.id for record in records if record.split == "valid"}
    return valid or {record.id for record in records if stable_digest(seed, "held out", record.id) % 5 == 0}


def _answering(
    index: HybridIndex, record: QARecord, group: Sequence[QARecord], same_answer: Sequence[str]
) -> frozenset[str]:
    """Ids of all passages that answer a record's question: its group, its answer elsewhere, its answer's content."""
    found = {other.id for other in group} | set(same_answer)
    for hit in index.search(record.answer, _HIDE_DEPTH):
        if coverage(index, record.answer, hit.doc_id) >= _HIDE_COVERAGE:
            found.add(hit.doc_id)
    return frozenset(found)


def _settings(config: RunConfig) -> Mapping[str, Any]:
    chosen: RetrievalConfig = config.retrieval
    return {
        "max_false_declines": chosen.max_false_declines,
        "prompt_passages": chosen.prompt_passages,
        "withhold_test_questions": withholds_test_questions(config),
    }


def _headline(artifact: Artifact) -> str:
    metrics = artifact.manifest.metrics
    return f"declines {metrics['declined_unanswerable']:.0%} of unanswerable validation questions"


STAGE = Stage(
    name="calibrate",
    format_version=1,
    needs=("prepare", "index", "augment"),
    code=("schema", "retrieval", "distributed.calibrate"),
    settings=_settings,
    build=_build,
    headline=_headline,
)

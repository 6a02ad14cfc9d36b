"""Stages index and calibrate on a small prepared corpus."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ragray.artifact import Artifact, Draft, Store
from ragray.config import RetrievalConfig, RunConfig
from ragray.config_loading import validate_config
from ragray.distributed import calibrate
from ragray.distributed import index as index_stage
from ragray.distributed.stage import Job, Stage
from ragray.errors import DataError
from ragray.manifest import files_below
from ragray.retrieval.confidence import Confidence
from ragray.retrieval.false_hits import FalseHits
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index
from ragray.schema import Passage, QARecord, table_of

VERBS = ("train", "quantize", "merge", "serve", "index", "prepare", "evaluate", "deploy")
NOUNS = ("adapter", "model", "cluster", "corpus", "tokenizer", "checkpoint", "passage", "engine")


def config_of(output: Path, **sections: object) -> RunConfig:
    tree = {
        "name": "test",
        "output": str(output),
        "data": {"faq": [{"path": "faq.jsonl"}]},
        "train": {"base_model": "model"},
        "evaluate": {"questions": "questions.jsonl"},
    }
    return validate_config(tree | sections, "test")


def records() -> list[QARecord]:
    made = []
    for v, verb in enumerate(VERBS):
        for n, noun in enumerate(NOUNS):
            split = ("train", "train", "train", "valid", "test")[(v + n) % 5]
            question, answer = f"How do I {verb} the {noun}?", f"Call step {v}{n} of the {noun} {verb} guide."
            made.append(QARecord(f"r{v}{n}", question, answer, "en", "faq", len(made) + 1, f"g{v}{n}", split))
    return made


DOCUMENTS = [Passage("doc-0", "Guide > Disk", "Free disk space before a run.", "en", "guide.md", "document")]


def build(stage: Stage, config: RunConfig, inputs: dict[str, Artifact], store: Store, key: str) -> Artifact:
    with store.draft(stage.name, key, format_version=1, inputs={}, config={}, code="") as draft:
        stage.build(Job(config, inputs, draft, draft.folder))
    assert draft.result is not None
    return draft.result


def tables(store: Store, kind: str, **files: object) -> Artifact:
    def write(draft: Draft) -> None:
        for name, table in files.items():
            pq.write_table(table, draft.folder / f"{name}.parquet")

    with store.draft(kind, "0" * 16, format_version=1, inputs={}, config={}, code="") as draft:
        write(draft)
    assert draft.result is not None
    return draft.result


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def inputs(store: Store) -> Iterator[dict[str, Artifact]]:
    made = records()
    variants = [
        replace(r, id=f"{r.id}-v", question=f"{r.question[:-1]} here", parent=r.id, method="suffix")
        for r in made
        if r.split == "train"
    ]
    yield {
        "prepare": tables(store, "prepare", records=table_of(QARecord, made), passages=table_of(Passage, DOCUMENTS)),
        "augment": tables(store, "augment", variants=table_of(QARecord, variants)),
    }


def test_the_index_holds_faq_then_documents(store: Store, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    artifact = build(index_stage.STAGE, config_of(tmp_path), inputs, store, "1" * 16)
    opened = HybridIndex.open(artifact.folder)
    assert artifact.manifest.counts["documents"] == len(opened) == 65
    assert (artifact.manifest.counts["faq"], artifact.manifest.counts["passages"]) == (64, 1)
    assert opened.number("doc-0") == 64
    assert opened.search("How do I train the adapter?", 1)[0].doc_id == "r00"
    assert "65 passages" in index_stage.STAGE.headline(artifact)


def test_test_questions_are_withheld_only_where_they_are_the_evaluation(
    store: Store, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    own = config_of(tmp_path, evaluate={})
    asked = config_of(tmp_path)
    forced = config_of(tmp_path, retrieval={"withhold_test_questions": True})
    assert [index_stage.withholds_test_questions(c) for c in (own, asked, forced)] == [True, False, True]
    opened = HybridIndex.open(build(index_stage.STAGE, own, inputs, store, "2" * 16).folder)
    for record in records():
        title = "" if record.split == "test" else record.question
        assert opened.passage(record.id).title == title


@pytest.mark.parametrize("parts", [1, 3, 12])
def test_a_remote_build_gives_the_same_bytes(ray_local: None, tmp_path: Path, parts: int) -> None:
    passages = index_stage.faq_passages(records(), withhold_test=False)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    settings = RetrievalConfig()
    counts = build_index(passages, settings, here)
    assert index_stage.build_in_parts(table_of(Passage, passages), settings, there, parts) == counts
    names = files_below(here)
    assert names == files_below(there)
    assert all((here / name).read_bytes() == (there / name).read_bytes() for name in names)


def test_segments_are_the_same_bytes_wherever_they_are_made(ray_local: None, tmp_path: Path) -> None:
    passages = table_of(Passage, index_stage.faq_passages(records(), withhold_test=False))
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, write in ((here, index_stage._write_here), (there, index_stage._write_remotely)):
        folder.mkdir()
        counts = index_stage.build_segments(passages, RetrievalConfig(segments=3), folder, write)
        assert (counts["documents"], counts["segments"]) == (len(passages), 3)
    names = files_below(here)
    assert names == files_below(there)
    assert all((here / name).read_bytes() == (there / name).read_bytes() for name in names)


def test_the_stage_makes_as_many_segments_as_it_is_told(
    store: Store, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    one = build(index_stage.STAGE, config_of(tmp_path), inputs, store, "e1".ljust(16, "0"))
    config = config_of(tmp_path, retrieval={"segments": 4})
    four = build(index_stage.STAGE, config, inputs, store, "e4".ljust(16, "0"))
    assert (one.manifest.counts["segments"], four.manifest.counts["segments"]) == (1, 4)
    whole, parts = HybridIndex.open(one.folder), HybridIndex.open(four.folder)
    for record in records()[::5]:
        assert parts.search(record.question, 20) == whole.search(record.question, 20)


def test_the_same_id_in_two_parts_is_found(ray_local: None, tmp_path: Path) -> None:
    passages = table_of(
        Passage, [*index_stage.faq_passages(records(), withhold_test=False), DOCUMENTS[0], DOCUMENTS[0]]
    )
    with pytest.raises(DataError, match="'doc-0'"):
        index_stage.build_in_parts(passages, RetrievalConfig(), tmp_path, 2)


@pytest.mark.parametrize("withhold", [False, True])
def test_calibrate_keeps_its_promise(store: Store, inputs: dict[str, Artifact], tmp_path: Path, withhold: bool) -> None:
    config = config_of(tmp_path, retrieval={"withhold_test_questions": withhold})
    built = build(index_stage.STAGE, config, inputs, store, f"3{withhold}".ljust(16, "0"))
    both = {**inputs, "index": built}
    first = build(calibrate.STAGE, config, both, store, f"4{withhold}".ljust(16, "0"))
    again = build(calibrate.STAGE, config, both, store, f"5{withhold}".ljust(16, "0"))
    assert first.digest == again.digest
    confidence = Confidence.open(first.folder)
    assert confidence.metrics["declined_answerable"] <= config.retrieval.max_false_declines
    assert confidence.index_digest == built.digest
    groups = {(r.lang, r.group) for r in records() if r.split != "test"}
    false_hits = FalseHits.open(first.folder)
    assert false_hits is not None
    assert {lang: len(of.others) for lang, of in false_hits.languages.items()} == Counter(lang for lang, _ in groups)
    assert false_hits.thresholds(0.01) == {}  # too few to show so small a budget
    index = HybridIndex.open(built.folder)

    def probability(question: str) -> float:
        return confidence.probability(index, question, index.search(question, 10))

    asked = "How do I train the adapter?"
    assert probability(asked) > confidence.threshold
    assert probability("Who won the football match yesterday?") == 0.0

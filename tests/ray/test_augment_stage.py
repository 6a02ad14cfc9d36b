"""Stage augment: examples show what serving will show, and their answers stand in what is shown."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ragray import prompt
from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.config_loading import validate_config
from ragray.distributed import augment, index, prepare
from ragray.distributed.stage import bring_up_to_date
from ragray.retrieval.index import HybridIndex
from ragray.schema import QARecord, records_of

WORDS = ["port", "folder", "engine", "index", "adapter", "token", "cluster", "worker", "budget", "license", "query"]


def write_faq(folder: Path) -> None:
    rows = [
        {
            "question": f"How do I set the {w} of {v}?",
            "answer": f"Set {v}.{w} to {n}{m}. " + f"The {w} then serves {v} well. " * 4,
        }
        for n, w in enumerate(WORDS)
        for m, v in enumerate(("ragray", "serving", "training"))
    ]
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(folder: Path, **shares: float) -> RunConfig:
    return validate_config(
        {
            "name": "t",
            "output": str(folder / "out"),
            "data": {"faq": [{"path": str(folder / "faq.jsonl")}]},
            "augment": shares,
            "retrieval": {"prompt_passage_chars": 60},
            "train": {"base_model": "none"},
        },
        "test",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[RunConfig, dict[str, Artifact]]:
    folder = tmp_path_factory.mktemp("augment")
    write_faq(folder)
    settings = config(folder, absent_share=0.25, closed_book_share=0.2)
    done = bring_up_to_date(settings, [prepare.STAGE, index.STAGE, augment.STAGE])
    return settings, {name: outcome.artifact for name, outcome in done.items()}


def examples(artifact: Artifact) -> list[dict]:
    return pq.read_table(artifact.file("examples.parquet")).to_pylist()


def records(artifact: Artifact) -> dict[str, QARecord]:
    return {r.id: r for r in records_of(QARecord, pq.read_table(artifact.file("records.parquet")))}


def test_the_answer_stands_in_the_cited_passage(run: tuple[RunConfig, dict[str, Artifact]]) -> None:
    known = records(run[1]["prepare"])
    cited = [row for row in examples(run[1]["augment"]) if row["number"]]
    assert cited
    for row in cited:
        shown = row["passages"][row["number"] - 1]
        assert shown["doc_id"] == row["example_id"].split("~")[0]
        assert row["answer"] == shown["text"] == prompt.cut(known[shown["doc_id"]].answer, 60)
        assert len(row["passages"]) <= 3 and len({p["doc_id"] for p in row["passages"]}) == len(row["passages"])


def test_absent_examples_decline_and_hide_the_group(run: tuple[RunConfig, dict[str, Artifact]]) -> None:
    known = records(run[1]["prepare"])
    declines = [row for row in examples(run[1]["augment"]) if not row["number"] and not row["closed_book"]]
    assert declines
    for row in declines:
        group = known[row["example_id"].split("~")[0]].group
        assert row["answer"] == prompt.DECLINE["en"]
        assert group not in {known[p["doc_id"]].group for p in row["passages"]}


def test_shares_and_splits(run: tuple[RunConfig, dict[str, Artifact]]) -> None:
    rows = examples(run[1]["augment"])
    known = records(run[1]["prepare"])
    assert {known[row["example_id"].split("~")[0]].split for row in rows} == {"train", "valid"}
    closed = [row for row in rows if row["closed_book"]]
    assert all(row["passages"] == [] and row["number"] == 0 for row in closed)
    assert 0.1 < len(closed) / len(rows) < 0.3
    declines = sum(not row["number"] and not row["closed_book"] for row in rows)
    assert 0.15 < declines / len(rows) < 0.35


def test_unshuffled_examples_are_in_serving_order(run: tuple[RunConfig, dict[str, Artifact]], tmp_path: Path) -> None:
    done = run[1]
    write_faq(tmp_path)
    plain = bring_up_to_date(
        config(tmp_path, absent_share=0.0, closed_book_share=0.0, shuffled_share=0.0),
        [prepare.STAGE, index.STAGE, augment.STAGE],
    )["augment"].artifact
    found = HybridIndex.open(done["index"].folder)
    moved = 0
    for row in examples(plain):
        ranked = [hit.doc_id for hit in found.search(row["question"], 3)]
        gold = row["example_id"].split("~")[0]
        expected = ranked if gold in ranked else [*ranked[:2], gold]
        assert [p["doc_id"] for p in row["passages"]] == expected
    for row in examples(done["augment"]):
        ranked = [hit.doc_id for hit in found.search(row["question"], 3)]
        moved += bool(row["number"]) and [p["doc_id"] for p in row["passages"]] != ranked
    assert moved  # shuffled_share is not ignored


def test_negatives_are_of_other_groups(run: tuple[RunConfig, dict[str, Artifact]]) -> None:
    known = records(run[1]["prepare"])
    rows = pq.read_table(run[1]["augment"].file("negatives.parquet")).to_pylist()
    assert len(rows) == run[1]["prepare"].manifest.counts["train"]
    for row in rows:
        assert row["negative_scores"] == sorted(row["negative_scores"], reverse=True)
        assert known[row["positive_id"]].group not in {known[i].group for i in row["negative_ids"]}

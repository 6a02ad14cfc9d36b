"""Stage augment: examples show what serving will show, and their answers stand in what is shown."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from writing_server import Server, chat

from ragray import prompt
from ragray.artifact import Artifact
from ragray.cli_inspect import _examples_of
from ragray.config import RunConfig
from ragray.config_data import METHODS, AugmentConfig
from ragray.config_loading import validate_config
from ragray.distributed import augment, index, prepare
from ragray.distributed.examples import Composer, Example
from ragray.distributed.stage import bring_up_to_date
from ragray.retrieval.index import HybridIndex
from ragray.schema import Passage, QARecord, records_of

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


def config(folder: Path, **augment: Any) -> RunConfig:
    return validate_config(
        {
            "name": "t",
            "output": str(folder / "out"),
            "data": {"faq": [{"path": str(folder / "faq.jsonl")}]},
            "augment": augment,
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
        assert len(row["negative_ids"]) == len(set(row["negative_ids"])) == len(row["negative_kinds"])


def test_wrong_answers_are_hard_negatives_and_cite_where_they_stand(tmp_path: Path) -> None:
    write_faq(tmp_path)
    loose = {"max_likeness": 1.0, "margin": 0.0, "covering": 1.0}  # these answers are nearly alike
    settings = config(tmp_path, absent_share=0.25, closed_book_share=0.2, negatives_per_question=2, guard=loose)
    done = bring_up_to_date(settings, [prepare.STAGE, index.STAGE, augment.STAGE])
    known, made = records(done["prepare"].artifact), done["augment"].artifact
    mined = {
        row["query_id"]: [
            i for i, kind in zip(row["negative_ids"], row["negative_kinds"], strict=True) if kind == "hard"
        ]
        for row in pq.read_table(made.file("negatives.parquet")).to_pylist()
    }
    kinds = Counter()
    for row in examples(made):
        hard = mined.get(row["example_id"].split("~")[0], [])
        declines = not row["closed_book"] and not row["number"]
        places = [n for n, passage in enumerate(row["passages"], 1) if passage["doc_id"] in hard]
        kinds[declines, bool(row["negative_number"])] += row["negative"] is not None
        if row["negative_number"]:
            assert row["negative_number"] in places and row["negative_number"] != row["number"]
            assert row["negative"] == row["passages"][row["negative_number"] - 1]["text"]
        elif row["negative"] is None:
            assert not hard or declines
        else:
            assert not places and row["negative"] == prompt.cut(known[hard[0]].answer, 60)
    assert kinds[False, True] and kinds[False, False] and not kinds[True, False]
    assert made.manifest.counts["with_negative"] == kinds.total()


def test_an_example_that_declines_has_a_wrong_answer_only_where_it_shows_one() -> None:
    composer = Composer(AugmentConfig(), 1, 3, 60, False)
    shown = [{"doc_id": name, "title": "", "text": f"text of {name}"} for name in ("a", "b")]
    decline = Example("q", "train", "What?", "en", False, shown, 0, prompt.DECLINE["en"])
    hard = {name: Passage(name, "", f"text of {name}", "en", "s", "faq") for name in ("x", "b")}
    assert composer.with_negative(decline, [hard["x"]]) == decline
    found = composer.with_negative(decline, list(hard.values()))
    assert (found.negative, found.negative_number) == ("text of b", 2)
    closed = composer.with_negative(dataclasses.replace(decline, closed_book=True, passages=[]), list(hard.values()))
    assert (closed.negative, closed.negative_number) == ("text of x", 0)
    assert composer.with_negative(decline, []) == decline


def test_negatives_in_layouts_to_train_on(run: tuple[RunConfig, dict[str, Artifact]]) -> None:
    known, made = records(run[1]["prepare"]), run[1]["augment"]
    rows = pq.read_table(made.file("negatives.parquet")).to_pylist()
    triples = pq.read_table(made.file("triples.parquet")).to_pylist()
    expected = [(row["question"], row["positive_id"], i) for row in rows for i in row["negative_ids"]]
    assert [(t["anchor"], t["positive"], t["negative"]) for t in triples] == [
        (question, known[positive].answer, known[negative].answer) for question, positive, negative in expected
    ]
    tuples = pq.read_table(made.file("tuples.parquet"))
    assert tuples.num_rows == made.manifest.counts["tuples"]
    whole = [row for row in rows if len(row["negative_ids"]) == 6]
    assert [row["label"] for row in tuples.to_pylist()] == [[r["positive_score"], *r["negative_scores"]] for r in whole]
    assert tuples.column_names[-2:] == ["negative_6", "label"]


def test_variants_find_their_answer_and_all_is_accounted_for(run: tuple[RunConfig, dict[str, Artifact]]) -> None:
    known, made = records(run[1]["prepare"]), run[1]["augment"]
    index_ = HybridIndex.open(run[1]["index"].folder)
    variants = records_of(QARecord, pq.read_table(made.file("variants.parquet")))
    assert variants
    for variant in variants:
        parent = known[variant.parent]
        assert (variant.group, variant.split, variant.answer) == (parent.group, parent.split, parent.answer)
        assert set(variant.method.split("+")) <= set(METHODS)
        groups = {known[hit.doc_id].group for hit in index_.search(variant.question, 5) if hit.doc_id in known}
        assert variant.group in groups
    refused = Counter(row["reason"] for row in pq.read_table(made.file("refused_variants.parquet")).to_pylist())
    counts = {k.partition(".")[2]: v for k, v in made.manifest.counts.items() if k.startswith("refused.")}
    assert refused == {reason: count for reason, count in counts.items() if reason != "unchanged"}


def test_no_setting_is_ignored(run: tuple[RunConfig, dict[str, Artifact]], tmp_path: Path) -> None:
    write_faq(tmp_path)
    stages = [prepare.STAGE, index.STAGE, augment.STAGE]

    def made(**settings: Any) -> Artifact:
        return bring_up_to_date(config(tmp_path, **settings), stages)["augment"].artifact

    only = made(methods=["keywords"], min_edit_distance=0.0)
    assert set(only.manifest.metrics["variant_methods"]) == {"keywords"}
    strict = made(min_edit_distance=0.6)
    assert strict.manifest.counts["refused.too_similar"] > run[1]["augment"].manifest.counts["refused.too_similar"]
    none = made(variants_per_question=0, negatives_per_question=0, topic_negatives_per_question=0,
                random_negatives_per_question=0)  # fmt: skip
    assert none.manifest.counts["variants"] == none.manifest.counts["negatives"] == 0
    loose = made(guard={"max_likeness": 1.0, "margin": 0.0, "covering": 1.0})
    assert not any(name.endswith((".likeness", ".margin")) for name in loose.manifest.counts)


def test_a_writer_adds_to_the_rules(run: tuple[RunConfig, dict[str, Artifact]], tmp_path: Path) -> None:
    write_faq(tmp_path)
    server = Server()
    server.behave = lambda question, times: (200, chat(json.dumps([question, f"Tell me, {question.lower()}"])), {})
    writer = {
        "writer": "endpoint",
        "written_per_question": 2,
        "endpoint": {"url": server.url, "model": "m", "first_wait_s": 0.01},
        "absent_share": 0.25,
        "closed_book_share": 0.2,
    }
    stages = [prepare.STAGE, index.STAGE, augment.STAGE]
    made = bring_up_to_date(config(tmp_path, **writer), stages)["augment"].artifact
    by_rules, variants = (
        pq.read_table(artifact.file("variants.parquet")).to_pylist() for artifact in (run[1]["augment"], made)
    )
    written = [row for row in variants if row["method"] == "endpoint"]
    rest = [row for row in variants if row["method"] != "endpoint"]
    assert [(row["id"], row["question"]) for row in rest] == [(row["id"], row["question"]) for row in by_rules]
    train = made.manifest.counts["writer.asked"]
    assert train == run[1]["prepare"].manifest.counts["train"] == server.asked.total()
    assert 0 < len(written) <= train and {row["split"] for row in written} == {"train"}
    assert all(row["id"] == f"{row['parent']}~w1" for row in written)
    assert made.manifest.counts["refused.unchanged"] >= train
    # other settings: the writer is not asked again, though the stage is run again
    again = bring_up_to_date(config(tmp_path, **{**writer, "shuffled_share": 0.9}), stages)["augment"]
    server.close()
    assert not again.skipped and again.artifact.manifest.counts["writer.cached"] == train
    assert server.asked.total() == train


def test_inspect_model_finds_the_examples_of_the_run(run: tuple[RunConfig, dict[str, Artifact]]) -> None:
    """Where the stage is finished and up to date; not those of other settings, nor where the data are gone."""
    settings, artifacts = run
    assert _examples_of(settings) == artifacts["augment"].file("examples.parquet")
    other = settings.augment.model_copy(update={"closed_book_share": 0.3})
    assert _examples_of(settings.model_copy(update={"augment": other})) is None
    gone = validate_config(
        {
            "name": "t",
            "output": settings.output,
            "data": {"faq": [{"path": "/nowhere/faq.jsonl"}]},
            "train": {"base_model": "none"},
        },
        "test",
    )
    assert _examples_of(gone) is None

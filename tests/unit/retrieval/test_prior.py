"""The learned prior: its shares by hand, its file, and what it does to the hits of an index."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_corpus import passage  # type: ignore[import-not-found]

from ragray.config import PriorConfig, RetrievalConfig
from ragray.errors import ArtifactError, ConfigError, DataError
from ragray.retrieval.fusion import Fused
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.prior import (
    SEPARATOR,
    Prior,
    check_groupings,
    check_separator,
    learn,
    parse_prior,
    read_prior,
    reranked,
)
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import build_index
from ragray.schema import Passage
from ragray.terminal import search_lines

PASSAGES = [
    passage(f"{law}{article}", f"{law} {article}", f"about tax and {word} in paragraph {article}")
    for law, word in (("Civil", "houses"), ("Press", "papers"), ("Trade", "goods"))
    for article in range(1, 6)
]
QUERIES = ["tax houses", "tax papers paragraph", "goods", "tax 3", "nothing of it"]
PRIOR = Prior("head", SEPARATOR, {"Civil": (1, 5), "Press": (9, 5), "Trade": (0, 5)})


def written(prior: Prior, folder: Path, weight: float) -> RetrievalConfig:
    """Settings with a prior that is in a file."""
    path = folder / "prior.json"
    path.write_text(prior.to_json(), encoding="utf-8")
    return RetrievalConfig(prior=PriorConfig(file=str(path), sha256=prior.sha256, weight=weight))


def opened(passages: list[Passage], settings: RetrievalConfig, folder: Path) -> HybridIndex:
    folder.mkdir()
    build_index(passages, settings, folder)
    return HybridIndex.open(folder)


def test_shares_by_hand():
    prior = Prior("title", SEPARATOR, {"a": (3, 1), "b": (0, 3), "c": (1, 4)})
    mean = 4 / 8
    logs = [math.log((3 + mean) / 2), math.log((0 + mean) / 4), math.log((1 + mean) / 5), math.log(mean)]
    expected = [(one - logs[1]) / (logs[0] - logs[1]) for one in logs]
    assert prior.shares(["a", "b", "c", "never seen"]) == pytest.approx(expected)
    assert expected[:2] == [1.0, 0.0] and prior.shares([]).shape == (0,)


@pytest.mark.parametrize("groups", [{"a": (0, 3), "b": (0, 7)}, {"a": (2, 4), "b": (1, 2)}, {"only": (3, 9)}])
def test_groups_that_nothing_tells_apart_all_count_0(groups):
    shares = Prior("title", SEPARATOR, groups, smoothing=1e-300).shares([*groups, "other"])
    assert shares == pytest.approx([0.0] * (len(groups) + 1)) and shares.dtype == np.float32


@pytest.mark.parametrize(
    ("title", "head"),
    [
        ("民法典第八百三十九条", "民法典"),
        ("刑事诉讼规则（试行）第72条", "刑事诉讼规则（试行）"),
        ("Guide > Install > Linux", "Guide"),
        ("Notes - part two", "Notes"),
        ("FAQ: billing", "FAQ"),
        ("Act 12 of 1990", "Act"),
        ("no separator", "no separator"),
        ("3 ways to stop", "3 ways to stop"),
        ("", ""),
    ],
)
def test_the_head_of_a_title(title, head):
    assert Prior("head", SEPARATOR, {}).group_of(title, "file") == head
    assert Prior("title", SEPARATOR, {}).group_of(title, "file") == title
    assert Prior("source", SEPARATOR, {}).group_of(title, "file") == "file"


def test_judgements_are_counted_as_often_as_they_are():
    rows = [(one.title, one.source) for one in PASSAGES]
    prior = learn(rows, [0, 0, 1, 7], "head")
    assert prior.groups == {"Civil": (3, 5), "Press": (1, 5), "Trade": (0, 5)}
    assert prior.counts("Press 99", "x") == ("Press", 1, 5) and prior.counts("New 1", "x") == ("New", 0, 0)
    assert learn(rows, [2], "head", r"i").groups["C"] == (1, 5)


def test_a_file_gives_the_prior_back_and_knows_its_digest(tmp_path):
    settings = written(PRIOR, tmp_path, 1.0).prior
    assert settings is not None and read_prior(settings) == PRIOR
    turned = replace(PRIOR, groups=dict(reversed(PRIOR.groups.items())))
    assert turned.to_json() == PRIOR.to_json() and turned.sha256 == PRIOR.sha256
    with pytest.raises(DataError, match=f"write retrieval.prior.sha256: {PRIOR.sha256}"):
        read_prior(settings.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(DataError, match="cannot be read"):
        read_prior(settings.model_copy(update={"file": str(tmp_path / "absent")}))


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2}, {"group": "author"}, {"groups": {}}, {"groups": {"a": [1]}}, {"groups": {"a": [1, 0]}},
        {"groups": {"a": [-1, 2]}}, {"groups": []}, {"smoothing": 0}, {"smoothing": None}, {"separator": "("},
    ],
)  # fmt: skip
def test_what_is_no_prior_is_said(change):
    tree = json.loads(PRIOR.to_json())
    assert parse_prior(json.dumps(tree).encode(), "f") == PRIOR
    for text in (json.dumps(tree | change), json.dumps([tree]), "{", "\xff"):
        with pytest.raises(DataError, match="f: not a prior"):
            parse_prior(text.encode("latin-1"), "f")


def test_reranking_by_hand():
    fused = Fused(np.array([4, 2, 0]), np.array([0.9, 0.5, 0.4]), np.array([[1, 2, 0], [0, 2, 1]]), np.eye(2, 3))
    found, parts = reranked(fused, np.array([1.0, 0, 0.5, 0, 0], np.float32), 2.0)
    assert found.documents.tolist() == [0, 2, 4] and parts == pytest.approx([1.0, 0.5, 0.0])
    assert found.scores == pytest.approx([1.4, 1.0, 0.9]) and found.ranks.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert found.of_lists.tolist() == [[0, 0, 1], [0, 1, 0]]
    same, nothing = reranked(fused, np.ones(5, np.float32), 0.0)
    assert same.documents.tolist() == [4, 2, 0] and not nothing.any()
    tied, _ = reranked(fused, np.array([0.5, 0, 0.3, 0, 0], np.float32), 0.0)
    assert tied.scores.tolist() == fused.scores.tolist()
    level = Fused(np.array([1, 3]), np.array([1.0, 0.5]), np.array([[1, 2]]), np.ones((1, 2)))
    assert reranked(level, np.array([0, 0, 0, 1.0], np.float32), 1.0)[0].documents.tolist() == [1, 3]  # 1.0 each
    none = Fused(np.empty(0, np.int64), np.empty(0), np.empty((2, 0), np.int64), np.empty((2, 0)))
    assert len(reranked(none, np.ones(5, np.float32), 1.0)[0].documents) == 0


def test_hits_hold_the_priors_part_and_are_what_the_lists_found(tmp_path):
    plain = opened(PASSAGES, RetrievalConfig(), tmp_path / "plain")
    for weight in (0.0, 0.3, 5.0):
        (tmp_path / f"{weight}").mkdir()
        with_prior = opened(PASSAGES, written(PRIOR, tmp_path / f"{weight}", weight), tmp_path / f"{weight}i")
        for query in QUERIES:
            before = {hit.doc_id: hit for hit in plain.search(query, 100)}
            hits = with_prior.search(query, 100)
            scores = [hit.score for hit in before.values()] or [0.0]
            spread = max(scores) - min(scores)
            shares = dict(zip(("Civil", "Press", "Trade"), PRIOR.shares(("Civil", "Press", "Trade")), strict=True))
            assert {hit.doc_id for hit in hits} == set(before)
            for hit in hits:
                old = before[hit.doc_id]
                assert hit.prior == pytest.approx(weight * spread * shares[hit.doc_id[:5]])
                assert hit.score == pytest.approx(old.score + hit.prior) and old.prior == 0.0
                assert replace(hit, rank=old.rank, score=old.score, prior=0.0) == old
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            assert with_prior.search(query, 3) == hits[:3]
    assert [hit.doc_id[:5] for hit in hits] == [] and with_prior.search("tax 3", 1)[0].doc_id == "Press3"
    assert plain.search("tax 3", 1)[0].doc_id == "Civil3"


def test_an_index_keeps_its_prior_and_its_digest_tells_priors_apart(tmp_path):
    settings = written(PRIOR, tmp_path, 1.0)
    index = opened(PASSAGES, settings, tmp_path / "index")
    (tmp_path / "prior.json").unlink()
    assert HybridIndex.open(tmp_path / "index").prior == PRIOR
    (tmp_path / "again").mkdir()
    build_index(PASSAGES, settings, tmp_path / "again", index.prior)
    again = HybridIndex.open(tmp_path / "again")
    assert again.digest == index.digest and again.search("tax", 9) == index.search("tax", 9)
    other = opened(PASSAGES, written(replace(PRIOR, smoothing=9.0), tmp_path, 1.0), tmp_path / "other")
    assert other.digest != index.digest
    with pytest.raises(DataError, match="another prior"):
        opened(PASSAGES, settings, tmp_path / "missing")


def test_shares_of_other_documents_are_refused(tmp_path):
    settings = written(PRIOR, tmp_path, 1.0)
    index = opened(PASSAGES, settings, tmp_path / "index")
    assert len(index) == 15
    for shares in (np.ones(14, np.float32), np.ones(16, np.float32), np.ones((15, 1), np.float32)):
        np.save(tmp_path / "index" / "prior.npy", shares)
        with pytest.raises(ArtifactError, match="not of its 15 documents"):
            HybridIndex.open(tmp_path / "index")


def test_an_index_that_changes_keeps_its_prior(tmp_path):
    settings = written(PRIOR, tmp_path, 2.0)
    opened(PASSAGES[:9], settings, tmp_path / "built")
    (tmp_path / "prior.json").unlink()
    store = IndexStore.create(tmp_path / "store", tmp_path / "built")
    new = passage("new", "Unknown 7", "about tax in paragraph 7")
    store.update([*PASSAGES[9:], new], delete=["Civil1"])
    store.compact(all_segments=True)
    (tmp_path / "anew").mkdir()
    build_index([*PASSAGES[1:], new], settings, tmp_path / "anew", PRIOR)
    anew = HybridIndex.open(tmp_path / "anew")
    for query in QUERIES:
        assert store.open().search(query, 50) == anew.search(query, 50)
    parts = {hit.doc_id: hit.prior for hit in anew.search("tax paragraph", 50)}
    assert parts["Trade1"] == 0.0 < parts["Civil2"] < parts["new"] < parts["Press1"]


def test_people_and_programs_see_the_priors_part(tmp_path):
    index = opened(PASSAGES, written(PRIOR, tmp_path, 1.0), tmp_path / "index")
    hits = index.search("tax papers", 1)
    text = "\n".join(search_lines(index, "tax papers", hits, explain=True, as_json=False))
    assert f"(of it the prior {hits[0].prior:.4f})" in text and hits[0].prior > 0
    assert "prior: 9 judgements of relevance for the 5 passages of 'Press'" in text
    (tree,) = json.loads(search_lines(index, "tax papers", hits, explain=True, as_json=True)[0])
    assert tree["prior"] == hits[0].prior
    assert tree["prior_group"] == {"group": "Press", "relevant": 9, "passages": 5}
    plain = opened(PASSAGES, RetrievalConfig(), tmp_path / "plain")
    assert "prior" not in "".join(search_lines(plain, "tax", plain.search("tax", 1), explain=True, as_json=False))


def test_names_and_separators_are_checked():
    assert check_groupings(["source", "title"]) == ("title", "source") and check_groupings(["none"]) == ()
    with pytest.raises(ConfigError, match="write title, head, source, or none alone"):
        check_groupings(["title", "none"])
    assert check_separator(SEPARATOR) == SEPARATOR
    with pytest.raises(ConfigError, match="not a regular expression"):
        check_separator("(")


def test_names_that_look_like_json_are_kept(tmp_path):
    passages = [("[GPU], how to", "a.md"), ('"x": [1, 2], "y"', "b.md"), ("plain\nline", "c.md")]
    made = learn(passages, [0, 0, 2], "title")
    assert parse_prior(made.to_json().encode(), "here") == made
    assert set(made.groups) == {title for title, _ in passages}

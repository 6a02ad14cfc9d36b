"""The search for settings: what is tried, what is chosen, and that no query has a say in its own figure."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import yaml

from ragray.config import AnalyzerConfig, Bm25Config, FusionWeights, RetrievalConfig
from ragray.config_loading import validate_section
from ragray.errors import ConfigError
from ragray.evaluation import tuning
from ragray.evaluation.collections import Collection, read_collection
from ragray.evaluation.search_quality import METRICS, evaluate_search
from ragray.evaluation.tuning import assign_folds, best_of, fusion_settings, term_settings, title_settings, tune
from ragray.evaluation.tuning_report import fragment, searched, tuning_tree, verdict, write_tuning
from ragray.evaluation.tuning_values import Judged, check_metric, values_of
from ragray.schema import Passage, stable_digest, table_of

START = RetrievalConfig(fusion="rrf", fusion_weights=FusionWeights(bm25=1.0, tfidf=1.0))


def judged(count: int) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    return {f"q{n}": {f"d{n}": 1} for n in range(count)}, {f"q{n}": f"word{n}" for n in range(count)}


def chance(*parts: str | int) -> float:
    return stable_digest(*parts) % 1000 / 1000


def noise(settings: Sequence[RetrievalConfig], retriever: str) -> np.ndarray:
    """Values that say nothing of settings: what looks best on some queries is not better on others."""
    return np.array([[chance(retriever, drawn_by(one), query) for query in range(60)] for one in settings])


def drawn_by(settings: RetrievalConfig) -> str:
    """The fields that the search sets, by name: a new setting must not draw other noise."""
    a, weights = settings.analyzer, settings.fusion_weights
    constant = settings.rrf_k if settings.fusion == "rrf" else settings.fusion_normalization
    terms = (a.chinese, a.stem, a.stop_words, settings.bm25.k1, settings.bm25.b, settings.title_weight)
    return repr((*terms, settings.fusion, weights.bm25, weights.tfidf, constant))


def test_every_combination_is_tried_once_and_the_untuned_first():
    found = term_settings(START, ["如何 train"])
    analyzers = {(a.chinese, a.stem, a.stop_words) for a in (one.analyzer for one in found)}
    assert found[0] == START and len(found) == len(set(found)) == 12 * 6 * 5
    assert len(analyzers) == 12
    other = RetrievalConfig(bm25=Bm25Config(variant="plus", k1=1.1, b=0.2), rrf_k=7)
    grid = term_settings(other, ["train"])
    assert grid[0] == other and len(grid) == len(set(grid)) == 4 * 7 * 6  # its own k1 and b beside the others
    assert {(one.bm25.variant, one.rrf_k) for one in grid} == {("plus", 7)}


def test_options_that_touch_no_query_stay_as_they_are():
    kept = RetrievalConfig(analyzer=AnalyzerConfig(chinese="words", stem=False))
    assert {one.analyzer.chinese for one in term_settings(kept, ["train it"])} == {"words"}
    assert {one.analyzer.stem for one in term_settings(kept, ["如何训练 2"])} == {False}
    assert {one.analyzer.stem for one in term_settings(kept, ["如何", "train"])} == {True, False}


def test_fusions_differ_in_fusion_alone_and_include_each_list_alone():
    found = fusion_settings(START)
    assert found[0] == START and len(found) == len(set(found)) == 1 + 5 * 7 + 3 * 7 + 2
    assert {(one.analyzer, one.bm25) for one in found} == {(START.analyzer, START.bm25)}
    weights = [(one.fusion_weights.bm25, one.fusion_weights.tfidf) for one in found]
    assert (1.0, 0.0) in weights and (0.0, 1.0) in weights and (0.7, 0.3) in weights


def test_rewordings_of_one_question_are_in_one_fold_and_folds_are_even():
    qrels = {f"q{n}-{way}": {f"d{n}": 1, "other": 0} for n in range(23) for way in range(n % 3 + 1)}
    fold_of = dict(zip(qrels, assign_folds(qrels, list(qrels), 4).tolist(), strict=True))
    folds = defaultdict(set)
    for query, fold in fold_of.items():
        folds[query.partition("-")[0]].add(fold)
    assert all(len(of) == 1 for of in folds.values())
    sizes = np.bincount(list(fold_of.values()))
    assert len(sizes) == 4 and sizes.max() - sizes.min() <= 1


def test_more_folds_than_groups_are_an_error_with_a_fix():
    qrels, _ = judged(3)
    with pytest.raises(ConfigError, match="write --folds 3"):
        assign_folds(qrels, list(qrels), 4)
    with pytest.raises(ConfigError, match="judge more queries"):
        assign_folds({"a": {"d": 1}, "b": {"d": 1}}, ["a", "b"], 2)


def test_queries_without_a_relevant_document_are_groups_of_their_own():
    qrels = {f"q{n}": {"d": 0} for n in range(4)}
    assert sorted(assign_folds(qrels, list(qrels), 4).tolist()) == [0, 1, 2, 3]


def test_the_best_counts_only_the_queries_that_it_may_see_and_ties_keep_the_first():
    values = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 9.0], [0.5, 0.5, 1.0]])
    assert best_of(values, np.array([True, True, False])) == 0
    assert best_of(values, np.array([True, True, True])) == 1


def test_a_query_has_no_say_in_its_own_figure():
    """Making one fold's values anything else changes what is chosen without other folds, never without itself."""
    qrels, queries = judged(60)
    fold_of = assign_folds(qrels, list(queries), 5)
    first = tune(qrels, queries, START, 5, noise)
    for fold in range(5):

        def spoiled(settings, retriever, of=fold_of == fold):
            values = noise(settings, retriever)
            values[:, of] = 1.0 - values[:, of]
            return values

        again = tune(qrels, queries, START, 5, spoiled)
        assert again.folds[fold].chosen == first.folds[fold].chosen
        assert again.held_out[fold_of == fold] == pytest.approx(1.0 - first.held_out[fold_of == fold])
    assert again.chosen != first.chosen


def test_noise_is_not_recommended_though_it_looks_better_where_it_was_chosen():
    qrels, queries = judged(60)
    found = tune(qrels, queries, START, 5, noise)
    assert found.chosen_mean > found.before.mean() + 0.05
    deviation = (2 / 12 / 60) ** 0.5  # of the difference of two means of 60 uniform values
    assert abs(found.held_out.mean() - found.before.mean()) < 4 * deviation
    assert not found.better and verdict(found).startswith("Keep the settings")
    assert found.difference.mean == pytest.approx(found.held_out.mean() - found.before.mean())


def helped(settings: Sequence[RetrievalConfig], retriever: str) -> np.ndarray:
    """k1 of 2 helps by BM25, and convex fusion helps the hybrid more."""
    gains = [0.1 * (one.bm25.k1 == 2.0) + 0.2 * (one.fusion == "convex" and retriever == "hybrid") for one in settings]
    return noise(settings[:1], "same") / 2 + np.array(gains)[:, None]


def test_settings_that_help_are_found_and_recommended():
    qrels, queries = judged(60)
    found = tune(qrels, queries, START, 5, helped)
    assert (found.chosen.bm25.k1, found.chosen.fusion) == (2.0, "convex")
    assert all(fold.chosen == found.chosen for fold in found.folds)
    assert found.held_out - found.before == pytest.approx(0.3)
    assert sum(fold.queries for fold in found.folds) == 60
    assert found.better and verdict(found).startswith("Use the tuned settings")
    means = dict(found.terms)
    assert means[START] == pytest.approx(means[max(means, key=means.get)] - 0.1)


def test_untuned_settings_stay_where_nothing_is_better():
    qrels, queries = judged(10)

    def same(settings, retriever):
        return np.full((len(settings), 10), 0.5)

    found = tune(qrels, queries, RetrievalConfig(rrf_k=7), 2, same)
    assert found.chosen == found.untuned == RetrievalConfig(rrf_k=7)
    assert not found.better and found.difference.p_value == 1.0


def test_a_fold_chooses_among_fusions_of_its_own_terms_and_the_untuned():
    qrels, queries = judged(60)
    fold_of, found = assign_folds(qrels, list(queries), 5), tune(qrels, queries, START, 5, noise)
    terms = term_settings(START, queries.values())
    by_bm25, firsts = noise(terms, "bm25"), set()
    for number, fold in enumerate(found.folds):
        weights = title_settings(terms[best_of(by_bm25, fold_of != number)])
        first = weights[best_of(noise(weights, "bm25"), fold_of != number)]
        fused = [START, *fusion_settings(first)]
        assert fold.chosen == fused[best_of(noise(fused, "hybrid"), fold_of != number)]
        assert fold.tuned == pytest.approx(noise([fold.chosen], "hybrid")[0, fold_of == number].mean())
        firsts.add(first)
    assert len(firsts) > 1  # else it compares little


def test_the_last_fusion_of_each_terms_is_among_them():
    qrels, queries = judged(60)

    def measure(settings, retriever):
        if retriever == "bm25":
            return noise(settings, retriever)
        return (
            noise(settings[:1], "same") / 2 + 0.4 * np.array([not one.fusion_weights.bm25 for one in settings])[:, None]
        )

    fold_of, found = assign_folds(qrels, list(queries), 5), tune(qrels, queries, START, 5, measure)
    terms = term_settings(START, queries.values())
    weights = [title_settings(terms[best_of(noise(terms, "bm25"), fold_of != number)]) for number in range(5)]
    firsts = [some[best_of(noise(some, "bm25"), fold_of != number)] for number, some in enumerate(weights)]
    assert [fold.chosen for fold in found.folds] == [fusion_settings(first)[-1] for first in firsts]
    assert len(set(firsts)) > 1


def test_the_untuned_settings_are_kept_where_they_fuse_best():
    qrels, queries = judged(60)

    def measure(settings, retriever):
        best = [one.bm25.k1 == 2.0 if retriever == "bm25" else one == START for one in settings]
        return noise(settings[:1], "same") / 2 + 0.1 * np.array(best)[:, None]

    found = tune(qrels, queries, START, 5, measure)
    assert {found.chosen, *(fold.chosen for fold in found.folds)} == {START}


def test_a_loss_is_never_recommended(monkeypatch):
    qrels, queries = judged(60)
    monkeypatch.setattr(tuning, "best_of", lambda values, of: len(values) - 1)

    def worse(settings, retriever):
        return noise(settings[:1], "same") / 2 + np.array([0.5 * (one == settings[0]) for one in settings])[:, None]

    found = tune(qrels, queries, START, 5, worse)
    assert found.difference.mean < 0 and found.difference.p_value < 0.05 and not found.better


SETTINGS = (
    START,
    RetrievalConfig(bm25=Bm25Config(variant="plus", k1=3.0, b=0.1), fusion="convex"),
    RetrievalConfig(fusion="convex", fusion_normalization="z-score", fusion_weights=FusionWeights(bm25=0.2)),
    RetrievalConfig(rrf_k=1, fusion_depth=2),
    RetrievalConfig(fusion_depth="all", sublinear_tf=False),
)


def test_weights_of_titles_are_tried_with_the_chosen_terms_and_the_best_is_kept():
    qrels, queries = judged(20)

    def heavy(settings, retriever):
        gains = [0.1 * (one.bm25.k1 == 2.0) + 0.2 * (one.title_weight == 5) for one in settings]
        return noise(settings[:1], "same")[:, :20] / 2 + np.array(gains)[:, None]

    found = tune(qrels, queries, START, 4, heavy)
    assert (found.chosen.title_weight, found.chosen.bm25.k1) == (5, 2.0)
    assert {one.title_weight for one, _ in found.fusions[1:]} == {5} and found.fusions[0][0] == START
    assert [(one.title_weight, one.bm25.k1) for one, _ in found.titles] == [(3, 2.0), (1, 2.0), (2, 2.0), (5, 2.0)]
    assert [one.title_weight for one in title_settings(RetrievalConfig(title_weight=4))] == [4, 1, 2, 3, 5]
    assert tuning_tree(found, "map")["tuned"]["title_weight"] == 5


def test_words_and_synonyms_stay_while_settings_are_tried():
    kept = RetrievalConfig(analyzer=AnalyzerConfig(dictionary=("湖仓一体",)))
    assert {one.analyzer.dictionary for one in term_settings(kept, ["如何"])} == {("湖仓一体",)}
    assert searched(kept)["analyzer"] == {"chinese": "both", "stem": True, "stop_words": True}


@pytest.fixture
def collection(beir) -> Collection:
    """Drawn documents beside those of `beir`, so that rankings have something to differ in."""
    words = ["zebra", "lion", "tiger", "savanna", "grass", "river"]
    lines = [
        {"id": f"x{n}", "text": " ".join(words[int(chance(n, at) ** 2 * 6)] for at in range(2 + n % 9))}
        for n in range(40)
    ]
    with (beir / "corpus.jsonl").open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    (beir / "queries.jsonl").write_text(
        "".join(
            json.dumps({"id": f"q{n}", "text": f"{words[n]} {words[n - 1]} {words[n - 2]}"}) + "\n" for n in range(6)
        )
    )
    rows = [f"q{n}\tx{(7 * n + 3 * k) % 40}\t{k}\n" for n in range(6) for k in range(4)] + ["q5\tabsent\t1\n"]
    (beir / "qrels" / "test.tsv").write_text("".join(rows))
    return read_collection(beir)


@pytest.mark.parametrize("metric", list(METRICS))
def test_values_are_those_of_evaluate_retrieval(collection, metric):
    documents = table_of(Passage, collection.documents)
    asked = Judged(collection.queries, collection.qrels, metric)
    for retriever in ("bm25", "hybrid"):
        values = values_of(documents, asked, SETTINGS, retriever)
        assert values.shape == (len(SETTINGS), 6)
        expected = [evaluate_search(collection, one).metrics[retriever][metric] for one in SETTINGS]
        assert values.mean(axis=1) == pytest.approx(expected)
        assert metric == "recall@100" or len(set(expected)) > 1  # else it compares nothing


def test_values_stand_in_the_order_of_the_queries(collection):
    asked = Judged(collection.queries, collection.qrels, "map")
    turned = Judged(dict(reversed(collection.queries.items())), collection.qrels, "map")
    documents = table_of(Passage, collection.documents)
    values, reverse = (values_of(documents, one, SETTINGS[:2], "hybrid") for one in (asked, turned))
    assert np.array_equal(values[:, ::-1], reverse) and len(set(values[0])) > 1


def test_queries_that_find_nothing_or_have_nothing_score_0(beir):
    (beir / "queries.jsonl").write_text('{"id": "a", "text": "???"}\n{"id": "b", "text": "tiger"}\n')
    (beir / "qrels" / "test.tsv").write_text("a\ta\t1\nb\ta\t0\nb\tz\t0\n")
    found = read_collection(beir)
    values = values_of(
        table_of(Passage, found.documents), Judged(found.queries, found.qrels, "ndcg@10"), SETTINGS, "bm25"
    )
    assert not values.any()


@pytest.mark.parametrize("changed", [{"analyzer": AnalyzerConfig(stem=False)}, {"title_weight": 1}])
def test_settings_of_two_segments_are_refused(collection, changed):
    both = (START, START.model_copy(update=changed))
    with pytest.raises(ValueError, match="one analyzer and one weight of titles"):
        values_of(table_of(Passage, ()), Judged({}, {}, "map"), both, "bm25")


def test_an_unknown_metric_is_an_error_that_lists_them():
    assert check_metric("map") == "map"
    with pytest.raises(ConfigError, match=r"write one of ndcg@10, recall@10, recall@100, mrr@10, map"):
        check_metric("ndcg@5")


def test_the_written_settings_are_the_chosen_ones():
    qrels, queries = judged(60)
    untuned = START.model_copy(update={"sublinear_tf": False, "rrf_k": 9, "fusion_normalization": "z-score"})
    found = tune(qrels, queries, untuned, 5, helped)
    for chosen in fusion_settings(untuned.model_copy(update={"bm25": found.chosen.bm25})):
        tree = yaml.safe_load(fragment(replace(found, chosen=chosen), "ndcg@10"))
        assert list(tree) == ["retrieval"] and tree["retrieval"] == searched(chosen)
        written = {**tree["retrieval"], "bm25": {**untuned.bm25.model_dump(), **tree["retrieval"]["bm25"]}}
        assert validate_section(RetrievalConfig, untuned.model_dump() | written, "tuned.yaml") == chosen


def test_the_report(tmp_path):
    qrels, queries = judged(60)
    queries["q3"] = "<script>alert(1)</script>"
    found = tune(qrels, queries, START, 5, helped)
    write_tuning(tmp_path, found, queries, "map", "60 judged queries.")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "charts", "report.html", "report.md", "tune.json", "tuned.yaml",
    ]  # fmt: skip
    text, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert "Use the tuned settings: +0.3000 on held-out queries, p = 0.0001" in text
    assert "| retrieval.bm25.k1 | 1.2 | 2.0 | 5 of 5 |" in text
    assert "60 better" in text and "<script>" not in page + text
    assert page.count("data:image/svg+xml") == 2
    heat_map = (tmp_path / "charts" / "heat_map.svg").read_text()
    assert "<image" not in heat_map  # shapes, not pixels
    tree = json.loads((tmp_path / "tune.json").read_text())
    assert tree == json.loads(json.dumps(tuning_tree(found, "map")))
    assert tree["held_out_mean"] - tree["untuned_mean"] == pytest.approx(0.3)
    assert len(tree["terms"]) == len(found.terms) and len(tree["queries"]) == 60
    (tmp_path / "again").mkdir()
    write_tuning(tmp_path / "again", found, queries, "map", "60 judged queries.")
    for name in ("report.md", "report.html", "tune.json", "tuned.yaml"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_search_that_changes_nothing_has_a_report_too(tmp_path):
    qrels, queries = judged(10)
    found = tune(qrels, queries, START, 2, lambda settings, retriever: np.full((len(settings), 10), 0.5))
    write_tuning(tmp_path, found, queries, "map", "")
    assert "0 better" in (tmp_path / "report.md").read_text()

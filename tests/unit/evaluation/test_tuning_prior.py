"""The last step of a search for settings: a prior is learned from other queries than those that it is measured on."""

import json
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from ragray.config import FeedbackConfig, PriorConfig, RetrievalConfig
from ragray.config_loading import validate_section
from ragray.errors import ConfigError
from ragray.evaluation import tuning
from ragray.evaluation.collections import Collection, read_collection
from ragray.evaluation.retrieval import measure
from ragray.evaluation.search_quality import evaluate_search
from ragray.evaluation.tuning import PriorChoice, Priors, assign_folds, prior_of_best, tune
from ragray.evaluation.tuning_prior import WEIGHTS, by_settings, prior_choices, prior_of, values_with_priors
from ragray.evaluation.tuning_report import prior_lines, tuning_tree, write_tuning
from ragray.evaluation.tuning_values import Judged, values_of
from ragray.retrieval.prior import learn, read_prior
from ragray.schema import Passage, table_of

FOLDS = 4
NAMES = string.ascii_letters
CHOICES = (PriorChoice("head", 0.5), PriorChoice("head", 3.0), PriorChoice("title", 0.5))


def made(folder: Path, laws: int, judged_law) -> Collection:  # type: ignore[no-untyped-def]
    """6 articles of each law, all of which say nearly the same; query n asks for an article of law `judged_law(n)`."""
    documents = [
        {
            "_id": f"{law}-{article}",
            "title": f"Law {NAMES[law]} {article}",
            "text": f"tax paragraph{article}",
        }
        for law in range(laws)
        for article in range(6)
    ]
    queries = [{"_id": f"q{n}", "text": f"tax paragraph{n % 6}"} for n in range(24)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = "".join(f"q{n}\t{judged_law(n)}-{n % 6}\t1\n" for n in range(24))
    (folder / "qrels.tsv").write_text(qrels + "q0\tabsent\t1\nq1\t0-5\t0\n")
    return read_collection(folder)


@pytest.fixture
def popular(tmp_path) -> Collection:
    """All queries ask for the last law."""
    return made(tmp_path, 5, lambda n: 4)


@pytest.fixture
def lonely(tmp_path) -> Collection:
    """Each query asks for a law that no other asks for: a prior could know it only from the query itself."""
    return made(tmp_path, 30, lambda n: n + 5)


def judged(of: Collection) -> Judged:
    return Judged(of.queries, of.qrels, "mrr@10")


def measured(of: Collection, fold_of, settings=RetrievalConfig(), left_out=(None,), choices=CHOICES):  # type: ignore[no-untyped-def]  # noqa: B008
    return values_with_priors(table_of(Passage, of.documents), judged(of), fold_of, settings, left_out, choices)


def folds_of(of: Collection) -> np.ndarray:
    return assign_folds(of.qrels, list(of.queries), FOLDS)


def tuned(of: Collection, choices=CHOICES, folds=FOLDS):  # type: ignore[no-untyped-def]
    """The three steps in this process."""
    documents = table_of(Passage, of.documents)

    def with_priors(asked, fold_of):
        return np.concatenate([measured(of, fold_of, settings, (fold,), choices) for settings, fold in asked])

    priors = Priors(choices, with_priors, lambda choice: prior_of(of, choice))
    return tune(
        of.qrels, of.queries, RetrievalConfig(), folds,
        lambda settings, retriever: np.concatenate(
            [values_of(documents, judged(of), [one], retriever) for one in settings]
        ),
        priors,
    )  # fmt: skip


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "term_settings", lambda untuned, queries: [untuned])
    monkeypatch.setattr(tuning, "title_settings", lambda settings: [settings])
    monkeypatch.setattr(tuning, "fusion_settings", lambda settings: [settings])


def test_every_grouping_that_parts_the_passages_is_tried_with_every_weight():
    passages = [("a 1", "file"), ("b 2", "file")]
    found = prior_choices(passages, ("title", "head", "source"))
    assert found == [PriorChoice(group, weight) for group in ("title", "head") for weight in WEIGHTS]
    assert [one.group for one in prior_choices([("", "x"), ("", "y")], ("title", "source"))] == ["source"] * 4
    assert prior_choices([("a 1", "x"), ("a 2", "x")], ("head", "source")) == []
    assert len(prior_choices([("a 1", "x"), ("a 2", "x")], ("head",), "2")) == len(WEIGHTS)
    assert prior_choices(passages, ()) == [] and all(weight > 0 for weight in WEIGHTS)


def test_without_a_prior_values_are_those_of_the_step_before(popular):
    settings = RetrievalConfig(fusion="rrf", fusion_depth=7)
    found = measured(popular, folds_of(popular), settings, (None, 2))
    expected = values_of(table_of(Passage, popular.documents), judged(popular), [settings], "hybrid")
    assert found.shape == (2, 4, 24) and np.array_equal(found[:, 0], np.repeat(expected, 2, 0))


def test_values_are_those_of_an_index_whose_prior_was_learned_without_the_querys_fold(popular, tmp_path):
    fold_of = folds_of(popular)
    found = measured(popular, fold_of)
    places = {document.doc_id: place for place, document in enumerate(popular.documents)}
    for fold in range(FOLDS):
        seen = [query for query, of in zip(popular.queries, fold_of, strict=True) if of != fold]
        relevant = [places[d] for q in seen for d, grade in popular.qrels[q].items() if grade and d in places]
        prior = learn([(one.title, one.source) for one in popular.documents], relevant, "head")
        path = tmp_path / f"{fold}.json"
        path.write_text(prior.to_json(), encoding="utf-8")
        settings = RetrievalConfig(prior=PriorConfig(file=str(path), sha256=prior.sha256, weight=0.5))
        rankings = evaluate_search(popular, settings).rankings["hybrid"]
        expected = measure(rankings, popular.qrels, {"mrr@10": "RR@10"})["mrr@10"]
        of_fold = [q for q, of in zip(popular.queries, fold_of, strict=True) if of == fold]
        assert found[0, 1][fold_of == fold] == pytest.approx([expected[query] for query in of_fold])
    assert found[0, 1].mean() > found[0, 0].mean() + 0.2


def test_a_query_learns_nothing_from_its_own_judgements(lonely, tmp_path):
    """No other query is judged to be about its law: a prior that helps it was told so by itself."""
    found = measured(lonely, folds_of(lonely))
    assert found[0, 2].mean() <= found[0, 0].mean()
    known = prior_of(lonely, CHOICES[1])
    path = tmp_path / "prior.json"
    path.write_text(known.to_json(), encoding="utf-8")
    leaking = RetrievalConfig(prior=PriorConfig(file=str(path), sha256=known.sha256, weight=3.0))
    assert evaluate_search(lonely, leaking).metrics["hybrid"]["mrr@10"] > 2 * found[0, 0].mean()


def test_a_left_out_fold_has_no_say_in_the_values_of_others(popular):
    fold_of = folds_of(popular)
    out = fold_of == 2
    moved = dict(popular.qrels)
    for query in np.array(list(popular.queries))[out]:
        moved[query] = {"1-0": 1, "1-1": 1, "2-2": 1}
    other = replace(popular, qrels=moved)
    before, after = (measured(of, fold_of, left_out=(2, None)) for of in (popular, other))
    assert np.array_equal(before[0][:, ~out], after[0][:, ~out])
    assert not np.array_equal(before[1][:, ~out], after[1][:, ~out])  # else it compares nothing
    assert np.array_equal(before[0][:, out], before[1][:, out])  # a query's own fold is out in any case


def test_a_held_out_fold_does_not_choose_its_own_prior(few, popular):
    fold_of, first = folds_of(popular), tuned(popular)
    assert {fold.prior for fold in first.folds} != {None}
    moved = dict(popular.qrels)
    for query, fold in zip(popular.queries, fold_of.tolist(), strict=True):
        if fold == 1:
            moved[query] = {document: 1 - grade for document, grade in popular.qrels[query].items()} | {"0-0": 1}
    asked: list[list[float]] = []

    def with_priors(of):  # type: ignore[no-untyped-def]
        values = measured(of, fold_of, left_out=(1,))[0]
        row = prior_of_best(values, fold_of != 1)
        asked.append([row, *values[row, fold_of != 1].tolist()])

    with_priors(popular)
    with_priors(replace(popular, qrels=moved))
    assert asked[0] == asked[1]
    assert first.folds[1].prior == (None, *CHOICES)[int(asked[0][0])]


def test_a_prior_is_chosen_where_judgements_agree_and_is_learned_from_all(few, popular):
    found = tuned(popular)
    assert found.prior_choice in CHOICES[:2] and found.prior == prior_of(popular, found.prior_choice)
    assert found.prior.groups["Law e"] == (24, 6) and found.prior.groups["Law a"] == (0, 6)
    assert found.held_out.mean() > found.without_prior.mean() == found.before.mean()
    assert found.prior_difference.mean == pytest.approx(found.held_out.mean() - found.without_prior.mean())
    assert found.better and "adds +" in prior_lines(found)[0]
    means = dict(found.priors)
    assert found.chosen_mean == means[found.prior_choice] > means[None]


def test_no_prior_is_chosen_where_judgements_say_nothing_of_others(few, lonely):
    found = tuned(lonely)
    assert found.prior is None and found.prior_choice is None and {fold.prior for fold in found.folds} == {None}
    assert np.array_equal(found.held_out, found.without_prior) and len(found.priors) == 4
    assert prior_lines(found)[0].startswith("No learned prior was chosen")


def test_without_choices_nothing_is_measured(few, popular):
    found = tuned(popular, choices=())
    assert found.prior is None and len(found.priors) == 1 and prior_lines(found) == []
    assert np.array_equal(found.held_out, found.without_prior)


def test_ties_and_small_gains_keep_the_search_without_a_prior():
    values = np.array([[0.5, 0.5, 0.5, 0.5], [0.9, 0.3, 0.6, 0.3], [0.6, 0.6, 0.6, 0.5]])
    assert prior_of_best(values[:2], np.ones(4, bool)) == 0  # gains .025, standard error .144
    assert prior_of_best(values, np.ones(4, bool)) == 2  # gains .075, standard error .025
    assert prior_of_best(values[[0, 0]], np.ones(4, bool)) == 0
    assert prior_of_best(values, np.array([True, False, False, False])) == 0  # one query says too little


def test_settings_are_grouped_by_what_makes_their_lists():
    a, b = RetrievalConfig(), RetrievalConfig(rrf_k=7)
    assert by_settings([(a, 0), (b, 1), (a, None)]) == {a: [0, 2], b: [1]}


@pytest.mark.parametrize(
    "start",
    [
        RetrievalConfig(prior=PriorConfig(file="prior.json", sha256="0" * 64, weight=1.0)),
        RetrievalConfig(feedback=FeedbackConfig()),
    ],
)
def test_a_search_does_not_start_from_a_prior_or_feedback(popular, start):
    field = "prior" if start.prior else "feedback"
    with pytest.raises(ConfigError, match=rf"retrieval\.{field}=null"):
        tune(popular.qrels, popular.queries, start, 2, lambda settings, retriever: np.zeros((len(settings), 24)))


def test_the_written_prior_is_found_by_the_written_settings(few, popular, tmp_path):
    found, out = tuned(popular), tmp_path / "out"
    out.mkdir()
    write_tuning(out, found, popular.queries, "mrr@10", "24 judged queries.")
    tree = yaml.safe_load((out / "tuned.yaml").read_text())["retrieval"]
    settings = validate_section(RetrievalConfig, tree, "tuned.yaml")
    assert settings.prior is not None and read_prior(settings.prior) == found.prior
    assert evaluate_search(popular, settings).metrics["hybrid"]["mrr@10"] > found.held_out.mean() - 0.2
    written = json.loads((out / "tune.json").read_text())
    assert written == json.loads(json.dumps(tuning_tree(found, "mrr@10")))
    assert (
        written["tuned"]["prior"]["file"] == "prior.json"
        and written["tuned"]["prior"]["weight"] == settings.prior.weight
    )
    assert [one["prior"] for one in written["folds"]] == [
        fold.prior and {"group": fold.prior.group, "weight": fold.prior.weight} for fold in found.folds
    ]
    report = (out / "report.md").read_text()
    assert "Learned prior" in report and "no prior" in report and "retrieval.prior.weight" in report
    assert "leave it out where users ask about other things" in report + (out / "tuned.yaml").read_text()


def test_a_fold_chooses_a_prior_by_other_folds_alone(few, popular):
    """Making one fold's values anything else never changes what is chosen without it."""
    fold_of, rows = folds_of(popular), np.random.default_rng(3).random((FOLDS + 1, 1 + len(CHOICES), 24))
    rows += 2.0 * np.arange(1 + len(CHOICES))[:, None] * (np.arange(24) % 2)  # so that a prior is worth it

    def found(values: np.ndarray) -> tuning.Tuning:
        priors = Priors(CHOICES, lambda asked, folds: values, lambda choice: prior_of(popular, choice))
        return tune(
            popular.qrels, popular.queries, RetrievalConfig(), FOLDS, lambda s, r: np.zeros((len(s), 24)), priors
        )

    first, changed = found(rows), False
    for fold in range(FOLDS):
        values = rows.copy()
        values[:, :, fold_of == fold] = 9.0 - 3 * values[:, :, fold_of == fold]
        again = found(values)
        assert again.folds[fold].prior == first.folds[fold].prior is not None
        held_out = values[fold, 1 + CHOICES.index(first.folds[fold].prior), fold_of == fold]
        assert np.array_equal(again.held_out[fold_of == fold], held_out)
        changed |= [one.prior for one in again.folds] != [one.prior for one in first.folds]
    assert changed

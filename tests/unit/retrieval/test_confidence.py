"""The probability that the passages answer: fitted right, kept, and higher where they do."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ragray.errors import ArtifactError, DataError
from ragray.retrieval.confidence import (
    FEATURES,
    FILE,
    Confidence,
    Examples,
    coverage,
    decline_threshold,
    features,
    fit,
    logistic_regression,
    reliability,
)
from ragray.retrieval.index import HybridIndex


def examples(count: int = 200) -> Examples:
    """Questions whose answer shows in the first feature, with some noise."""
    chance = np.random.default_rng(3)
    answerable = np.arange(count) % 2 == 0
    rows = chance.normal(size=(count, len(FEATURES)))
    rows[:, 0] += 3.0 * answerable
    return Examples(rows, answerable, answerable, np.arange(count) % 5)


def test_logistic_regression_equals_sklearn() -> None:
    data = examples()
    standard = (data.rows - data.rows.mean(axis=0)) / data.rows.std(axis=0)
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(standard, data.answered)
    intercept, coefficients = logistic_regression(data.rows, data.answered)
    expected = reference.predict_proba(standard)[:, 1]
    ours = 1 / (1 + np.exp(-(data.rows @ coefficients + intercept)))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize(("limit", "threshold"), [(0.0, 0.1), (0.2, 0.3), (0.39, 0.3), (0.4, 0.5), (1.0, 0.9)])
def test_the_threshold_refuses_at_most_the_share(limit: float, threshold: float) -> None:
    probabilities = np.array([0.9, 0.1, 0.5, 0.3, 0.7])
    chosen = decline_threshold(probabilities, limit)
    assert chosen == threshold
    assert (probabilities < chosen).mean() <= limit


def test_fit_keeps_the_promise_on_held_out_questions() -> None:
    data = examples()
    model = fit(data, max_false_declines=0.1)
    assert model.metrics["declined_answerable"] <= 0.1
    assert model.metrics["declined_unanswerable"] > 0.7
    assert model.counts == {"questions": 200, "answerable": 100, "answered": 100}


def test_a_stricter_limit_declines_less() -> None:
    thresholds = [fit(examples(), limit).threshold for limit in (0.0, 0.05, 0.2)]
    assert thresholds == sorted(thresholds) and thresholds[0] < thresholds[-1]


def test_questions_that_find_nothing_do_not_move_the_model() -> None:
    data = examples()
    nothing = np.zeros((50, len(FEATURES)))
    more = Examples(
        np.vstack([data.rows, nothing]),
        np.append(data.answered, np.zeros(50, bool)),
        np.append(data.answerable, np.zeros(50, bool)),
        np.append(data.folds, np.arange(50) % 5),
    )
    assert fit(more, 0.05).coefficients == fit(data, 0.05).coefficients
    assert fit(more, 0.05).probabilities(nothing).tolist() == [0.0] * 50


def test_bins_by_hand() -> None:
    bars = reliability(np.array([0.02, 0.04, 0.95, 1.0]), np.array([False, True, True, True]))
    shown = [(bar.low, bar.count, bar.mean_probability, bar.share_answered) for bar in bars]
    assert shown == [(0.0, 2, pytest.approx(0.03), 0.5), (0.9, 2, pytest.approx(0.975), 1.0)]


def test_fit_without_both_kinds_is_a_data_error() -> None:
    data = examples(20)
    one_kind = Examples(data.rows, np.ones(20, bool), np.ones(20, bool), data.folds)
    with pytest.raises(DataError, match="too few questions"):
        fit(one_kind, 0.05)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    model = fit(examples(), 0.05, "digest")
    model.write(tmp_path)
    assert Confidence.open(tmp_path) == model


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format_version": 9}'])
def test_a_damaged_file_is_an_artifact_error(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ArtifactError):
        Confidence.open(tmp_path)


def test_a_missing_file_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        Confidence.open(tmp_path)


def test_nothing_found_has_probability_zero(index: HybridIndex) -> None:
    assert fit(examples(), 0.05).probability(index, "zzyzx", []) == 0.0
    assert features(index, "zzyzx", []).tolist() == [0.0] * len(FEATURES)


def named(index: HybridIndex, question: str, absent: tuple[str, ...] = ()) -> dict[str, float]:
    hits = index.search(question, 10, absent)
    return dict(zip(FEATURES, features(index, question, hits, absent).tolist(), strict=True))


def test_features_of_a_question_as_it_stands(index: HybridIndex) -> None:
    question = "How do I train on two GPUs?"
    best = index.search(question, 1)[0]
    shown = named(index, question)
    assert shown["title_similarity"] == pytest.approx(1.0)
    assert shown["missed_most"] == 0.0
    assert shown["log_terms"] == pytest.approx(np.log1p(3))  # train, two, gpu
    assert shown["cosine"] == pytest.approx(best.tfidf_score)
    # of 7 documents: 4 hold "train", 1 holds "two" and 1 "gpu"
    assert shown["bm25_share"] == pytest.approx(best.bm25_score / (np.log(8 / 5) + 2 * np.log(8 / 2)))


def test_more_hits_than_are_read_change_nothing(index: HybridIndex) -> None:
    hits = index.search("train the model", 100)
    assert features(index, "train the model", hits * 5).tolist() == features(index, "train the model", hits).tolist()


def test_a_term_that_hidden_documents_alone_hold_is_unknown(index: HybridIndex) -> None:
    shown = named(index, "train on two gpus", absent=("gpu",))
    assert shown["missed_most"] == 1.0
    assert shown["log_terms"] == pytest.approx(np.log1p(1))
    assert shown["title_similarity"] < 0.5 < named(index, "train on two gpus")["title_similarity"]


def test_unknown_words_lower_the_coverage(index: HybridIndex) -> None:
    assert coverage(index, "train gpus", ["gpu", "empty"]) == pytest.approx([1.0, 0.0])
    # information ln((1 + 7) / (1 + df)): "train" in 4 documents, "gpu" in 1, "zzyzx" in none
    known = np.log(8 / 5) + np.log(8 / 2)
    assert coverage(index, "train gpus zzyzx", ["gpu"]) == pytest.approx([known / (known + np.log(8))])
    assert coverage(index, "", ["gpu"]) == [0.0]

"""The threshold of the semantic cache: it keeps to its budget, or there is none."""

import json
import math
import random
from pathlib import Path

import pytest
from scipy.stats import binomtest

from ragray.errors import ArtifactError
from ragray.retrieval.agreement import READING_VERSION, Reading
from ragray.retrieval.false_hits import FILE, LEAST, FalseHits, Scores, measure, threshold, upper_bound
from ragray.retrieval.similar import Wording


@pytest.mark.parametrize(("count", "total"), [(0, 299), (0, 10), (3, 500), (17, 40), (40, 40), (39, 40), (0, 1)])
def test_the_bound_is_that_of_clopper_and_pearson(count: int, total: int) -> None:
    theirs = binomtest(count, total, alternative="less").proportion_ci(0.95, method="exact").high
    assert upper_bound(count, total) == pytest.approx(theirs, abs=1e-9)


def test_too_few_questions_show_no_budget() -> None:
    assert threshold([0.0] * 298, 0.01) is None  # 1 - 0.05 ** (1 / 298) is above 0.01
    assert threshold([0.0] * 299, 0.01) is not None
    assert threshold([], 0.01) is None


def test_the_threshold_is_the_lowest_that_keeps_to_the_budget() -> None:
    chance = random.Random(3)
    others = [chance.random() for _ in range(1000)]
    limit = threshold(others, 0.05)
    assert limit is not None
    reached = sum(score >= limit for score in others)
    assert upper_bound(reached, 1000) <= 0.05 < upper_bound(reached + 1, 1000)
    below = max(score for score in others if score < limit)
    assert limit == math.nextafter(below, 2.0)


def test_what_cannot_be_told_apart_is_not_hit() -> None:
    assert FalseHits({"en": Scores((1.0,) * 400, ())}).thresholds(0.01) == {}


def test_no_threshold_goes_below_what_labelled_pairs_need() -> None:
    easy = Scores((0.1,) * 400, (0.5, 0.99, 1.0, 1.0))
    fitted = FalseHits({"en": easy, "other": easy})
    assert fitted.thresholds(0.01) == {"en": LEAST["en"]}
    assert fitted.hit_rates(0.01) == {"en": 0.75}


def test_questions_are_measured_against_those_of_other_answers() -> None:
    def wording(*terms: str) -> Wording:
        return Wording("", "en", dict.fromkeys(terms, 1 / math.sqrt(len(terms))), Reading((), ()))

    questions = [(wording("a", "b"), 1), (wording("a", "b"), 1), (wording("a", "c"), 2), (wording("z"), 3)]
    scores = measure(questions, [(wording("a", "b"), 0), (wording("q"), 3)])
    assert scores.others == pytest.approx((0.5, 0.5, 0.5, 0.0), abs=2e-6)
    assert scores.same == pytest.approx((1.0, 0.0), abs=2e-6)


def test_what_another_reading_of_questions_measured_shows_nothing(tmp_path: Path) -> None:
    fitted = FalseHits({"en": Scores((0.1,) * 400, (1.0,))})
    fitted.write(tmp_path)
    tree = json.loads((tmp_path / FILE).read_text())
    assert tree.pop("reading") == READING_VERSION
    (tmp_path / FILE).write_text(json.dumps(tree))  # as it was before readings had a number
    older = FalseHits.open(tmp_path)
    assert older is not None and older.reading == 1
    assert (older.thresholds(0.01), older.hit_rates(0.01)) == ({}, {})
    assert fitted.thresholds(0.01) == {"en": LEAST["en"]}


def test_it_is_kept_as_json_and_read_again(tmp_path: Path) -> None:
    fitted = FalseHits({"zh": Scores((0.25, 0.5), (1.0,))})
    assert FalseHits.open(tmp_path) is None
    fitted.write(tmp_path)
    assert FalseHits.open(tmp_path) == fitted
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        FalseHits.open(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"format_version": 0}))
    with pytest.raises(ArtifactError, match="another version"):
        FalseHits.open(tmp_path)

"""Figures of the reference scripts, recorded on the bundled FAQ's texts, and published ones."""

import json
from pathlib import Path

import pytest

from ragray.evaluation.answers import cmrc_f1, exact_match, token_f1

FIGURES = json.loads((Path(__file__).parent / "reference_figures.json").read_text(encoding="utf-8"))["rows"]
ENGLISH = [row for row in FIGURES if row["lang"] == "en" and (row["prediction"] + "".join(row["references"])).isascii()]


def test_the_record_tells_right_from_wrong():
    assert len(ENGLISH) > 10 and len(FIGURES) - len(ENGLISH) > 10
    for name in ("squad_f1", "cmrc_f1"):
        assert len({round(row[name], 6) for row in FIGURES}) > 12


def test_squad():
    for row in ENGLISH:
        given, references = row["prediction"], row["references"]
        assert exact_match(given, references, "en") == row["squad_exact_match"], given
        assert token_f1(given, references, "en") == pytest.approx(row["squad_f1"]), given


def test_cmrc():
    for row in FIGURES:
        assert cmrc_f1(row["prediction"], row["references"]) == pytest.approx(row["cmrc_f1"]), row["prediction"]


def test_the_published_example_of_squad():
    # The metric card of Hugging Face's `squad`: {'exact_match': 66.66666666666667, 'f1': 66.66666666666667}
    answered = [("1976", "1976"), ("Beyonce", "Beyoncé and Bruno Mars"), ("climate change", "climate change")]
    for metric in (exact_match, token_f1):
        values = [metric(given, [wanted], "en") for given, wanted in answered]
        assert 100 * sum(values) / len(values) == pytest.approx(66.66666666666667)

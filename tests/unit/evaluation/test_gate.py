"""The gate: what passes, what is chosen, and the front, on values computed by hand."""

import pytest

from ragray.config_quantize import GateConfig
from ragray.evaluation.gate import Candidate, decide, pareto_front
from ragray.evaluation.significance import Resampling

RESAMPLING = Resampling(200, 1)
FULL = Candidate("full", 1000, 10.0, 0.0, (1.0, 1.0, 0.5, 0.5))
ALIKE = Candidate("alike", 250, 20.0, 0.01, (1.0, 1.0, 0.5, 0.5))
WORSE = Candidate("worse", 120, 40.0, 0.04, (1.0, 1.0, 0.5, 0.46))  # .01 less on average
WRONG = Candidate("wrong", 100, 50.0, 0.2, (0.0, 1.0, 0.5, 0.5))  # .25 less
DAMAGED = Candidate("damaged", 90, 60.0, 3.0, (1.0, 1.0, 1.0, 1.0))


def chosen(*candidates: Candidate, **gate) -> str | None:
    return decide(FULL, candidates, GateConfig(**gate), RESAMPLING).chosen


def test_the_smallest_that_keeps_the_answers_is_chosen() -> None:
    decision = decide(FULL, [ALIKE, WORSE, WRONG, DAMAGED], GateConfig(), RESAMPLING)
    assert decision.chosen == "worse"
    assert [verdict.passed for verdict in decision.verdicts] == [True, True, False, False]
    assert decision.reason == "worse is the smallest (0.0 MB) of 2 that keep f1 within 0.02 of the full model's"
    assert decision.verdicts[1].difference.mean == pytest.approx(-0.01)
    assert decision.verdicts[2].reason.startswith("f1 -0.250, p = ")
    assert decision.verdicts[3].reason == "damaged: 3.000 nats from the full model, at most 0.5 allowed"


def test_none_passes_the_full_model_stays() -> None:
    decision = decide(FULL, [WRONG, DAMAGED], GateConfig(), RESAMPLING)
    assert decision.chosen is None
    assert decision.reason == "none of 2 models passed: the full model stays"


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        ({"max_drop": 0.01}, "worse"),  # just within
        ({"max_drop": 0.009}, "alike"),
        ({"max_drop": 0.3}, "wrong"),
        ({"max_drop": 1.0, "max_kl_nats": 5.0}, "damaged"),
        ({"max_drop": 0.0, "max_kl_nats": 0.0}, None),
        ({"drop": "interval"}, "alike"),  # the worse one's interval reaches to -.03
        ({"drop": "interval", "max_drop": 0.05}, "worse"),
    ],
)
def test_every_setting_moves_the_gate(gate: dict, name: str | None) -> None:
    assert chosen(ALIKE, WORSE, WRONG, DAMAGED, **gate) == name


def test_the_fastest_is_chosen_of_those_whose_speed_is_known() -> None:
    slow = Candidate("slow", 10, 1.0, 0.0, FULL.values)
    simulated = Candidate("simulated", 5, None, 0.0, FULL.values)
    assert chosen(ALIKE, slow, simulated) == "simulated"
    assert chosen(ALIKE, slow, simulated, prefer="fastest") == "alike"
    decision = decide(FULL, [simulated], GateConfig(prefer="fastest"), RESAMPLING)
    assert decision.verdicts[0].reason == "its speed was not measured"


def test_of_equal_cost_the_nearest_to_the_full_model_is_chosen() -> None:
    near = Candidate("near", 250, 20.0, 0.001, FULL.values)
    assert chosen(ALIKE, near) == "near" == chosen(near, ALIKE)


def test_a_better_model_passes() -> None:
    assert chosen(Candidate("better", 10, 1.0, 0.3, (1.0, 1.0, 1.0, 1.0)), max_drop=0.0) == "better"


def test_nothing_to_score_and_damaged_figures_do_not_pass() -> None:
    empty = Candidate("full", 1000, 10.0, 0.0, ())
    decision = decide(empty, [Candidate("any", 1, 1.0, 0.0, ())], GateConfig(), RESAMPLING)
    assert decision.chosen is None and decision.verdicts[0].reason == "no question can be scored"
    assert chosen(Candidate("nan", 1, 1.0, float("nan"), FULL.values)) is None


def test_the_front_is_what_no_other_point_beats() -> None:
    points = {"a": (1.0, 0.5), "b": (2.0, 0.7), "c": (3.0, 0.6), "d": (3.0, 0.9), "e": (4.0, 0.9), "f": (1.0, 0.4)}
    assert pareto_front(points) == ("a", "b", "d")
    assert pareto_front({"x": (1.0, 1.0), "y": (1.0, 1.0)}) == ("x", "y")  # equal ones do not beat each other
    assert pareto_front({}) == ()

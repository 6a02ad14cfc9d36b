"""What the drills of a running service conclude from what they saw."""

from __future__ import annotations

from random import Random

import pytest
from chaos import Kill, unexcused
from drill import fit
from drill_client import BROKEN, CUT, Known, Outcome
from soak import memory_rows, role


def test_the_line_of_least_squares_and_its_interval() -> None:
    line = fit([0, 1, 2, 3], [1, 2, 2, 3])
    # by hand: slope 3/5, residues -0.1, 0.3, -0.3, 0.1, s^2 = 0.2/2, t(0.975, 2) = 4.302653
    assert line.slope == pytest.approx(0.6)
    assert line.spread == pytest.approx(0.1**0.5)
    assert line.error == pytest.approx(4.302653 * (0.1 / 5) ** 0.5)


def samples(per_minute: float) -> list[tuple[float, float]]:
    """Half an hour of memory with a spread of 2 MiB, a sample every five seconds."""
    chance = Random(5)
    return [(number / 12, 300 + per_minute * number / 12 + chance.gauss(0, 2)) for number in range(360)]


def test_a_leak_is_told_from_noise() -> None:
    rows, growing = memory_rows({"Generator": samples(0.0), "Ingress": samples(0.2)})
    assert growing == ["Ingress"]
    assert [row.split(" | ")[-1] for row in rows] == ["flat |", "grows |"]


def test_an_answer_of_a_mixture_is_a_stranger() -> None:
    known = Known([{"index": "i1"}, {"index": "i2"}], [{"engine": "e1"}])
    known.judge("x", {"index": "i2", "engine": "e1"}, None)
    known.judge("x", {"index": "i1"}, None)
    assert known.strangers() == []
    known.judge("x", {"index": "i3", "engine": "e1"}, None)
    assert known.strangers() == [{"index": "i3", "engine": "e1"}]


def test_a_greedy_answer_that_changes_is_a_fault() -> None:
    known = Known([], [])
    assert [known.judge("x", {"engine": "e1"}, text) for text in ("a", "a", "b")] == [
        "",
        "",
        "another answer than before",
    ]
    assert known.judge("x", {"engine": "e2"}, "b") == ""


def test_what_a_lost_replica_excuses() -> None:
    kills = [Kill("Ingress", at=10.0, away_s=1.0), Kill("Generator", at=30.0, away_s=1.0)]
    cut_with_it = Outcome("stream", 9.0, 2.0, 200, CUT)
    cut_later = Outcome("stream", 20.0, 2.0, 200, CUT)
    cut_with_a_generator = Outcome("stream", 29.0, 2.0, 200, CUT)
    broken = Outcome("stream", 29.0, 2.0, 200, f"{BROKEN}: restarting")
    failed = Outcome("ask", 9.0, 2.0, 503, "status 503 restarting in place of 200")
    good = Outcome("ask", 9.0, 2.0, 200)
    seen = [cut_with_it, cut_later, cut_with_a_generator, broken, failed, good]
    assert unexcused(seen, kills) == [cut_later, cut_with_a_generator, failed]


def test_a_process_is_named_by_what_it_is_and_not_by_what_it_does() -> None:
    assert role("ray::ServeReplica:ragray:Generator") == role("ray::ServeReplica:ragray:Generator.check_health")
    assert role("/x/haproxy -db -f /tmp/haproxy.cfg") == "HAProxy"
    assert role("python worker.py") == "all others"

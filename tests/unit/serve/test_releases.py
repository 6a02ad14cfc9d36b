"""When a release is loaded, switched to and dropped, by what replicas report; the clock is turned by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ragray.config_replicas import Part
from ragray.serve.artifacts import Served
from ragray.serve.releases import Failure, Order, Release, Releases, Report

FIRST = Served("i1", False, "c1", "e1", {"index": "i1", "engine": "e1"}, 0)
SECOND = Served("i2", False, "c2", "e2", {"index": "i2", "engine": "e2"}, 0)
PARTS: dict[str, Part] = {"I1": "ingress", "I2": "ingress", "G": "generator"}


class Cluster:
    """Replicas that do what they are told when they next report."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outcomes: list[str] = []
        self.releases = Releases(FIRST, lambda: self.now, self.outcomes.append)
        self.replicas = {name: Report(name, part, Release(1, FIRST), 1, loaded=(1,)) for name, part in PARTS.items()}
        self.orders: dict[str, Order] = {}

    def report(self, *names: str) -> None:
        for name in names or self.replicas:
            order = self.orders[name] = self.releases.report(self.replicas[name])
            report = self.replicas[name]
            if order.current.number in report.loaded and order.current.number > report.current.number:
                report = replace(report, current=order.current, oldest=order.current.number)
            loaded = {order.current.number, report.current.number}
            loaded |= {order.next.number} if order.next else set()
            self.replicas[name] = replace(report, loaded=tuple(sorted(loaded)))

    def begin(self, served: Served = SECOND, timeout_s: float = 60.0) -> int:
        number = self.releases.begin(served, timeout_s)
        assert isinstance(number, int), number
        return number

    def state(self, number: int) -> str:
        progress = self.releases.progress(number)
        assert progress is not None
        return progress.state


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    cluster.report()
    return cluster


def test_all_load_before_one_switches(cluster: Cluster) -> None:
    number = cluster.begin()
    cluster.report()  # each hears of it, and has it with its next report
    cluster.report("I1", "G")
    assert {order.current.number for order in cluster.orders.values()} == {1}
    assert cluster.state(number) == "loading"
    progress = cluster.releases.progress(number)
    assert progress is not None and progress.waits_for == ("I2",)
    cluster.report("I2")
    assert (cluster.orders["I2"].current, cluster.orders["I2"].next) == (Release(2, SECOND), None)
    assert cluster.state(number) == "switching"
    cluster.report()
    cluster.report()
    assert (cluster.state(number), cluster.outcomes) == ("served", ["served"])
    assert cluster.releases.current() == Release(2, SECOND)


def test_the_former_release_is_kept_while_an_answer_runs_on_it(cluster: Cluster) -> None:
    cluster.begin()
    for _ in range(4):
        cluster.report()
    cluster.replicas["I2"] = replace(cluster.replicas["I2"], oldest=1)  # a stream
    cluster.report()
    cluster.report()
    assert cluster.orders["G"].oldest == 1
    cluster.replicas["I2"] = replace(cluster.replicas["I2"], oldest=2)
    cluster.report()
    cluster.report()
    assert cluster.orders["G"].oldest == 2


def test_one_that_cannot_load_it_undoes_the_swap(cluster: Cluster) -> None:
    number = cluster.begin()
    cluster.report()
    cluster.replicas["G"] = replace(
        cluster.replicas["G"], loaded=(1,), failure=Failure(number, "no memory", "free some")
    )
    cluster.report()
    progress = cluster.releases.progress(number)
    assert progress is not None and (progress.state, progress.fix) == ("failed", "free some")
    assert progress.reason == "G cannot load it: no memory"
    cluster.report()
    assert all((order.current.number, order.next) == (1, None) for order in cluster.orders.values())
    cluster.replicas["G"] = replace(cluster.replicas["G"], failure=None)
    assert cluster.begin() == number + 1  # a number is not used again
    assert cluster.outcomes == ["failed"]


def test_time_runs_out(cluster: Cluster) -> None:
    number = cluster.begin(timeout_s=5.0)
    for second in range(7):
        cluster.now = float(second)
        cluster.releases.report(cluster.replicas["G"])  # it does not load
        cluster.releases.report(cluster.replicas["I1"])
        cluster.releases.report(cluster.replicas["I2"])
    progress = cluster.releases.progress(number)
    assert progress is not None and progress.state == "failed"
    assert progress.reason == "not loaded in time by G, I1, I2" and "swap_timeout_s" in progress.fix


def test_a_command_that_is_gone_leaves_no_swap_behind(cluster: Cluster) -> None:
    number = cluster.begin(timeout_s=1000.0)
    for second in range(22):
        cluster.now = float(second)
        for name in ("I1", "I2", "G"):
            cluster.releases.report(cluster.replicas[name])
    assert cluster.orders["G"].next is None
    assert cluster.releases.report(cluster.replicas["G"]).next is None
    assert cluster.state(number) == "failed"


def test_a_replica_that_dies_is_left_out_but_not_the_last_of_its_part(cluster: Cluster) -> None:
    number = cluster.begin()
    cluster.report()
    for second in range(16):
        cluster.now = float(second)
        cluster.report("I1", "G")  # I2 says nothing any more
        cluster.state(number)
    assert cluster.state(number) == "served"
    number = cluster.begin(FIRST)
    for second in range(16, 40):
        cluster.now = float(second)
        cluster.report("I1")
        cluster.state(number)
    assert cluster.state(number) == "loading"  # no generator has tried the engine
    cluster.replicas["G2"] = Report("G2", "generator", cluster.releases.current(), 2)
    for _ in range(5):
        cluster.report("I1", "G2")
    assert cluster.state(number) == "served"


def test_a_replica_that_starts_takes_what_is_served(cluster: Cluster) -> None:
    cluster.begin()
    for _ in range(4):
        cluster.report()
    order = cluster.releases.report(Report("I3", "ingress", Release(1, FIRST), 1))
    assert order.current == Release(2, SECOND)


def test_what_a_lost_record_knew_comes_back_with_the_reports(cluster: Cluster) -> None:
    cluster.begin()
    for _ in range(4):
        cluster.report()
    cluster.releases = Releases(FIRST, lambda: cluster.now)
    assert cluster.releases.report(Report("I3", "ingress", Release(1, FIRST), 1)).current.number == 1
    cluster.report("G")
    assert cluster.releases.report(Report("I3", "ingress", Release(1, FIRST), 1)).current == Release(2, SECOND)
    assert cluster.state(2) == "served" and cluster.releases.progress(3) is None
    assert cluster.begin(FIRST) == 3


def reasons(cluster: Cluster, asked: Sequence[Served]) -> list[str]:
    return [str(cluster.releases.begin(served, 60.0)) for served in asked]


def test_what_is_refused(cluster: Cluster) -> None:
    searching = replace(SECOND, engine=None, confidence=None)
    assert "these artifacts make retrieval" in reasons(cluster, [searching])[0]
    assert reasons(cluster, [SECOND, FIRST]) == ["2", "another swap, to release 2, is running"]
    assert cluster.releases.abort(2) and not cluster.releases.abort(2)
    cluster.now = 100.0
    assert reasons(cluster, [SECOND]) == ["none of the application's replicas answers"]


def test_the_last_that_leaves_is_told_apart(cluster: Cluster) -> None:
    assert [cluster.releases.leave(name) for name in ("I1", "G", "I2")] == [False, False, True]

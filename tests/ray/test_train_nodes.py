"""Nodes that leave and nodes that come while a run is training, on a simulated cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__)
LAST = "step-00000300"


def facts_of(scene, folder):
    """What `training_cluster.py` found out; a process of its own, since a process has one Ray."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[2]), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE.with_name("training_cluster.py")), scene, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def preempted(tmp_path_factory):
    return facts_of("preempted", tmp_path_factory.mktemp("preempted"))


def test_a_node_that_is_taken_away_costs_no_restart_and_few_steps(preempted):
    first, last = preempted["checkpoints"]  # none was due but the last: the notice made the first
    assert first < last == LAST
    assert preempted["steps"] == list(range(301))
    before, after = preempted["nodes"]
    assert before != after
    assert set(preempted["groups"]) == {"REMOVED"}


def test_five_killed_workers_and_nodes_are_survived_with_the_same_bytes(tmp_path):
    found = facts_of("killed", tmp_path)
    assert sorted(found["kills"]) == ["node", "node", "worker", "worker", "worker"]
    undisturbed, disturbed = found["adapters"]
    assert disturbed == undisturbed
    assert found["steps"] == list(range(101)), "no step is in the history twice"
    assert found["metrics"] == found["steps"][1:]
    assert found["losses"] == found["whole_losses"]
    assert found["left"] == found["whole_left"]
    assert set(found["groups"]) == {"REMOVED"}
    assert (found["actors"], found["processes"]) == ([], [])


def test_a_lost_controller_is_told_and_the_same_command_goes_on(tmp_path):
    found = facts_of("orphaned", tmp_path)
    message, fix = found["told"]
    assert "controller of the workers was lost" in message
    assert "resumes from the last checkpoint" in fix
    assert found["reached"] < LAST == found["checkpoints"][-1]
    assert found["steps"] == list(range(301))


def test_a_node_that_comes_is_made_use_of(preempted, tmp_path):
    grown = facts_of("elastic", tmp_path)
    sizes = grown["sizes"]
    assert sizes[0] == 1 and sizes[-1] == 2, "shares of one worker first, of two at the end"
    assert sizes == sorted(sizes)
    assert grown["checkpoints"][-1] == LAST
    assert grown["steps"] == list(range(301))
    soon_after = 10 * sizes.index(2) + 20  # later the rounding of sums has grown
    assert grown["losses"][1:soon_after] == pytest.approx(preempted["losses"][1:soon_after], abs=1e-4)

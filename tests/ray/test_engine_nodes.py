"""Engines on a simulated cluster: each on its type of device, again after a lost node, once for two builders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("engine_cluster.py")
ACCELERATORS = ("A100", "H100", "L4")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("engines") / "cluster"
    ran = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=540)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
def test_each_engine_is_built_on_a_node_of_its_type(facts: dict[str, Any]) -> None:
    scene = facts["all_types"]
    engines = scene["first"]["engines"]
    assert list(engines) == ["engine cpu", "engine A100", "engine H100", "engine L4"]
    assert engines["engine cpu"]["builder"] == "transformers"
    assert f"node {scene['nodes']['cpu']}" in engines["engine cpu"]["log"]
    for name in ACCELERATORS:
        engine = engines[f"engine {name}"]
        assert engine["where"]["node"] == scene["nodes"][name]
        assert engine["device"]["type"] == engine["where"]["type"] == name
        assert engine["builder"] == "stand-in"
        assert engine["limits"] == {
            "max_batch_size": 64, "max_input_tokens": 2048, "max_sequence_tokens": 2560, "max_num_tokens": None,
        }  # fmt: skip
        assert "stand-in==1" in engine["log"] and "verified: " in engine["log"]
        assert engine["build_s"] >= 0


@pytest.mark.slow
def test_a_device_types_environment_is_that_of_its_build_alone(facts: dict[str, Any]) -> None:
    engines = facts["all_types"]["first"]["engines"]
    found = {
        name: (e["where"]["wrapped"], e["where"]["env"]) for name in ACCELERATORS if (e := engines[f"engine {name}"])
    }
    assert found == {"A100": ("yes", "told"), "H100": (None, None), "L4": (None, None)}


@pytest.mark.slow
def test_engines_that_are_there_are_kept_and_other_limits_are_other_engines(facts: dict[str, Any]) -> None:
    scene = facts["all_types"]
    assert scene["marks"] == 3
    assert [engine["kept"] for engine in scene["first"]["engines"].values()] == [False] * 4
    assert [engine["kept"] for engine in scene["second"]["engines"].values()] == [True] * 4
    third = scene["third"]["engines"]
    assert {name: engine["kept"] for name, engine in third.items()} == {
        "engine cpu": True, "engine A100": False, "engine H100": False, "engine L4": False,
    }  # fmt: skip


@pytest.mark.slow
def test_a_build_whose_node_is_lost_is_done_again_on_another_of_its_type(facts: dict[str, Any]) -> None:
    scene = facts["killed"]
    assert scene["lost"]["type"] == scene["again"]["type"] == "H100"
    assert scene["lost"]["node"] != scene["again"]["node"] == scene["left"]
    engine = scene["engines"]["engine H100"]
    assert engine["where"] == scene["again"]
    assert "engine for H100: its worker was lost; started anew, 1 of 3" in scene["said"]


@pytest.mark.slow
def test_a_type_without_a_node_waits_says_so_and_ends_at_its_limit(facts: dict[str, Any]) -> None:
    never = facts["waiting"]["never"]
    assert never["said"][0] == "waiting up to 4 s for a node of type T4: the cluster has cpu, A100, H100, L4"
    message, fix = never["error"]
    assert message == "engine for T4: no node of this type joined the cluster within 4 s; it has cpu, A100, H100, L4"
    assert "add a node with a device that Ray calls T4" in fix and "engine.wait_s" in fix


@pytest.mark.slow
def test_a_node_that_joins_while_a_build_waits_takes_it(facts: dict[str, Any]) -> None:
    came = facts["waiting"]["came"]
    assert came["said"][0].startswith("waiting up to 120 s for a node of type T4")
    assert came["engines"]["engine T4"]["device"]["type"] == "T4"


@pytest.mark.slow
def test_a_device_that_is_in_use_is_waited_for_and_the_message_says_so(facts: dict[str, Any]) -> None:
    busy = facts["waiting"]["busy"]
    assert "engine for T4: waits for a place in the cluster, at most 4 s" in busy["said"]
    assert busy["error"][0] == "engine for T4: no T4 was free within 4 s"
    assert facts["waiting"]["occupied"]["engines"]["engine T4"]["kept"] is False


@pytest.mark.slow
def test_two_builders_of_one_engine_build_once(facts: dict[str, Any]) -> None:
    scene = facts["twice"]
    assert scene["more"] == []
    assert scene["other"]["engines"]["engine L4"]["kept"] is False
    assert scene["mine"]["engines"]["engine L4"]["kept"] is True
    assert scene["mine"]["engines"]["engine L4"]["where"] == scene["other"]["engines"]["engine L4"]["where"]
    assert any(
        line.startswith("engine L4: process ") and line.endswith("makes it; waiting") for line in scene["mine"]["said"]
    )


@pytest.mark.slow
def test_a_builder_that_is_killed_leaves_its_turn_to_another(facts: dict[str, Any]) -> None:
    assert facts["twice"]["after"]["engines"]["engine L4"]["kept"] is False


@pytest.mark.slow
def test_an_engine_that_answers_worse_than_its_model_is_kept_and_marked(facts: dict[str, Any]) -> None:
    scene = facts["unusable"]
    assert scene["metrics"]["usable"] is False
    assert "this stand-in fp16 engine answers worse than its model on 8 prompts" in scene["error"][0]
    assert "--for A100 --set engine.devices.A100.weights=" in scene["error"][1]

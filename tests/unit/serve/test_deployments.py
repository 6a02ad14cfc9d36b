"""Each part's settings reach Serve: copies, autoscaling, reserved resources, queues; and who holds the retriever."""

from __future__ import annotations

from typing import Any

import pytest

from ragray.config import EngineConfig, ServeConfig
from ragray.serve.artifacts import Served
from ragray.serve.deployments import application

FULL = Served("index", False, "confidence", "engine", {}, 0)
ENGINE = EngineConfig(max_batch_size=6)


def parts_of(served: Served, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(arguments of the ingress, the deployments by name) of an application that is not run."""
    bound = application(served, "m", ServeConfig.model_validate(settings), ENGINE)._bound_deployment
    inner = [argument._bound_deployment for argument in bound.init_args[:2] if argument is not None]
    return bound.init_args, {one.name: one for one in [bound, *inner]}


def test_by_default_the_ingress_holds_the_retriever() -> None:
    args, deployments = parts_of(FULL, {})
    assert set(deployments) == {"Ingress", "Generator"} and args[0] is None
    generator = deployments["Generator"]
    assert (generator.init_args, generator.init_kwargs) == (("engine", ENGINE, 0.05), {"adapters": {}})
    assert deployments["Generator"].max_ongoing_requests == 6
    assert deployments["Generator"].max_queued_requests == 24


@pytest.mark.parametrize(
    ("settings", "name", "more"),
    [({}, "RetrieverReplica", ()), ({"retriever_batch_size": 8}, "BatchedRetriever", (8, 0.002))],
)
def test_a_retriever_apart_may_search_in_batches(settings: dict[str, Any], name: str, more: tuple[Any, ...]) -> None:
    _, deployments = parts_of(FULL, {"retriever": "deployment", **settings})
    retriever = deployments["Retriever"]
    assert retriever.func_or_class.__name__ == name
    assert retriever.init_args == ("index", "confidence", False, *more)


def test_an_ingress_that_holds_the_engine_reserves_for_it() -> None:
    args, deployments = parts_of(FULL, {"generator": "ingress", "generator_gpus": 0.5})
    assert set(deployments) == {"Ingress"} and args[1] is None and args[-1] == ENGINE
    options = deployments["Ingress"].ray_actor_options
    assert (options["num_cpus"], options["num_gpus"]) == (1.0, 0.5)


def test_parts_that_are_not_served_are_not_deployed() -> None:
    searching = Served("index", False, None, None, {}, 0)
    writing = Served(None, False, None, "engine", {}, 0)
    assert set(parts_of(searching, {})[1]) == {"Ingress"}
    assert set(parts_of(searching, {"retriever": "deployment"})[1]) == {"Ingress", "Retriever"}
    assert set(parts_of(writing, {"retriever": "deployment"})[1]) == {"Ingress", "Generator"}


def test_each_part_is_scaled_and_placed_by_itself() -> None:
    scale = {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 3.0, "downscale_delay_s": 7.0}
    placement = {
        "ingress": {"num_cpus": 0.5, "resources": {"edge": 1.0}},
        "generator": {"accelerator_type": "H100", "autoscaling": scale},
    }
    settings = {
        "retriever": "deployment", "ingress_replicas": 2, "retriever_replicas": 3, "generator_replicas": 4,
        "generator_gpus": 1.0, "placement": placement, "drain_s": 9.0,
    }  # fmt: skip
    _, deployments = parts_of(FULL, settings)
    assert {name: one.num_replicas for name, one in deployments.items() if name != "Generator"} == {
        "Ingress": 2,
        "Retriever": 3,
    }
    options = {name: one.ray_actor_options for name, one in deployments.items()}
    assert (options["Ingress"]["num_cpus"], options["Ingress"]["resources"]) == (0.5, {"edge": 1.0})
    assert options["Retriever"]["num_cpus"] == 0
    generator = deployments["Generator"]
    assert (options["Generator"]["num_cpus"], options["Generator"]["num_gpus"]) == (1.0, 1.0)
    assert options["Generator"]["accelerator_type"] == "H100"
    found = generator._deployment_config.autoscaling_config
    assert (found.min_replicas, found.initial_replicas, found.max_replicas) == (2, 4, 5)
    assert (found.target_ongoing_requests, found.downscale_delay_s) == (3.0, 7.0)
    assert {one._deployment_config.graceful_shutdown_timeout_s for one in deployments.values()} == {9.0}

"""Shards are refused where they would have no effect or cannot be; and each becomes a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from segmented import PASSAGES, index_of  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.config import EngineConfig, RetrievalConfig, ServeConfig
from ragray.distributed.index import _build_segments
from ragray.errors import ConfigError, DataError
from ragray.retrieval.index import HybridIndex
from ragray.serve.artifacts import Served
from ragray.serve.deployments import application

APART = {"retriever": "deployment", "retriever_shards": 3}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retriever_shards": 2}, "need serve.retriever: deployment"),
        ({**APART, "retriever_batch_size": 4}, "serve.retriever_batch_size: leave it out with shards"),
        ({**APART, "index_store": "store"}, "shards do not follow an index that changes"),
        ({"retriever": "deployment", "shard_replicas": 2}, "there is one shard"),
        ({"retriever": "deployment", "shard_timeout_s": 2.0}, "there is one shard"),
        ({"retriever": "deployment", "placement": {"shard": {"num_cpus": 1.0}}}, "there is one shard"),
        ({**APART, "placement": {"shard": {"autoscaling": {"min_replicas": 2}}}}, "serve.shard_replicas: 1"),
    ],
)
def test_what_has_no_effect_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ServeConfig.model_validate(settings)


def deployments(index: Artifact, **settings: Any) -> dict[str, Any]:
    bound = application(Served.of(index, None, None), "m", ServeConfig(**APART | settings), EngineConfig())
    retriever = bound._bound_deployment.init_args[0]._bound_deployment
    shards = [one._bound_deployment for one in retriever.init_args[2:]]
    return {one.name: one for one in [retriever, *shards]}


def test_each_shard_is_a_deployment_with_its_own_segments(tmp_path: Path) -> None:
    placed = {"placement": {"shard": {"resources": {"shard": 1.0}}}, "shard_replicas": 2}
    found = deployments(index_of(tmp_path, 5), **placed)
    assert list(found) == ["Retriever", "Shard1", "Shard2", "Shard3"]
    assert [found[f"Shard{n}"].init_args[1] for n in (1, 2, 3)] == [[0, 1], [2, 3], [4]]
    assert {found[f"Shard{n}"].num_replicas for n in (1, 2, 3)} == {2}
    assert found["Shard2"].ray_actor_options["resources"] == {"shard": 1.0}
    assert found["Retriever"].num_replicas == 1 and "resources" not in found["Retriever"].ray_actor_options


def test_an_index_of_too_few_segments_is_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 segments, too few for 3 shards") as refused:
        deployments(index_of(tmp_path, None))
    assert "retrieval.segments to 3" in str(refused.value)


def test_an_index_that_changes_is_refused() -> None:
    served = Served("store", True, None, None, {}, 0)
    with pytest.raises(ConfigError, match="an index that changes is not searched in shards"):
        application(served, "m", ServeConfig.model_validate(APART), EngineConfig())


def test_segments_change_no_rank_and_no_score(tmp_path: Path) -> None:
    whole, parts = HybridIndex.open(index_of(tmp_path, None).folder), HybridIndex.open(index_of(tmp_path, 4).folder)
    assert [len(part) for part in parts.corpus.parts] == [10, 10, 10, 10] and len(whole.corpus.parts) == 1
    for query in ("word1 word2", "title 3", "text 17 word4", "none"):
        assert parts.search(query, 40) == whole.search(query, 40)


def test_segments_hold_no_id_twice_and_are_not_more_than_passages(tmp_path: Path) -> None:
    settings = RetrievalConfig(segments=2)
    with pytest.raises(DataError, match="two passages have the id 'd0'"):
        _build_segments([*PASSAGES, PASSAGES[0]], settings, tmp_path)
    with pytest.raises(DataError, match="1 passages for 2 segments"):
        _build_segments(PASSAGES[:1], settings, tmp_path)


def test_an_index_without_the_setting_records_nothing_of_it() -> None:
    assert "segments" not in RetrievalConfig().model_dump()
    assert RetrievalConfig(segments=3).model_dump()["segments"] == 3

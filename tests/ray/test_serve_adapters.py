"""A running service with two adapters: requests of one batch choose, and what does not fit never starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from small_service import args_for, ask, save  # type: ignore[import-not-found]
from test_serve_parts import served_beside  # type: ignore[import-not-found]

from ragray.artifact import Artifact, Store

sys.path.append(str(Path(__file__).parents[1] / "unit" / "engine"))
from random_adapter import make_trained

MODULES = ("o_proj", "down_proj")


@pytest.fixture(scope="module")
def adapters(artifacts: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Two adapters on the model that the engine was built of."""
    model = artifacts["engine"].folder / "engine"
    return {
        name: save(
            Store(str(tmp_path_factory.mktemp(name))), "train",
            lambda draft, n=n: make_trained(draft.folder, model, n, modules=MODULES),
        )
        for n, name in ((2, "zh"), (4, "en"))  # seeds whose answers differ from all others
    }  # fmt: skip


@pytest.fixture
def several(url: str, artifacts: dict[str, Artifact], adapters: dict[str, Artifact]) -> Iterator[str]:
    args = args_for(artifacts, model="own")
    args["artifacts"]["adapters"] = {name: artifact.uri for name, artifact in adapters.items()}
    with served_beside(url, "several", args) as place:
        yield place


def test_requests_of_one_batch_choose_their_model(several: str, adapters: dict[str, Artifact]) -> None:
    listed = httpx.get(f"{several}/v1/models").json()["data"]
    assert {model["id"]: model["lineage"].get("adapter") for model in listed} == {
        "own": "a" * 64, **{name: artifact.digest for name, artifact in adapters.items()},
    }  # fmt: skip
    asked = ["own", "zh", "en"] * 4
    with ThreadPoolExecutor(12) as pool:
        answers = [one.json() for one in pool.map(lambda name: ask(several, model=name, cache=False), asked)]
    texts = {(answer["model"], answer["choices"][0]["message"]["content"]) for answer in answers}
    assert [answer["model"] for answer in answers] == asked
    assert len(texts) == 3 == len({text for _, text in texts}), "a model answers as another, or not always alike"
    assert ask(several, model="fr").json()["error"]["code"] == "model_not_found"

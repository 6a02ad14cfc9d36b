"""Several models of one server: each id has its adapter, its lineage and its own answers in every cache."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from several_models import with_adapters  # type: ignore[import-not-found]

from ragray.artifact import Artifact, Draft, Source, Store
from ragray.config import EngineConfig, ServeConfig
from ragray.config_loading import load_config, validate_section
from ragray.distributed import pipeline
from ragray.engine.assistant import Retrieved
from ragray.engine.protocol import SamplingParams
from ragray.errors import ArtifactError, ConfigError, EngineError
from ragray.serve.adapters import open_adapters
from ragray.serve.answers import AnswerCache
from ragray.serve.app import AppArgs, build, serve_app
from ragray.serve.artifacts import Served
from ragray.serve.chat import Ask
from ragray.serve.deployments import application
from ragray.serve.generator import Generator, open_generator
from ragray.serve.ingress import Door, http_api

sys.path.append(str(Path(__file__).parents[1] / "engine"))
from random_adapter import make_merged, make_trained

ROOT = Path(__file__).parents[3]
BASE, DEMO = ROOT / "data/models/ragray-tiny", ROOT / "configs/demo.yaml"
SETTINGS = EngineConfig(kind="transformers", cpu_threads=1, max_batch_size=4)
QUESTION, SAME = "How do I install ragray?", "how can I install ragray"
DIGESTS = {"zh": "1" * 64, "en": "2" * 64}
MODELS = ("ragray-test", "zh", "en")


class WritesItsName:
    """The engine of the other tests, which writes which adapter it was asked with."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.tokenizer = engine.tokenizer

    def submit(self, token_ids: list[int], params: SamplingParams) -> Any:
        self._engine.text = f"[1] By {params.adapter}."
        return self._engine.submit(token_ids, params)


@pytest.fixture
def door(make_door: Callable[..., Door], engine: Any) -> Door:
    door = make_door()
    door.generator._engine = WritesItsName(engine)  # type: ignore[attr-defined]
    return with_adapters(door, DIGESTS)


@pytest.fixture
def send(door: Door) -> Callable[..., httpx.Response]:
    api = http_api(door)

    def one(method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
                return await client.request(method, path, json=body)

        return asyncio.run(send())

    return one


def asked(model: str | None, question: str = QUESTION, **more: Any) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return {"messages": [{"role": "user", "content": question}], **named, **more}


def test_the_list_has_every_model_with_the_digests_behind_it(send: Callable[..., httpx.Response]) -> None:
    listed = send("GET", "/v1/models").json()["data"]
    assert [model["id"] for model in listed] == list(MODELS)
    assert [model["lineage"].get("adapter") for model in listed] == [None, *DIGESTS.values()]
    assert {model["lineage"]["engine"] for model in listed} == {"e" * 64}
    assert [send("GET", f"/v1/models/{name}").json() for name in MODELS] == listed
    assert send("GET", "/v1/status").json()["models"] == list(MODELS)


def test_a_request_chooses_and_the_answer_says_by_what(send: Callable[..., httpx.Response]) -> None:
    for model, adapter in ((None, None), ("ragray-test", None), ("zh", "zh"), ("en", "en")):
        answer = send("POST", "/v1/chat/completions", asked(model, cache=False)).json()
        assert answer["choices"][0]["message"]["content"] == f"By {adapter}. [1]"
        assert answer["model"] == (model or "ragray-test")
        assert answer["lineage"].get("adapter") == DIGESTS.get(adapter or "")
        streamed = send("POST", "/v1/chat/completions", asked(model, cache=False, stream=True)).text.split("\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in streamed if line and "[DONE]" not in line]
        assert {chunk["model"] for chunk in chunks} == {answer["model"]}
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == f"By {adapter}. [1]"
        assert chunks[-1]["lineage"] == answer["lineage"]


def test_an_unknown_model_is_refused_with_those_that_there_are(send: Callable[..., httpx.Response]) -> None:
    for response in (send("POST", "/v1/chat/completions", asked("fr")), send("GET", "/v1/models/fr")):
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert error["message"] == "no model 'fr'; this server has 'ragray-test', 'zh', 'en'"


def test_no_cache_gives_a_model_another_model_s_answer(send: Callable[..., httpx.Response]) -> None:
    def told(model: str, question: str) -> tuple[str, str]:
        response = send("POST", "/v1/chat/completions", asked(model, question))
        return response.headers["x-ragray-cache"], response.json()["choices"][0]["message"]["content"]

    own = {name: f"By {adapter}. [1]" for name, adapter in zip(MODELS, (None, "zh", "en"), strict=True)}
    for use, question in (("miss", QUESTION), ("hit", QUESTION), ("semantic", SAME)):
        assert {name: told(name, question) for name in MODELS} == {name: (use, text) for name, text in own.items()}


def test_an_adapter_that_took_over_another_s_name_has_its_own_answers(door: Door) -> None:
    shared = AnswerCache(door.limits.cache)
    ask = Ask(QUESTION, SamplingParams(max_new_tokens=64, adapter="zh"))

    async def told(digest: str) -> str:
        chat = with_adapters(door, {"zh": digest}, shared).chat
        reply = await chat.answer(await chat.begin(ask))
        assert reply.lineage["adapter"] == digest
        return reply.cache

    assert [asyncio.run(told(digest)) for digest in ("1" * 64, "3" * 64, "1" * 64)] == ["miss", "miss", "hit"]


def save(store: Store, kind: str, key: str, fill: Callable[[Draft], object], **inputs: Source) -> Artifact:
    with store.draft(kind, key.ljust(64, "0"), format_version=1, inputs=inputs, config={}, code="") as draft:
        fill(draft)
    assert draft.result is not None
    return draft.result


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Artifact]:
    """Three adapters on the tiny model, one on another; the engine of the first."""
    from ragray.engine.build import build_engine

    store = Store(str(tmp_path_factory.mktemp("store")))
    found = {
        key: save(store, "train", key, lambda draft, n=n, base=base: make_trained(draft.folder, base, n))
        for n, (key, base) in enumerate({"a0": BASE, "a1": BASE, "a2": BASE, "a3": model_folder}.items())
    }
    merged = save(
        store, "merge", "b0", lambda draft: make_merged(found["a0"].folder, draft.folder / "model"),
        train=found["a0"].source(),
    )  # fmt: skip
    model = merged.folder / "model"
    engine = save(
        store, "engine", "c0", lambda draft: build_engine(model, SETTINGS, draft.folder), merge=merged.source()
    )
    return {**found, "engine": engine}


@pytest.fixture
def generator(artifacts: dict[str, Artifact]) -> Iterator[Generator]:
    named = {"zh": artifacts["a1"].uri, "en": artifacts["a2"].uri}
    served = Served.of(None, None, artifacts["engine"], named)
    assert served.adapters == named
    assert served.adapter_digests == {"zh": artifacts["a1"].digest, "en": artifacts["a2"].digest}
    generator = open_generator(served, SETTINGS, 0.0)
    yield generator
    generator._engine.close()


def test_a_replica_answers_by_all_models_at_once(generator: Generator) -> None:
    retrieved = Retrieved(QUESTION, "en", (), 0.0, True, 0.0)

    async def all_at_once() -> list[tuple[int, ...]]:
        params = [SamplingParams(max_new_tokens=12, adapter=name) for name in (None, "zh", "en") * 2]
        answers = await asyncio.gather(*(generator.complete(retrieved, one) for one in params))
        return [answer.token_ids for answer in answers]

    answers = asyncio.run(all_at_once())
    assert answers[:3] == answers[3:] and len(set(answers)) == 3


def test_what_does_not_fit_is_refused_before_a_replica_starts(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    engine = artifacts["engine"]
    args = {"parts": "generation", "artifacts": {"engine": engine.uri, "adapters": {"zh": artifacts["a3"].uri}}}
    with pytest.raises(ArtifactError, match=r"train/a3.*: trained on the base model"):
        build(args)
    with pytest.raises(ArtifactError, match="not a folder of the train stage"):
        open_adapters({"zh": engine.uri}, engine)
    with pytest.raises(ConfigError, match="'zh' has the id of the engine's own model"):
        application(Served(None, False, None, "e", {}, 0, {"zh": "t"}, {"zh": "1"}), "zh", ServeConfig(), SETTINGS)
    json_of = engine.folder / "engine.json"
    told = json_of.read_text()
    try:
        json_of.write_text(told.replace('"builder": "transformers"', '"builder": "openvino"'))
        with pytest.raises(EngineError, match=r"openvino engine cannot apply .*\n?.*engine.kind=transformers"):
            open_adapters({"zh": artifacts["a1"].uri}, engine)
    finally:
        json_of.write_text(told)


def test_the_adapters_of_a_run_s_settings_are_opened(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "finished", lambda config, *stages: {"engine": artifacts["engine"]})
    named = {"zh": artifacts["a3"].uri}
    with pytest.raises(ArtifactError, match=r"train/a3.*: trained on the base model"):
        build({"config": str(DEMO), "serve": {"adapters": named}})
    with pytest.raises(ArtifactError, match=r"train/a3.*: trained on the base model"):
        serve_app(load_config(DEMO, [f"serve.adapters.zh={artifacts['a3'].uri}"]))
    with pytest.raises(ConfigError, match=r"serve\.adapters: parts: retrieval has no engine"):
        build({"config": str(DEMO), "parts": "retrieval", "serve": {"adapters": named}})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"parts": "retrieval", "artifacts": {"index": "i", "adapters": {"zh": "t"}}}, "does not use adapters"),
        ({"artifacts": {"index": "i", "confidence": "c", "engine": "e"}, "serve": {"adapters": {"zh": "t"}}},
         "artifacts.adapters"),
        ({"config": "c.yaml", "serve": {"adapters": {"z/h": "t"}}}, "adapters"),
    ],
)  # fmt: skip
def test_adapters_are_named_where_they_have_an_effect(args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate_section(AppArgs, args, "args")

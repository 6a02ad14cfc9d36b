"""The served application on a local Ray: three deployments, asked over HTTP on a port of their own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from small_service import PASSAGES, QUESTION, args_for, ask, save  # type: ignore[import-not-found]

from ragray.artifact import Artifact, Store
from ragray.config import RetrievalConfig
from ragray.errors import ArtifactError, ConfigError, WorkError
from ragray.prompt import DECLINE
from ragray.retrieval.writing import build_index
from ragray.serve.app import build, check_port


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_it_is_ready_and_shows_its_page_and_model(url: str) -> None:
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").json()["status"] == "ready"
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "ragray"
    assert "<title>ragray" in httpx.get(url).text


def test_search_passes_both_rankings_through(url: str) -> None:
    found = httpx.post(f"{url}/v1/search", json={"query": "训练模型"}).json()
    assert (found["hits"][0]["doc_id"], found["hits"][0]["bm25_rank"], found["hits"][0]["tfidf_rank"]) == (
        "train-1",
        1,
        1,
    )


def test_streamed_and_whole_answers_are_the_same(url: str, artifacts: dict[str, Artifact]) -> None:
    whole = ask(url, cache=False)
    assert whole.status_code == 200, whole.text
    assert not whole.json()["declined"] and whole.json()["usage"]["completion_tokens"] == 12
    streamed = events(ask(url, cache=False, stream=True))
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in streamed)
    assert text == whole.json()["choices"][0]["message"]["content"] != ""
    last = streamed[-1]
    assert last["citations"] == whole.json()["citations"]
    assert last["lineage"] == {
        "index": artifacts["index"].digest,
        "confidence": artifacts["calibrate"].digest,
        "engine": artifacts["engine"].digest,
        "model": artifacts["merge"].digest,
        "adapter": "a" * 64,
    }


def test_the_cache_answers_the_second_time(url: str) -> None:
    question = "install ragray, please: how?"
    first, second, unwilling = ask(url, question), ask(url, question), ask(url, question, cache=False)
    assert [r.headers["x-ragray-cache"] for r in (first, second, unwilling)] == ["miss", "hit", "off"]
    assert first.json()["choices"] == second.json()["choices"] == unwilling.json()["choices"]


def test_a_question_that_nothing_answers_is_declined(url: str) -> None:
    answer = ask(url, "Zugzwang, zwischenzug?").json()
    assert (answer["declined"], answer["declined_by"]) == (True, "retrieval")
    assert answer["choices"][0]["message"]["content"] == DECLINE["en"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"messages": "\xff"}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 2}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "model": "other"}', 404),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * 501 + b'"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * (1 << 20) + b'"}]}', 413),
    ],
    ids=["cut", "not utf-8", "n", "model", "long question", "large body"],
)
def test_bad_requests_get_openai_s_error(url: str, body: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text


def hang_up(url: str, stream: bool) -> None:
    """Ask for thousands of tokens and leave soon."""
    messages = [{"role": "user", "content": QUESTION}]  # sampled, as a loop of greedy tokens would be ended
    body = {"messages": messages, "max_tokens": 4000, "temperature": 1.0, "stream": stream, "cache": False}
    with httpx.Client(timeout=60 if stream else 1.0) as client:
        if not stream:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{url}/v1/chat/completions", json=body)
            return
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            next(response.iter_lines())


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_hangs_up_stops_the_engine(url: str, stream: bool) -> None:
    from ray import serve

    generator = serve.get_deployment_handle("Generator", "ragray")
    before = generator.stats.remote().result()
    hang_up(url, stream)
    deadline = time.monotonic() + 20
    while (now := generator.stats.remote().result())["active"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert now["active"] == 0 and now["requests"] == before["requests"] + 1
    assert now["completion_tokens"] - before["completion_tokens"] < 3900


def test_http_is_answered_on_loopback_only(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    listening = [
        (process, socket_.laddr)
        for process in psutil.Process().children(recursive=True)
        for socket_ in process.net_connections(kind="inet")
        if socket_.status == psutil.CONN_LISTEN
    ]
    assert [address.ip for _, address in listening if address.port == port] == ["127.0.0.1"]
    inner = [
        a.port for p, a in listening if a.port != port and p.name().startswith(("ray::Proxy", "ray::ServeReplica"))
    ]
    assert inner  # Ray's own gRPC, which wants a token; none of it may answer plain HTTP
    for other in inner:
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{other}/healthz", timeout=5)


def test_a_port_in_use_is_named_with_the_way_out(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(WorkError, match=rf"127.0.0.1:{port}.*\n.*--set serve.port={port + 1}"):
        check_port("127.0.0.1", port)


def test_wrong_arguments_are_refused_before_anything_starts(artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean artifacts\?"):
        build(args_for(artifacts, artefacts={}))
    with pytest.raises(ConfigError, match=r"either config .* or artifacts"):
        build({})
    with pytest.raises(ConfigError, match="http_options"):
        build(args_for(artifacts, serve={"port": 1234}))
    missing = args_for(artifacts)
    missing["artifacts"]["engine"] += "0"
    with pytest.raises(ArtifactError, match="no finished artifact"):
        build(missing)
    swapped = args_for(artifacts)
    swapped["artifacts"]["engine"] = swapped["artifacts"]["index"]
    with pytest.raises(ArtifactError, match="not a folder of the engine stage"):
        build(swapped)


def test_an_index_of_another_run_is_refused(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    other = save(Store(str(tmp_path)), "index", lambda d: build_index(PASSAGES[:1], RetrievalConfig(), d.folder))
    args = args_for(artifacts)
    args["artifacts"]["index"] = other.uri
    with pytest.raises(ArtifactError, match="fitted on another index"):
        build(args)


def test_the_bundled_serve_file_listens_on_loopback_and_names_the_builder() -> None:
    from ray.serve.schema import ServeDeploySchema

    tree = yaml.safe_load((Path(__file__).parents[2] / "serve_configs/local.yaml").read_text(encoding="utf-8"))
    deploy = ServeDeploySchema.model_validate(tree)
    assert deploy.http_options.host == "127.0.0.1"
    assert set(tree["http_options"]) <= set(type(deploy.http_options).model_fields)  # Ray ignores unknown keys
    assert deploy.applications[0].import_path == "ragray.serve.app:build"

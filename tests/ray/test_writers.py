"""A model that writes variants, behind a real HTTP server that fails now and then."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from writing_server import Answer, Server, chat, good

from ragray.config import EngineConfig
from ragray.config_data import EndpointConfig
from ragray.config_loading import validate_config
from ragray.dataprep.rewording import rewording_key, rewording_messages
from ragray.distributed.endpoint import Secret
from ragray.distributed.replies import Replies
from ragray.distributed.rewording import endpoint_writer, engine_writer, write_variants
from ragray.engine.build import build_engine
from ragray.engine.protocol import SamplingParams
from ragray.engine.runtime import load_engine
from ragray.errors import ConfigError, WorkError
from ragray.schema import QARecord
from ragray.train.examples import prompt_tokens

sys.path.append(str(Path(__file__).parents[1] / "unit" / "engine"))
from tiny_model import make_model_folder

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def settings(server: Server, **more: Any) -> EndpointConfig:
    return EndpointConfig(
        url=server.url, model="m", **{"max_retries": 2, "concurrency": 4, "timeout_s": 5, "first_wait_s": 0.01, **more}
    )


def records(count: int, lang: str = "en") -> list[QARecord]:
    return [QARecord(f"r{n}", f"What is number {n}?", "a", lang, "f", 1, f"g{n}", "train") for n in range(count)]


def test_failures_are_repeated_and_nothing_is_asked_twice(server: Server, tmp_path: Path, ray_local: None) -> None:
    def behave(question: str, times: int) -> Answer:
        time.sleep(0.02)
        number = int("".join(filter(str.isdigit, question)))
        first = [(200, None, {}), (429, {}, {"Retry-After": "0"}), (503, b"busy", {}), (0, b"", {}), (200, b"{", {})]
        status, content, headers = first[number % len(first)]
        return (status, content, headers) if times == 1 and number % len(first) else (200, good(question), {})

    server.behave = behave
    asked = records(20)
    written = write_variants(asked, endpoint_writer(settings(server), 2), 2, tmp_path)
    assert written.questions == {r.id: [f"{r.question} (said 1)", f"{r.question} (said 2)"] for r in asked}
    assert written.counts == {"asked": 20, "cached": 0}
    assert set(server.asked.values()) == {1, 2} and sum(server.asked.values()) == 20 + 16
    assert 1 < server.most_at_once <= 4
    assert {body["model"] for body in server.seen} == {"m"} and set(server.headers) == {None}

    server.behave = lambda question, times: (500, {}, {})
    again = write_variants(asked, endpoint_writer(settings(server), 2), 2, tmp_path)
    assert again.questions == written.questions and again.counts == {"asked": 0, "cached": 20}
    assert sum(server.asked.values()) == 36


def test_an_interrupted_run_goes_on(server: Server, tmp_path: Path, ray_local: None) -> None:
    asked = records(40)
    server.behave = lambda question, times: (200, good(question), {}) if server.asked.total() < 25 else (500, {}, {})
    with pytest.raises(WorkError, match=r"of 40 questions stayed without a reply: HTTP 500 \(") as caught:
        write_variants(asked, endpoint_writer(settings(server, max_retries=0), 2), 2, tmp_path)
    assert "run again" in caught.value.fix
    with Replies(tmp_path) as kept:
        before = len(kept.find([rewording_key("m", r.question, "en", 2) for r in asked]))
    assert 0 < before < 40
    server.behave = lambda question, times: (200, good(question), {})
    server.asked.clear()
    written = write_variants(asked, endpoint_writer(settings(server), 2), 2, tmp_path)
    assert written.counts == {"asked": 40 - before, "cached": before} and len(written.questions) == 40
    assert server.asked.total() == 40 - before


def test_bad_replies_are_counted_and_kept(server: Server, tmp_path: Path, ray_local: None) -> None:
    replies = ["Sure!", '["one"]', '{"a": 1}', '["", "b"]']
    server.behave = lambda question, times: (
        200, chat(replies[int(question[-2])]) if int(question[-2]) < 4 else good(question), {},
    )  # fmt: skip
    written = write_variants(records(5), endpoint_writer(settings(server), 2), 2, tmp_path)
    assert list(written.questions) == ["r4"]
    bad = {f"bad.{reason}": 1 for reason in ("not_json", "wrong_count", "not_an_array", "not_text")}
    assert written.counts == {"asked": 5, "cached": 0, **bad}
    again = write_variants(records(5), endpoint_writer(settings(server), 2), 2, tmp_path)
    assert again.counts == {"asked": 0, "cached": 5, **bad} and server.asked.total() == 5


@pytest.mark.parametrize(("status", "said"), [(400, "HTTP 400: "), (401, "HTTP 401"), (404, "HTTP 404")])
def test_a_refusal_ends_it_with_what_to_do_and_without_the_key(
    server: Server, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    monkeypatch.setenv("RAGRAY_TEST_KEY", KEY)
    server.behave = lambda question, times: (status, {"error": f"wrong key {KEY}"}, {})
    writer = endpoint_writer(settings(server, api_key_env="RAGRAY_TEST_KEY", concurrency=16), 2)
    with pytest.raises(WorkError) as caught:
        write_variants(records(30), writer, 2, tmp_path)
    assert said in str(caught.value) and "augment.endpoint" in str(caught.value)
    assert ("wrong key" in str(caught.value)) == (status not in (401, 403))  # servers show parts of a wrong key
    assert KEY not in str(caught.value) + repr(writer) + repr(Secret(KEY))
    assert set(server.headers) == {f"Bearer {KEY}"}
    assert server.asked.total() <= 16  # the rest is not asked in vain


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, ray_local: None) -> None:
    release = threading.Event()
    server.behave = lambda question, times: (200, good(question), {}) if release.wait(20) else (500, {}, {})
    writer = endpoint_writer(settings(server, timeout_s=0.2, max_retries=1), 2)
    with pytest.raises(WorkError, match=r"1 of 1 questions .* ReadTimeout"):
        write_variants(records(1), writer, 2, tmp_path)
    release.set()
    assert server.asked.total() == 2


def test_a_share_may_fail(server: Server, tmp_path: Path, ray_local: None) -> None:
    server.behave = lambda question, times: (503, {}, {}) if "number 3" in question else (200, good(question), {})
    writer = endpoint_writer(settings(server, max_failed_share=0.1), 2)
    written = write_variants(records(10), writer, 2, tmp_path)
    assert len(written.questions) == 9 and written.counts == {"asked": 10, "cached": 0, "unanswered": 1}


def test_languages_without_a_prompt_and_no_records(server: Server, tmp_path: Path) -> None:
    written = write_variants(records(3, "other"), endpoint_writer(settings(server), 2), 2, tmp_path)
    assert not written.questions and server.asked.total() == 0


def test_a_missing_key_is_told_before_anything_starts(server: Server) -> None:
    os.environ.pop("RAGRAY_NOT_SET", None)
    with pytest.raises(ConfigError, match="no such environment variable"):
        endpoint_writer(settings(server, api_key_env="RAGRAY_NOT_SET"), 2)


def test_a_damaged_cache_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "replies.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 9)
    with pytest.raises(WorkError, match="cannot be kept"):
        Replies(tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ({"api_key_env": KEY}, "the name of an environment variable"),
        ({"url": f"http://user:{KEY}@host/v1"}, "write http://HOST:PORT/v1"),
        ({"url": f"http://host/v1?key={KEY}"}, "write http://HOST:PORT/v1"),
        ({"url": "host:8000"}, "write http://HOST:PORT/v1"),
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_shown(endpoint: dict[str, str], said: str) -> None:
    tree = {
        "name": "t",
        "output": "out",
        "data": {"faq": [{"path": "f"}]},
        "train": {"base_model": "m"},
        "augment": {"endpoint": {"url": "http://h/v1", "model": "m", **endpoint}},
    }
    with pytest.raises(ConfigError) as caught:
        validate_config(tree, "test")
    assert said in str(caught.value) and KEY not in str(caught.value)


def test_no_key_lies_in_the_cache(
    server: Server, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAGRAY_TEST_KEY", KEY)
    write_variants(records(2), endpoint_writer(settings(server, api_key_env="RAGRAY_TEST_KEY"), 2), 2, tmp_path)
    assert KEY.encode() not in (tmp_path / "replies.sqlite").read_bytes()


def test_an_engine_of_the_projects_own_writes(tmp_path: Path, ray_local: None) -> None:
    make_model_folder(tmp_path / "model")
    settings_ = EngineConfig(kind="transformers", weights="fp32", cpu_threads=1)
    (tmp_path / "engine").mkdir()
    build_engine(tmp_path / "model", settings_, tmp_path / "engine")
    asked = records(3)
    writer = engine_writer(tmp_path / "engine", settings_, 1)
    written = write_variants(asked, writer, 1, tmp_path / "cache")
    # the model has random weights: what it says is no JSON, and is kept as it is
    assert written.counts == {"asked": 3, "cached": 0, "bad.not_json": 3}
    engine = load_engine(tmp_path / "engine", settings_)
    prompt = prompt_tokens(engine.tokenizer, rewording_messages(asked[0].question, "en", 1))
    said = engine.generate([prompt], SamplingParams(max_new_tokens=96))[0].text
    engine.close()
    with Replies(tmp_path / "cache") as kept:
        assert list(kept.find([rewording_key(writer.model, asked[0].question, "en", 1)]).values()) == [said]
    assert write_variants(asked, writer, 1, tmp_path / "cache").counts["asked"] == 0

"""Answers graded by a judge behind a real HTTP server that fails now and then."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from test_writers import KEY, settings
from writing_server import Server, chat

from ragray.config_evaluate import JudgeConfig
from ragray.distributed.judging import judge_answers, judge_endpoint, verdicts
from ragray.errors import ConfigError, WorkError
from ragray.evaluation.answers import Given
from ragray.evaluation.judge import PROMPT_DIGEST
from ragray.evaluation.predictions import Prediction
from ragray.evaluation.scoring import score_fully
from ragray.evaluation.significance import Resampling
from ragray.schema import Passage

PASSAGES = {f"d{n}": Passage(f"d{n}", f"Title {n}", f"Text {n}.", "en", "f", "faq") for n in range(12)}


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    running.behave = lambda material, times: (200, graded(2), {})
    yield running
    running.close()


def graded(grade: int) -> dict[str, Any]:
    return chat(json.dumps({"grade": grade, "reason": "because"}))


def answers(count: int, **changes: Any) -> list[Prediction]:
    given = Given("Text. [1]", False, ("d0",))
    rows = [
        Prediction(
            query_id=f"q{n:02}",
            cell="tuned_retrieval",
            lang="en",
            question=f"What is number {n}?",
            references=(f"Number {n}.",),
            right=("d0",),
            shown=("d0", "d1"),
            probability=0.9,
            text=f"It is {n}. [1]",
            cited=("d0",),
            declined_by="",
            prompt_tokens=1,
            completion_tokens=1,
            finish_reason="stop",
            scores=score_fully(given, ["Text."], {"d0"}, "en", ["Text."]),
        )
        for n in range(count)
    ]
    return [replace(row, **changes) for row in rows]


def judge_of(server: Server, **more: Any) -> JudgeConfig:
    chosen = {name: more.pop(name) for name in ("criteria", "cell", "max_answers") if name in more}
    return JudgeConfig(endpoint=settings(server, **more), **chosen)


def judged(rows: list[Prediction], chosen: JudgeConfig, folder) -> list:
    return judge_answers(rows, PASSAGES, chosen, judge_endpoint(chosen), folder, 17)


def number_of(material: str) -> int:
    return int("".join(filter(str.isdigit, json.loads(material)["question"])))


def test_every_answer_is_graded_by_every_criterion_and_never_twice(ray_local, server, tmp_path):
    server.behave = lambda material, times: (200, graded(2 if "references" in json.loads(material) else 1), {})
    chosen = judge_of(server)
    found = judged(answers(6), chosen, tmp_path)
    assert {(j.criterion, j.grade, j.reason) for j in found} == {
        ("correct", 1.0, "because"),
        ("faithful", 0.5, "because"),
    }
    assert len(found) == 12 == server.asked.total()
    assert judged(answers(6), chosen, tmp_path) == found
    assert server.asked.total() == 12
    assert {body["temperature"] for body in server.seen} == {0.0}
    materials = [json.loads(body["messages"][-1]["content"]) for body in server.seen]
    assert all("[1]" not in material["answer"] for material in materials)
    assert {tuple(m["passages"]) for m in materials if "passages" in m} == {("Title 0\nText 0.",)}


def test_bad_replies_are_counted_and_the_bounds_say_so(ray_local, server, tmp_path):
    replies = {0: "Two, I think.", 1: '{"grade": 7, "reason": "x"}'}
    server.behave = lambda material, times: (
        200, chat(replies[number_of(material)]) if number_of(material) in replies else graded(2), {},
    )  # fmt: skip
    chosen = judge_of(server, criteria=("correct",))
    found = verdicts(judged(answers(5), chosen, tmp_path), chosen, Resampling(50, 1))
    (correct,) = found.criteria
    assert (correct.mean.mean, correct.mean.n, correct.asked) == (1.0, 3, 5)
    assert correct.failures == {"no_grade": 1, "not_json": 1}
    assert (correct.lowest, correct.highest) == (3 / 5, 1.0)
    assert (found.model, found.prompt_digest) == ("m", PROMPT_DIGEST)


def test_a_silent_share_is_a_failure_and_a_larger_one_fails_the_stage(ray_local, server, tmp_path):
    server.behave = lambda material, times: (503, {}, {}) if number_of(material) == 3 else (200, graded(2), {})
    allowed = judge_of(server, criteria=("correct",), max_failed_share=0.1, max_retries=1)
    found = judged(answers(10), allowed, tmp_path / "one")
    assert [(j.query_id, j.failure) for j in found if j.grade is None] == [("q03", "no_reply")]
    strict = judge_of(server, criteria=("correct",), max_retries=0)
    with pytest.raises(WorkError, match=r"evaluate\.judge: 1 of 10 questions stayed without a reply: HTTP 503"):
        judged(answers(10), strict, tmp_path / "two")


def test_what_cannot_be_judged_is_not_asked(ray_local, server, tmp_path):
    chosen = judge_of(server)
    rows = [
        *answers(1, declined_by="model"),
        *answers(1, cell="base_retrieval"),
        *answers(1, query_id="nothing answers it", right=(), references=()),
        *answers(1, query_id="cites nothing", cited=()),
    ]
    found = judged(rows, chosen, tmp_path)
    assert [(j.query_id, j.criterion) for j in found] == [
        ("cites nothing", "correct"),
        ("nothing answers it", "faithful"),
    ]


def test_fewer_answers_are_chosen_by_digest(ray_local, server, tmp_path):
    chosen = judge_of(server, criteria=("correct",), max_answers=3)
    found = judged(answers(12), chosen, tmp_path)
    assert len(found) == 3 == server.asked.total()
    assert [j.query_id for j in judged(answers(12)[::-1], chosen, tmp_path)] == [j.query_id for j in found]


def test_a_refusal_names_the_judges_settings_and_never_the_key(ray_local, server, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGRAY_TEST_KEY", KEY)
    server.behave = lambda material, times: (401, {"error": f"wrong key {KEY}"}, {})
    chosen = judge_of(server, api_key_env="RAGRAY_TEST_KEY")
    with pytest.raises(WorkError, match=r"evaluate\.judge\.endpoint: HTTP 401") as caught:
        judged(answers(3), chosen, tmp_path)
    assert "evaluate.judge.endpoint.api_key_env" in caught.value.fix
    assert KEY not in str(caught.value) + repr(judge_endpoint(chosen))
    assert set(server.headers) == {f"Bearer {KEY}"}


def test_a_missing_key_is_told_before_anything_is_asked(server, monkeypatch):
    monkeypatch.delenv("RAGRAY_NOT_SET", raising=False)
    with pytest.raises(ConfigError, match=r"evaluate\.judge\.endpoint\.api_key_env: no such environment variable"):
        judge_endpoint(judge_of(server, api_key_env="RAGRAY_NOT_SET"))
    assert server.asked.total() == 0

"""The page in a headless Chromium, over a real index and a real HTTP server: what people do with it.

See `browsing` for what they need.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from browsing import QUESTION, ask, expect, search  # type: ignore[import-not-found]
from fastapi.responses import JSONResponse
from several_models import with_adapters  # type: ignore[import-not-found]

from ragray.config_feedback import UserFeedbackConfig
from ragray.errors import EngineError
from ragray.prompt import DECLINE
from ragray.serve.feedback import Feedback
from ragray.serve.ingress import Door


def test_a_question_is_answered_and_its_citation_opens_with_the_terms_marked(
    door: Door, visit: Callable[..., Any]
) -> None:
    page = visit(door)
    expect(page.locator("#question")).to_be_focused()
    turn = ask(page)
    expect(turn.locator(".note").first).to_have_text(re.compile(r"^\d+\.\d\d s$"))
    button = turn.locator(".citations button")
    expect(button).to_have_text("[1] How do I install ragray?")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading")).to_have_text("How do I install ragray?")
    expect(dialog.locator("#passage-terms tbody th").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    turn.locator(".text .ref").click()  # the [1] in the text
    expect(dialog).to_be_visible()


def test_the_words_that_were_searched_are_marked_in_the_passage(
    door: Door, engine: Any, visit: Callable[..., Any]
) -> None:
    engine.text = "[1] Restarted."
    page = visit(door)
    turn = ask(page, "Are killed workers restarting?", "Restarted. [1]")
    turn.locator(".citations button").click()
    marks = page.locator("#passage-text mark")
    expect(marks.first).to_be_visible()
    assert marks.all_text_contents() == ["killed", "worker", "restarted"]
    page.keyboard.press("Escape")
    engine.text = "[1] 好。"
    turn = ask(page, "怎样训练模型", "好。 [1]")
    turn.locator(".citations button").click()
    expect(page.locator("#passage-title")).to_have_text("怎样训练模型？")
    expect(page.locator("#passage-title mark")).to_have_text("样训练模型")  # terms are words and pairs of characters


def hold(engine: Any, pieces: int) -> threading.Event:
    """Let the engine write so many pieces of an answer, and the others once the event is set."""
    rest, submit = threading.Event(), engine.submit

    def held(ids: Any, params: Any) -> Any:
        handle = submit(ids, params)
        read, places = handle.read, iter(range(pieces))

        def slowly(timeout_s: float | None = None) -> str | None:
            while next(places, None) is None and not rest.wait(0.01):
                if handle.cancelled.is_set():
                    return None
            piece: str | None = read(timeout_s)
            return piece

        handle.read = slowly
        return handle

    engine.submit = held
    return rest


def test_an_answer_appears_while_it_is_written(door: Door, engine: Any, visit: Callable[..., Any]) -> None:
    rest = hold(engine, 4)
    engine.text = "[1] First come, then the rest."
    page = visit(door)
    page.locator("#question").fill(QUESTION)
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator(".text")).to_have_text("First co")
    expect(turn).to_have_attribute("aria-busy", "true")
    rest.set()
    expect(turn.locator(".text")).to_have_text("First come, then the rest. [1]")
    expect(turn).not_to_have_attribute("aria-busy", "true")


def test_an_answer_can_be_stopped(door: Door, engine: Any, visit: Callable[..., Any]) -> None:
    rest = hold(engine, 4)
    page = visit(door)
    page.locator("#question").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn").last.locator(".text")).to_have_text("Run make")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn").last.locator(".note")).to_have_text("Stopped.")
    assert engine.handles[0].cancelled.wait(10)
    rest.set()
    ask(page)


def test_a_follow_up_says_what_was_searched_and_a_new_conversation_forgets(
    door: Door, visit: Callable[..., Any]
) -> None:
    page = visit(door)
    ask(page)
    turn = ask(page, "How long does it take?")
    expect(turn.locator(".note").first).to_contain_text("Searched for: install ragray: How long does it take?")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#question")).to_be_focused()
    turn = ask(page, "How long does it take, installing ragray?")
    expect(turn.locator(".note").first).not_to_contain_text("Searched for")


def test_a_decline_is_told_as_one(make_door: Callable[..., Door], visit: Callable[..., Any]) -> None:
    page = visit(make_door(threshold=0.9))
    turn = ask(page, "Who won the chess championship?", DECLINE["en"])
    expect(turn.locator(".note").first).to_contain_text("not answered by the documents")
    expect(turn.locator(".citations")).to_have_count(0)


def test_faults_are_told_and_the_next_question_is_answered(
    door: Door, engine: Any, visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ids: Any, params: Any) -> Any:
        raise EngineError("the engine failed")

    page = visit(door)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "submit", broken)
        ask(page, QUESTION, "the engine could not answer; the server's log says why")
        expect(page.locator(".turn.failed")).to_have_count(1)
    page.context.set_offline(True)
    ask(page, QUESTION, "The server cannot be reached.")
    page.context.set_offline(False)
    ask(page)
    page.get_by_role("tab", name="Status").click()
    expect(page.locator("#counts dd")).to_have_text(["3", "0", "2", re.compile(" m?s$")])


def test_a_server_that_wants_a_key_is_asked_with_one(door: Door, visit: Callable[..., Any]) -> None:
    def locked(app: Any) -> Any:
        async def guard(scope: Any, receive: Any, send: Any) -> None:
            sent = dict(scope.get("headers", ())).get(b"authorization")
            if scope["type"] == "http" and scope["path"].startswith("/v1/") and sent != b"Bearer sesame":
                refusal = JSONResponse({"error": {"message": "send a key"}}, status_code=401)
                await refusal(scope, receive, send)
            else:
                await app(scope, receive, send)

        return guard

    page = visit(door, around=locked)
    expect(page.get_by_label("API key")).to_be_visible()
    ask(page, answer="send a key")
    page.get_by_label("API key").fill("sesame")
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("ragray-test")
    expect(page.get_by_label("API key")).to_be_hidden()
    ask(page)
    page.reload()
    ask(page)
    assert page.evaluate("() => [localStorage.length, sessionStorage.length]") == [0, 1]


def test_search_shows_ranks_terms_and_marks(door: Door, visit: Callable[..., Any]) -> None:
    page = visit(door)
    search(page, "install the server")
    expect(page.locator("#found")).to_have_text(re.compile(r"^\d passages in [\d.]+ ms$"))
    first = page.locator("#hits li").first
    assert [first.locator("dt").nth(n).text_content() for n in range(3)] == ["Fused rank", "BM25 rank", "TF-IDF rank"]
    expect(first.locator("dd").first).to_have_text(re.compile(r"^1 \(score "))
    first.get_by_text("What each term adds").first.click()
    expect(first.locator("tbody tr").first).to_be_visible()
    assert sorted(first.locator("tbody th").all_text_contents()) == ["instal", "server"]
    first.get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    page.locator("#query").fill("zzzz")
    page.keyboard.press("Enter")
    expect(page.locator("#found")).to_have_text(re.compile("^0 passages"))


def test_the_status_view_names_versions_and_draws_the_latency(door: Door, visit: Callable[..., Any]) -> None:
    page = visit(door)
    page.get_by_role("tab", name="Status").click()
    expect(page.locator("#state")).to_have_text("Ready: retriever and generator answer.")
    expect(page.locator("#lineage dd").first).to_have_text("i" * 16)
    expect(page.locator("#latency")).to_have_text("No request yet.")
    page.get_by_role("tab", name="Ask").click()
    ask(page)
    ask(page, f"{QUESTION} ")
    page.get_by_role("tab", name="Status").click()
    expect(page.locator("#counts dd")).to_have_text(["2", "1", "0", re.compile(" m?s$")])
    expect(page.locator("#sparkline polyline")).to_have_attribute("points", re.compile(r"^0\.0,[\d.]+ 300\.0,[\d.]+$"))


def test_where_there_are_several_models_one_can_be_chosen(door: Door, engine: Any, visit: Callable[..., Any]) -> None:
    expect(visit(door).locator("#choice")).to_be_hidden()
    page = visit(with_adapters(door, {"support-zh": "1" * 64}))
    choice = page.get_by_label("Model", exact=True)
    expect(choice.locator("option")).to_have_text(["ragray-test", "support-zh"])
    ask(page)
    choice.select_option("support-zh")
    ask(page)
    assert [params.adapter for params in engine.params] == [None, "support-zh"]


def test_thumbs_are_hidden_where_feedback_is_off(door: Door, visit: Callable[..., Any]) -> None:
    expect(ask(visit(door)).locator(".rating")).to_have_count(0)


def test_thumbs_and_corrections_are_kept(door: Door, visit: Callable[..., Any], tmp_path: Path) -> None:
    settings = UserFeedbackConfig(folder=str(tmp_path), flush_s=0.05)
    page = visit(replace(door, feedback=Feedback(settings)))
    turn = ask(page)
    turn.get_by_role("button", name="This answer helped").click()
    expect(turn.locator("[role=status]")).to_have_text("Thank you.")
    expect(turn.locator("[aria-pressed=true]")).to_have_count(1)
    turn = ask(page, "Which port does the server use?")
    turn.get_by_role("button", name="This answer did not help").click()
    turn.get_by_label("What should the answer have been?").fill("Port 8000.")
    turn.get_by_role("button", name="Send correction").click()
    expect(turn.locator("form")).to_be_hidden()
    deadline = time.monotonic() + 10
    kept: set[tuple[str, str, str]] = set()
    while time.monotonic() < deadline and "Port 8000." not in {answer for *_, answer in kept}:
        for path in tmp_path.glob("*.parquet"):
            kept |= {(row["question"], row["rating"], row["answer"]) for row in pq.read_table(path).to_pylist()}
        time.sleep(0.05)
    assert (QUESTION, "up", "Run make demo.") in kept
    assert ("Which port does the server use?", "down", "Port 8000.") in kept


def test_a_follow_up_that_the_server_forgot_is_rated_as_it_was_searched(
    door: Door, visit: Callable[..., Any], tmp_path: Path
) -> None:
    settings = UserFeedbackConfig(folder=str(tmp_path), recent_answers=1, batch_rows=1)
    page = visit(replace(door, feedback=Feedback(settings)))
    ask(page)
    turn = page.locator(".turn").nth(3)
    ask(page, "How long does it take?")
    ask(page, QUESTION)
    turn.get_by_role("button", name="This answer helped").click()
    expect(turn.locator("[role=status]")).to_have_text("Thank you.")
    deadline = time.monotonic() + 10
    while not list(tmp_path.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (row,) = (row for path in tmp_path.glob("*.parquet") for row in pq.read_table(path).to_pylist())
    assert (row["question"], row["from_server"]) == ("install ragray: How long does it take?", False)
    assert row["served_answer"] == "Run make demo."

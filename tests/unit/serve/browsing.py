"""A headless Chromium that opens the page of a door, over a real HTTP server.

Tests that import this are skipped where Playwright or Chromium is missing; the extra `dev` and
`apt-get install chromium` bring them.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ragray.serve.ingress import Door, http_api

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
expect = sync_api.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUESTION = "How do I install ragray?"
ANSWER = "Run make demo. [1]"


class Server:
    """An application behind a real HTTP server on a port of its own."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium found: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@contextmanager
def visits(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page of a door; at the end no script may have failed, and nobody else may have been asked."""
    servers: list[Server] = []
    contexts: list[Any] = []
    faults: list[str] = []

    def open_page(door: Door, around: Callable[[Any], Any] = lambda app: app, **options: Any) -> Any:
        servers.append(Server(around(http_api(door))))
        contexts.append(browser.new_context(**{"locale": "en-US", **options}))
        contexts[-1].set_default_timeout(10_000)
        page = contexts[-1].new_page()
        _watch(page, servers[-1].url, faults)
        page.goto(servers[-1].url)
        expect(page.locator("#language")).not_to_be_empty()  # the script has run
        return page

    yield open_page
    for context in contexts:
        context.close()
    for server in servers:
        server.stop()
    assert faults == []


def _watch(page: Any, url: str, faults: list[str]) -> None:
    def console(message: Any) -> None:
        if "Content Security" in message.text:
            faults.append(message.text)

    def request(sent: Any) -> None:
        if not sent.url.startswith((url, "data:")):
            faults.append(sent.url)

    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", console)
    page.on("request", request)


def ask(page: Any, question: str = QUESTION, answer: str = ANSWER) -> Any:
    """Ask with the keyboard, and wait for the whole answer; returns its turn."""
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator(".text")).to_have_text(answer)
    expect(page.locator("#send")).to_be_visible()
    return turn


def search(page: Any, query: str) -> None:
    """Search for something that is found."""
    page.get_by_role("tab", name="Search").click()
    page.locator("#query").fill(query)
    page.keyboard.press("Enter")
    expect(page.locator("#hits li").first).to_be_visible()

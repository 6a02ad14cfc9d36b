"""A real HTTP server with OpenAI's chat completions, in a thread, which fails when told to."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up meanwhile is part of the tests."""


class Server:
    """Answers chat completions in a thread; `behave` decides by question and by how often it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.seen: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.most_at_once = self._now = 0
        self.behave: Callable[[str, int], Answer] = lambda question, times: (200, good(question), {})
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                question = body["messages"][-1]["content"].splitlines()[-1]
                with owner._lock:
                    owner._now += 1
                    owner.most_at_once = max(owner.most_at_once, owner._now)
                    owner.asked[question] += 1
                    owner.seen.append(body)
                    owner.headers.append(self.headers["authorization"])
                    times = owner.asked[question]
                status, content, headers = owner.behave(question, times)
                with owner._lock:
                    owner._now -= 1
                if status == 0:  # hang up without a word
                    self.close_connection = True
                    return
                self.send_response(status)
                reply = content if isinstance(content, bytes) else json.dumps(content).encode()
                for name, value in {**headers, "Content-Length": str(len(reply))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def chat(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def good(question: str) -> dict[str, Any]:
    return chat(json.dumps([f"{question} (said {n})" for n in (1, 2)]))

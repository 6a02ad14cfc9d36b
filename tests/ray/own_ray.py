"""An application served by a process of its own, with a Ray that this starts and HAProxy, as by `ragray serve`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from small_service import ENGINE, free_port  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.serve.artifacts import Served

SCRIPT = """
import json, sys
from ragray.config import EngineConfig, ServeConfig
from ragray.serve.app import serve_parts
from ragray.serve.artifacts import Served
served, settings, engine = (json.loads(argument) for argument in sys.argv[1:])
serve_parts(Served(**served), "ragray", ServeConfig(**settings), EngineConfig(**engine))
"""


@contextmanager
def served_alone(artifacts: dict[str, Artifact], folder: Path, **settings: Any) -> Iterator[tuple[str, Any]]:
    """(where it answers, its process), with these fields of `serve`; what it says goes to a file in `folder`."""
    served = Served.of(artifacts["index"], artifacts["calibrate"], artifacts["engine"])
    settings = {"port": free_port(), "max_new_tokens": 4000, "drain_s": 5.0, **settings}
    said = folder / "said.txt"
    told = [json.dumps(tree) for tree in (asdict(served), settings, ENGINE.model_dump())]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *told], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{settings['port']}"
    try:
        wait_for(said, "answers on", process)
        yield url, process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        finally:
            process.kill()


def wait_for(said: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while words not in (text := said.read_text(encoding="utf-8", errors="replace")):
        assert process.poll() is None and time.monotonic() < deadline, text[-3000:]
        time.sleep(0.2)


def replicas(process: Any, part: str) -> list[psutil.Process]:
    """The processes of one part (`Ingress`, `Retriever`, `Generator`) that run now."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if f"ray::ServeReplica:ragray:{part}" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found

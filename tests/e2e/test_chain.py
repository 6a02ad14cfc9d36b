"""The whole job by the real command: it runs, repeats itself exactly, survives kill -9, answers over HTTP."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from small_chain import SmallRun, kill_group, overrides, ragray, run_small, start

STAGES = ["prepare", "index", "augment", "calibrate", "train", "merge", "quantize", "engine", "evaluate"]


def test_every_stage_leaves_a_whole_artifact(small_run: SmallRun) -> None:
    assert list(small_run.outcomes) == STAGES
    for name, outcome in small_run.outcomes.items():
        manifest = json.loads((Path(outcome["artifact"]) / "manifest.json").read_text())
        assert manifest["kind"] == name
        assert not outcome["unchanged"]
    assert not list((small_run.output / ".drafts").iterdir())


def test_no_row_is_lost(small_run: SmallRun) -> None:
    sources = small_run.outcomes["prepare"]["metrics"]["sources"]
    assert len(sources) >= 5
    for name, c in sources.items():
        assert c["rows_in"] == c["records"] + c["rejected"] + c["duplicates"], name


def test_a_second_run_runs_nothing(small_run: SmallRun) -> None:
    begin = time.monotonic()
    again = run_small(small_run.output)
    assert all(outcome["unchanged"] for outcome in again.outcomes.values())
    assert time.monotonic() - begin < 20
    assert {n: o["digest"] for n, o in again.outcomes.items()} == {
        n: o["digest"] for n, o in small_run.outcomes.items()
    }


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_artifacts(small_run: SmallRun, tmp_path: Path) -> None:
    """kill -9 in prepare, in training and in evaluation; the next run finishes with equal digests."""
    options = ["--config", "configs/demo.yaml", *overrides(tmp_path)]
    for stage, seconds in (("prepare", 1.5), ("train", 4.0), ("evaluate", 4.0)):
        process = start("run", *options)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"{stage} ..."):
                break
        time.sleep(seconds)
        assert process.poll() is None, f"{stage} ended before it could be killed"
        kill_group(process)
    finished = run_small(tmp_path)
    assert {n: o["digest"] for n, o in finished.outcomes.items()} == {
        n: o["digest"] for n, o in small_run.outcomes.items()
    }


def test_the_engine_of_the_run_is_the_one_for_the_clusters_cpus(small_run: SmallRun) -> None:
    done = ragray("build-engine", *small_run.options, "--for", "all", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["engine cpu"]["unchanged"]
    assert made["engine cpu"]["digest"] == small_run.outcomes["engine"]["digest"]
    assert list(made)[-1] == "engine cpu"


def test_search_finds_and_explains(small_run: SmallRun) -> None:
    done = ragray("search", "LoRA rank", *small_run.options, "--json", "--explain")
    assert done.returncode == 0, done.stderr
    hits = json.loads(done.stdout)
    assert hits and hits[0]["rank"] == 1 and hits[0]["terms"]


def test_ask_answers_with_times(small_run: SmallRun) -> None:
    done = ragray("ask", "如何安装 ragray？", *small_run.options, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["text"] and answer["timings_ms"]


def test_lineage_goes_back_to_the_source_files(small_run: SmallRun) -> None:
    done = ragray("lineage", small_run.outcomes["engine"]["artifact"])
    assert done.returncode == 0, done.stderr
    for word in ("merge", "train", "augment", "prepare", "data/faq/"):
        assert word in done.stdout


def test_serve_answers_over_http_and_stops_cleanly(small_run: SmallRun) -> None:
    with served(*small_run.options) as client:
        asked = {"messages": [{"role": "user", "content": "How do I install ragray?"}]}
        answer = client.post("/v1/chat/completions", json=asked).json()
        assert answer["choices"][0]["message"]["content"]
        assert answer["lineage"] and answer["timings_ms"]
        with client.stream("POST", "/v1/chat/completions", json=asked | {"stream": True}) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        found = client.post("/v1/search", json={"query": "LoRA rank", "top_k": 3}).json()
        assert len(found["hits"]) == 3
        assert "<html" in client.get("/").text


def test_serve_follows_a_store_that_the_command_line_changes(small_run: SmallRun, tmp_path: Path) -> None:
    store, new = tmp_path / "store", tmp_path / "new.jsonl"
    new.write_text('{"id": "zebra", "title": "What is a zebra?", "text": "A striped quagga."}\n', encoding="utf-8")
    made = ragray("live", "create", str(store), "--from", small_run.outcomes["index"]["artifact"])
    assert made.returncode == 0, made.stderr
    with served(*small_run.options, "--set", f"serve.index_store={store}") as client:

        def search() -> tuple[str, list[str]]:
            found = client.post("/v1/search", json={"query": "striped quagga"}).json()
            return found["lineage"]["index_version"], [hit["doc_id"] for hit in found["hits"]]

        assert search() == ("1", [])
        assert ragray("live", "update", str(store), "--add", str(new)).returncode == 0
        time.sleep(0.2)
        assert search() == ("2", ["zebra"])
        assert client.get("/readyz").json()["index"] == {"version": 2, "current": True}


@contextmanager
def served(*options: str) -> Iterator[httpx.Client]:
    """`ragray serve` on a free port; it must stop cleanly at Ctrl-C."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start("serve", *options, "--port", str(port), merge_streams=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process)
            yield client
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        if process.poll() is None:
            kill_group(process)


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("the API did not become ready")

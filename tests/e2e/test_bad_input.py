"""Bad input answers with one clear error and the exit code of the design, never a traceback."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from small_chain import SmallRun, overrides, ragray, start

DEMO = ["--config", "configs/demo.yaml"]


def check(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    assert "Fix: " in output
    for words in said:
        assert words in " ".join(output.split()), output


def faq(tmp_path: Path, path: Path, *extra: str) -> list[str]:
    tree = tmp_path / "run.yaml"
    tree.write_text(
        f"name: t\noutput: {tmp_path / 'out'}\ndata: {{faq: [{{path: {path}}}]}}\ntrain: {{base_model: none}}\n"
    )
    return ["prepare", "--config", str(tree), *[part for item in extra for part in ("--set", item)]]


def test_unknown_key_has_a_hint() -> None:
    done = ragray("prepare", *DEMO, "--set", "train.lerning_rate=1")
    check(done, 2, "train.lerning_rate: unknown key", "did you mean learning_rate")


def test_missing_config() -> None:
    check(ragray("run", "--config", "configs/none.yaml"), 2, "configs/none.yaml: no such file")


def test_unknown_option_is_usage() -> None:
    done = ragray("prepare", "--nonsense")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_missing_file(tmp_path: Path) -> None:
    check(ragray(*faq(tmp_path, tmp_path / "none.jsonl")), 3, "none.jsonl")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    check(ragray(*faq(tmp_path, tmp_path / "empty.jsonl")), 3, "empty.jsonl")


def test_a_folder_without_readable_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    check(ragray(*faq(tmp_path, tmp_path / "folder")), 3, "folder")


def test_only_rejected_rows(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "What?", "answer": ""}\n' * 5)
    check(ragray(*faq(tmp_path, tmp_path / "bad.jsonl")), 3, "empty_answer")


def test_wrong_column_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("questions,reply\nWhat is it?,It is a thing.\n")
    check(ragray(*faq(tmp_path, tmp_path / "a.csv")), 3, "a.csv", "questions", "reply")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs a read-only place")
def test_no_write_permission(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "What is it?", "answer": "It is a thing."}\n')
    check(ragray(*faq(tmp_path, tmp_path / "a.jsonl", "output=/proc/ragray")), 4, "/proc/ragray")


def test_full_disk(tmp_path: Path) -> None:
    """A real small file system; skipped where one may not be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        pairs = ((os.urandom(40).hex(), os.urandom(400).hex()) for _ in range(600))
        rows = [f'{{"question": "What is {asked}?", "answer": "{answer}"}}\n' for asked, answer in pairs]
        (tmp_path / "a.jsonl").write_text("".join(rows))
        check(ragray(*faq(tmp_path, tmp_path / "a.jsonl", f"output={disk}/out")), 4, "No space left", "free disk space")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_missing_base_model(tmp_path: Path) -> None:
    done = ragray("train", *DEMO, *overrides(tmp_path), "--set", "train.base_model=no/such/folder")
    check(done, 2, "no/such/folder")


def test_serve_without_artifacts(tmp_path: Path) -> None:
    check(ragray("serve", *DEMO, *overrides(tmp_path)), 4, "not finished")


def test_port_in_use(small_run: SmallRun) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = ragray("serve", *small_run.options, "--port", str(port))
    check(done, 4, str(port), "serve.port=")


def test_ctrl_c_exits_130_without_traceback(tmp_path: Path) -> None:
    process = start("run", *DEMO, *overrides(tmp_path))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("index ..."):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in process.stderr.read()

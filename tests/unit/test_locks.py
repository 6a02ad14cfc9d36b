"""Locks: one holder at a time, whatever becomes of the holder; in a file system and in an object store."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from ragray.artifact import Store
from ragray.errors import WorkError
from ragray.locks import Check, file_lock, object_lock

HOLD = """
import sys, time
from pathlib import Path
from ragray.artifact import Store
with Store(sys.argv[1]).lock("engine", "k" * 64, print):
    print("held", flush=True)
    time.sleep(600)
"""
Lock = Callable[[Callable[[str], None]], AbstractContextManager[Check]]


@pytest.fixture(params=["file", "object"])
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> Lock:
    path = tmp_path / "lock"
    if request.param == "file":
        return lambda waiting: file_lock(path, waiting)
    files = pafs.LocalFileSystem()
    return lambda waiting: object_lock(files, str(path), waiting, beat_s=0.05, stale_s=5, settle_s=0.5)


def test_holders_take_turns_and_those_who_wait_hear_who_holds_it(lock: Lock, tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []
    heard: list[str] = []

    def work(number: int) -> None:
        with lock(heard.append) as check:
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.2)
            check()
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
    assert heard and all("process" in line for line in heard)
    assert not (tmp_path / "lock").exists()


def test_a_lock_is_let_go_of_when_the_work_fails(lock: Lock) -> None:
    with pytest.raises(ZeroDivisionError), lock(lambda holder: None):
        raise ZeroDivisionError
    with lock(lambda holder: pytest.fail(f"still held by {holder}")) as check:
        check()


def test_a_killed_process_lets_go_of_its_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    heard: list[str] = []
    taken = threading.Event()

    def wait() -> None:
        with Store(str(tmp_path)).lock("engine", "k" * 64, heard.append):
            taken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not heard:
        time.sleep(0.01)
    assert not taken.is_set() and f"process {holder.pid} on" in heard[0]
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    thread.join(timeout=60)
    assert taken.is_set()


def test_an_object_without_signs_of_life_is_taken_over_and_its_holder_learns_of_it(tmp_path: Path) -> None:
    files, path = pafs.LocalFileSystem(), tmp_path / "lock"
    path.write_text("mark-of-a-dead-process\n7\nprocess 1 on elsewhere")
    heard: list[str] = []
    with object_lock(files, str(path), heard.append, beat_s=0.05, stale_s=0.3, settle_s=0.1) as check:
        check()
        path.write_text("mark-of-another\n1\nprocess 2 on elsewhere")
        with pytest.raises(WorkError, match="another process took over"):
            check()
    assert heard == ["process 1 on elsewhere"]
    assert path.exists()  # it is the other's


def test_a_remote_store_locks_by_an_object(tmp_path: Path) -> None:
    with Store(f"file://{tmp_path}/store").lock("engine", "k" * 64, lambda holder: None) as check:
        (found,) = (tmp_path / "store" / ".locks").iterdir()
        assert found.name == f"engine-{'k' * 16}"
        check()
    assert list((tmp_path / "store" / ".locks").iterdir()) == []

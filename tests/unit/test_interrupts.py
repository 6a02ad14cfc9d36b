"""Ctrl-C that some library swallows still ends a run, in the stage that it came in or right after it."""

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragray.config import RunConfig
from ragray.distributed.stage import Job, Stage, bring_up_to_date


class Swallowing:
    """Ctrl-C comes up in its destructor, where Python only prints it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def stage(name: str, done: list[str], swallows: bool = False, lasts_s: float = 0.0) -> Stage:
    def build(job: Job) -> None:
        (job.draft.folder / "made.txt").write_text(name)
        if swallows:
            held = Swallowing()
            del held
            gc.collect()
        end = time.monotonic() + lasts_s
        while time.monotonic() < end:
            time.sleep(0.001)
        done.append(name)

    return Stage(name, 1, (), (), lambda config: {}, build, lambda artifact: "")


def config(folder: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "interrupted",
            "output": str(folder),
            "data": {"faq": [{"path": "none.jsonl"}]},
            "train": {"base_model": "none"},
        }
    )


@pytest.fixture
def python_handler() -> Iterator[None]:
    """The handler that a new process has: other tests may leave one of a library."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)  # None: one of C's


def test_a_swallowed_interrupt_ends_the_run_after_its_stage(
    python_handler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragray.distributed.stage._AGAIN_S", 60)  # longer than the stage
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(config(tmp_path), [stage("first", done, swallows=True), stage("second", done)])
    assert done == ["first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert shown == []
    bring_up_to_date(config(tmp_path), [stage("first", done), stage("second", done)])
    assert done == ["first", "second"]  # what was finished stays


def test_a_swallowed_interrupt_is_raised_again_in_its_stage(python_handler: None, tmp_path: Path) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(config(tmp_path), [stage("first", done, swallows=True, lasts_s=20)])
    assert done == []


def test_other_lost_exceptions_are_shown(python_handler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError

    def build(job: Job) -> None:
        (job.draft.folder / "made.txt").write_text("made")
        held = Failing()
        del held
        gc.collect()

    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    bring_up_to_date(config(tmp_path), [Stage("one", 1, (), (), lambda config: {}, build, lambda artifact: "")])
    assert shown == [ValueError]

"""Ctrl-C that some library swallows still ends a run, after the stage that it came in."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragray.config import RunConfig
from ragray.distributed.stage import Job, Stage, bring_up_to_date


class Swallowing:
    """Ctrl-C comes up in its destructor, where Python only prints it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def stage(name: str, done: list[str], swallows: bool = False) -> Stage:
    def build(job: Job) -> None:
        (job.draft.folder / "made.txt").write_text(name)
        if swallows:
            held = Swallowing()
            del held
            gc.collect()
        done.append(name)

    return Stage(name, 1, (), (), lambda config: {}, build, lambda artifact: "")


@pytest.fixture
def python_handler() -> Iterator[None]:
    """The handler that a new process has: other tests may leave one of a library."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)  # None: one of C's


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_swallowed_interrupt_ends_the_run_after_its_stage(python_handler: None, tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "name": "interrupted",
            "output": str(tmp_path),
            "data": {"faq": [{"path": "none.jsonl"}]},
            "train": {"base_model": "none"},
        }
    )
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(config, [stage("first", done, swallows=True), stage("second", done)])
    assert done == ["first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    bring_up_to_date(config, [stage("first", done), stage("second", done)])
    assert done == ["first", "second"]  # what was finished stays

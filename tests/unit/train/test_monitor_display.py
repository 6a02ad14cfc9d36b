"""What the terminal shows of a run: a bar with the latest line, warnings that stay."""

import io

import pytest
from rich.console import Console

from ragray import terminal


@pytest.fixture
def screen(monkeypatch):
    """A function that makes the screen: a terminal or a file."""

    def make(is_terminal):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=160, highlight=False, color_system=None)
        monkeypatch.setattr(terminal, "err", console)
        return console

    return make


def run(display):
    with display.live():
        display.progress(120, 300)
        display.report("step 120/300  loss 1.2345")
        display.warn("train.monitor.mlflow failed")
        display._progress.refresh()


def test_a_terminal_shows_a_bar_of_the_steps(screen):
    console = screen(True)
    run(terminal.StageDisplay(3))
    shown = console.file.getvalue()
    assert "steps" in shown and "120/300" in shown and "loss 1.2345" in shown
    assert "train.monitor.mlflow failed" in shown


def test_a_file_gets_plain_lines(screen):
    console = screen(False)
    run(terminal.StageDisplay(3))
    assert console.file.getvalue().split("\n") == [
        "    step 120/300  loss 1.2345", "train.monitor.mlflow failed", "",
    ]  # fmt: skip


def test_a_warning_is_shown_where_nothing_else_is(screen):
    console = screen(False)
    run(terminal.StageDisplay(3, quiet=True))
    assert console.file.getvalue() == "train.monitor.mlflow failed\n"

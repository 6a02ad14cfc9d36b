"""Runs compared: figures by hand, differences, a page that needs nothing else."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from ragray import cli_inspect
from ragray.artifact import Store
from ragray.errors import ConfigError
from ragray.train.monitor import History, StepRecord
from ragray.train.ranks import RankStep, save_ranks
from ragray.train.run_page import line_chart, render, short
from ragray.train.run_report import compare, read_run, write_comparison

RANK = RankStep(1, 0, 2, 100.0, 2.0, 0.5, 0.0, 0.2, 0.0, 60, 61, 64.0, 0.25)


def history(scale=1.0):
    records = [
        StepRecord(0, None, 3.0, 0.0, None, 0),
        StepRecord(1, 2.5 * scale, None, 0.1, 1.0, 100),
        StepRecord(2, 2.0 * scale, 2.25 * scale, 0.2, 0.5, 100),
    ]
    return History(records, [0.0, 2.0, 4.0])


def ranks():
    second = replace(RANK, rank=1, tokens=40, padded_tokens=40, memory_mib=80.0, mfu=0.75, checkpoint_s=0.0)
    later = {"step": 2, "seconds": 4.0, "checkpoint_s": 0.0}
    return [RANK, second, replace(RANK, **later), replace(second, **later)]


def artifact(root, scale=1.0, rate=0.1, name="<b>&name"):
    config = {"train": {"learning_rate": rate, "lora": {"rank": 8}, "base_model": name}, "seed": 17}
    key = f"{int(1000 * scale + 10 * rate):x}".ljust(64, "0")
    with Store(str(root)).draft("train", key, format_version=1, inputs={}, config=config, code="c") as draft:
        history(scale).save(draft.folder)
        save_ranks(ranks(), draft.folder)
    return draft.result.folder


def test_figures_of_a_run_are_those_made_by_hand(tmp_path):
    run = read_run(artifact(tmp_path), "r")
    assert run.curves["tokens_per_s"] == [(1, 50.0), (2, 25.0)]
    assert run.curves["padded_tokens_per_s"] == [(1, 50.5), (2, 25.25)]
    assert run.curves["mfu"] == [(1, 0.5), (2, 0.5)]
    assert run.curves["memory_mib"] == [(1, 80.0), (2, 80.0)]
    assert run.curves["data_wait_share"] == [(1, 0.25), (2, 0.125)]
    assert run.curves["valid_loss"] == [(0, 3.0), (2, 2.25)]
    assert run.curves["learning_rate"] == [(1, 0.1), (2, 0.2)]
    assert run.summary == {
        "steps": 2, "last_loss": 2.0, "best_valid_loss": 2.25, "last_valid_loss": 2.25, "workers": 2,
        "tokens_per_s": 37.5, "padded_tokens_per_s": 37.875, "mfu": 0.5, "memory_mib": 80.0,
        "data_wait_share": 0.1875, "stall_share": 0.2 / 12,
    }  # fmt: skip
    assert run.of_ranks() == [(0, 22.5, 0.1875, 64.0), (1, 15.0, 0.1875, 80.0)]


def test_only_what_differs_is_a_difference(tmp_path):
    comparison = compare([artifact(tmp_path / "a"), artifact(tmp_path / "b", rate=0.2)])
    assert comparison.differences == {"train.learning_rate": [0.1, 0.2]}
    assert len({run.name for run in comparison.runs}) == 2


def test_a_run_that_goes_on_is_read_from_its_work_folder(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    history().save(checkpoint)
    lines = [
        {"step": step, "loss": 1.0 / step, "learning_rate": 0.3, "tokens": 7, "seconds": 1.0} for step in (1, 2, 3)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    run = read_run(tmp_path, "r")
    assert not run.finished
    assert run.history.losses == [2.5, 2.0, 1.0 / 3], "the checkpoint's steps, then those after it"


def test_a_step_that_was_left_out_has_no_loss_in_a_run_that_goes_on(tmp_path):
    lines = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.3, "tokens": 7, "seconds": 1.0},
        {"step": 2, "learning_rate": 0.3, "tokens": 7, "seconds": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(tmp_path, "r")
    assert [record.loss for record in run.history.records] == [2.0, None]
    assert run.curves["learning_rate"] == [(1, 0.3), (2, 0.3)], "without a checkpoint there is no step 0 to leave out"


def test_a_checkpoint_that_is_being_removed_is_passed_over(tmp_path):
    for step in (2, 4):
        checkpoint = tmp_path / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        history(step).save(checkpoint)
    (checkpoint / "timings.parquet").unlink()
    assert read_run(tmp_path, "r").history == history(2)


def test_what_is_no_finite_number_is_shown_and_leaves_the_json_whole(tmp_path):
    made = artifact(tmp_path)
    records = [
        *history().records,
        StepRecord(3, 1.5, None, 0.2, math.inf, 100),
        StepRecord(4, 1.0, math.nan, 0.2, 1.0, 100),
    ]
    History(records, [0.0, 2.0, 4.0, 1.0, 1.0]).save(made)
    comparison = compare([made])
    write_comparison(comparison, tmp_path / "out")
    (run,) = json.loads((tmp_path / "out" / "run.json").read_text(), parse_constant=pytest.fail)["runs"]
    assert (run["summary"]["best_valid_loss"], run["summary"]["last_valid_loss"]) == (2.25, None)
    assert run["curves"]["grad_norm"] == [[1, 1.0], [2, 0.5], [4, 1.0]]
    assert short(comparison.runs[0].summary["last_valid_loss"]) == "nan"
    assert short(-math.inf) == "-inf"


def test_what_is_no_run_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"no run of training\n.*artifacts/demo/train"):
        read_run(tmp_path, "r")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_escapes_names(tmp_path):
    going_on = tmp_path / "<i>run"
    going_on.mkdir()
    line = {"step": 1, "loss": 1.0, "learning_rate": 0.3, "tokens": 7, "seconds": 1.0}
    (going_on / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    other = artifact(tmp_path / "b", 0.5, name="<script>x</script>")
    html = render(compare([artifact(tmp_path / "a"), other, going_on]))
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert not re.search(r"https?://|<script|src=|@import|url\(", html)
    assert html.count("<svg") == 9
    assert "prefers-color-scheme: dark" in html
    assert "&lt;script&gt;x" in html
    assert "&lt;i&gt;run (not finished)" in html and "<i>run" not in html


def test_points_lie_where_their_values_say():
    """From 0 to 4 over steps 0 to 2: ticks of 1; the axes reach from 62 to 508 and from 206 to 10."""
    svg = line_chart("t", [[(0, 0.0), (1, 2.0), (2, 4.0)]])
    assert 'points="62.0,206.0 285.0,108.0 508.0,10.0"' in svg
    assert re.findall(r'end">([^<]*)<', svg) == ["0", "1", "2", "3", "4", "step 2"]
    assert "step 1: 2</title>" in svg


@pytest.mark.parametrize("points", [[(1, 5.0)], [(1, 0.0), (2, 0.0)], [(1, float("nan"))], [(1, 1e-9), (9, 1e9)]])
def test_odd_curves_are_drawn_too(points):
    assert "nan" not in line_chart("t", [points, []])


def test_long_curves_are_thinned_and_keep_their_end():
    svg = line_chart("t", [[(step, float(step)) for step in range(5000)]])
    assert svg.count("<circle") <= 302
    assert "step 4999" in svg


def test_the_command_writes_page_and_json(tmp_path):
    first, second = artifact(tmp_path / "a"), artifact(tmp_path / "b", 0.5)
    done = CliRunner().invoke(cli_inspect.app, ["run", str(first), str(second), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "2 steps, loss 2, validation 2.25, 37.5 tokens/s" in done.output
    tree = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [run["summary"]["last_loss"] for run in tree["runs"]] == [2.0, 1.0]
    assert (tmp_path / "out" / "run.html").read_text().startswith("<!doctype html>")

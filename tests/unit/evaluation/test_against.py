"""Two evaluations compared: pairing, limits, refusals, and the page."""

import json
from pathlib import Path

import pytest
from small_evaluation import QUESTIONS, TUNED, prediction

from ragray import cli_against
from ragray.artifact import Artifact, Store
from ragray.errors import EXIT_WORK, ArtifactError, ConfigError, DataError, QualityError
from ragray.evaluation.against import compare_runs, lower_is_better, parse_limits, read_figures
from ragray.evaluation.against_report import HEADER, comparison_report, plain_rows, write_comparison
from ragray.evaluation.results import AS_WRITTEN, Results, write_results
from ragray.evaluation.significance import Resampling
from ragray.evaluation.summary import MAIN_CELL, summarize

DECLINE = "文档没有回答这个问题。"


def evaluation(folder: Path, values, changed: dict[str, tuple] | None = None, kind: str = "evaluate") -> Artifact:
    """An evaluation of the small questions as an artifact; `changed` are other answers of the tuned model."""
    rows = [prediction(q, MAIN_CELL, *(TUNED | (changed or {}))[q]) for q in QUESTIONS]
    summary = summarize(rows, values, Resampling(20, 1))
    with Store(str(folder)).draft(
        kind, f"{len(changed or {})}".ljust(64, "0"), format_version=2, inputs={}, config={}, code="c" * 64
    ) as draft:
        write_results(draft.folder, Results(summary, rows, {}, {}, {AS_WRITTEN: values}))
    return draft.result


@pytest.fixture
def before(tmp_path, retrieval_values) -> Artifact:
    return evaluation(tmp_path, retrieval_values)


@pytest.fixture
def worse(tmp_path, retrieval_values) -> Artifact:
    """q1, the only right answer, is declined now."""
    return evaluation(tmp_path, retrieval_values, {"q1": (DECLINE, (), "model")})


def compared(first: Artifact, second: Artifact, *limits: str):
    return compare_runs(read_figures(first), read_figures(second), parse_limits(limits), 17)


def test_a_drop_beyond_the_limit_fails_and_one_within_passes(before, worse):
    found = compared(before, worse, "answers.f1=0.24", "retrieval.ndcg@10=0")
    rows = {change.name: change for change in found.changes}
    f1 = rows["answers.f1"]
    assert (f1.first, f1.second, f1.difference.mean) == (0.25, 0.0, -0.25)
    assert f1.worse_by == 0.25
    assert [change.name for change in found.failed] == ["answers.f1"]
    assert rows["retrieval.ndcg@10"].difference.mean == 0.0
    assert compared(before, worse, "answers.f1=0.25").failed == ()  # just what is allowed
    assert compared(worse, before, "answers.f1=0").failed == ()  # it got better


def test_of_some_metrics_a_rise_is_worse(before, worse):
    assert lower_is_better("answers.declined_answerable")
    assert not lower_is_better("answers.declined_unanswerable")
    (failed,) = compared(before, worse, "answers.declined_answerable=0.2").failed
    assert (failed.difference.mean, failed.worse_by) == (0.25, 0.25)
    assert compared(worse, before, "answers.declined_answerable=0.2").failed == ()


def test_questions_are_paired(before, worse):
    rows = {change.name: change for change in compared(before, worse).changes}
    assert rows["answers.f1"].difference.n == 4  # the answerable ones
    assert rows["answers.declined_unanswerable"].difference.n == 2
    assert rows["answers.exact_match"].difference.p_value > 0.3  # one question of four changed


def test_the_same_run_differs_in_nothing(before):
    found = compared(before, before, *(f"{name}=0" for name in ("answers.f1", "answers.groundedness")))
    assert not found.failed
    assert {change.difference.mean for change in found.changes} == {0.0}


def test_other_cells_and_retrievers_are_compared_when_they_are_named(before, worse):
    shown = {change.name for change in compared(before, worse).changes}
    assert {"answers.f1", "retrieval.map"} <= shown
    assert not shown & {f"answers.{MAIN_CELL}.f1", "retrieval.bm25.map"}
    found = compared(before, worse, f"answers.{MAIN_CELL}.f1=1", "retrieval.bm25.map=1")
    assert {f"answers.{MAIN_CELL}.f1", "retrieval.bm25.map"} <= {change.name for change in found.changes}


@pytest.mark.parametrize("text", ["answers.f1", "=0.1", "answers.f1=-0.1", "answers.f1=x", "answers.f1=inf", "a=nan"])
def test_limits_are_written_as_name_and_number(text):
    with pytest.raises(ConfigError, match="no metric and number") as caught:
        parse_limits([text])
    assert "--max-drop answers.f1=0.01" in caught.value.fix


def test_a_metric_has_one_limit():
    assert parse_limits(["a=0.1", "b=1e-3"]) == {"a": 0.1, "b": 0.001}
    with pytest.raises(ConfigError, match="a has a limit already"):
        parse_limits(["a=0.1", "a=0.2"])


def test_an_unknown_metric_is_told_the_known_ones(before, worse):
    with pytest.raises(ConfigError, match=r"answers\.f2: no such metric; did you mean answers\.f1\?") as caught:
        compared(before, worse, "answers.f2=0.1")
    assert "retrieval.ndcg@10" in caught.value.fix and "answers.cmrc_f1" in caught.value.fix


def test_other_questions_are_refused(before, tmp_path, retrieval_values, monkeypatch):
    lang, _, references, right = QUESTIONS["q3"]
    monkeypatch.setitem(QUESTIONS, "q3", (lang, "another question", references, right))
    other = evaluation(tmp_path / "other", retrieval_values)
    with pytest.raises(DataError, match=r"1 questions that differ .*: q3"):
        compared(before, other)


def test_a_metric_that_no_question_counts_for_cannot_be_limited(before, tmp_path, retrieval_values):
    declined = dict.fromkeys(QUESTIONS, (DECLINE, (), "model"))
    silent = evaluation(tmp_path / "silent", retrieval_values, declined)
    found = compared(before, silent)
    assert "answers.groundedness" in found.uncounted
    with pytest.raises(DataError, match=r"answers\.groundedness: one of the runs counts no question"):
        compared(before, silent, "answers.groundedness=0.5")


def test_only_evaluations_are_compared(tmp_path, retrieval_values):
    other = evaluation(tmp_path, retrieval_values, kind="index")
    with pytest.raises(ArtifactError, match="artifact of the stage index"):
        read_figures(other)


def test_the_command_shows_the_table_and_refuses(before, worse, tmp_path, capsys):
    baseline = cli_against.Baseline.open(before.uri, ["answers.f1=0.01"])
    with pytest.raises(QualityError, match=r"answers\.f1 by 0\.2500, allowed 0\.01") as caught:
        baseline.compare(worse, 17, tmp_path / "page", as_json=False)
    assert caught.value.exit_code == EXIT_WORK and caught.value.fix
    assert "answers.exact_match" in capsys.readouterr().out
    assert (tmp_path / "page" / "report.html").exists()
    cli_against.Baseline.open(before.uri, ["answers.f1=0.3"]).compare(worse, 17, None, as_json=True)
    tree = json.loads(capsys.readouterr().out)
    assert tree["first"]["digest"] == before.digest and tree["questions"] == 6
    assert [row["failed"] for row in tree["metrics"] if row["name"] == "answers.f1"] == [False]


def test_a_wrong_limit_is_told_before_anything_is_run(before):
    with pytest.raises(ConfigError, match="no such metric"):
        cli_against.Baseline.open(before.uri, ["answers.nonsense=0.01"])


def test_the_page_holds_every_metric_and_both_runs(before, worse, tmp_path):
    found = compared(before, worse, "answers.f1=0.01", "retrieval.map=0.5")
    write_comparison(tmp_path / "page", found)
    page, text = ((tmp_path / "page" / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    for change in found.changes:
        assert change.name in page
    assert before.digest in page and worse.digest in text
    assert (tmp_path / "page" / "charts" / "differences.svg").stat().st_size > 1000
    tree = json.loads((tmp_path / "page" / "comparison.json").read_text(encoding="utf-8"))
    assert tree == json.loads(json.dumps(found.tree()))
    assert comparison_report(found).tiles[0][:2] == ("Limits kept", "1 of 2")
    assert {len(row) for row in plain_rows(found)} == {len(HEADER)}
    assert {row[0]: row[-1] for row in plain_rows(found)}["answers.f1"] == "failed"

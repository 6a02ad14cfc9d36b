"""`ragray evaluate`: the stage as it was, and `evaluate retrieval` with its output, options and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragray import cli
from ragray.errors import EXIT_CONFIG, EXIT_DATA, EXIT_DONE, EXIT_WORK

DEMO = str(Path(__file__).parents[2] / "configs" / "demo.yaml")


def test_evaluate_with_a_config_is_the_stage(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "_run", lambda config, targets, as_json: asked.append((config, targets, as_json)))
    for arguments in (["--config", DEMO], ["-c", DEMO, "-s", "seed=3", "--set", "train.epochs=1", "--json"]):
        assert CliRunner().invoke(cli.app, ["evaluate", *arguments]).exit_code == EXIT_DONE
    assert [(config.seed, targets, as_json) for config, targets, as_json in asked] == [
        (17, ("evaluate",), False),
        (3, ("evaluate",), True),
    ]


def test_evaluate_without_a_config_is_wrong_usage():
    result = CliRunner().invoke(cli.app, ["evaluate"])
    assert result.exit_code == EXIT_CONFIG and "Missing option '--config' / '-c'" in result.output


@pytest.mark.parametrize("options", [["--json"], ["--config", DEMO], ["--set", "seed=3"]])
def test_options_before_the_command_are_not_passed_over(beir, options):
    result = CliRunner().invoke(cli.app, ["evaluate", *options, "retrieval", str(beir)])
    assert result.exit_code == EXIT_CONFIG and "behind the command" in result.output


@pytest.mark.parametrize("options", [["--max-drop", "answers.f1=0.01"], ["--out", "page"]])
def test_limits_go_with_a_run_to_compare_with(options):
    result = CliRunner().invoke(cli.app, ["evaluate", "--config", DEMO, *options])
    assert result.exit_code == EXIT_CONFIG and "'--against'" in result.output


@pytest.mark.parametrize(
    ("against", "limit", "said", "exit_code"),
    [
        ("nowhere/evaluate/0123", "answers.f1=0.01", "no finished artifact here", EXIT_WORK),
        ("nowhere/evaluate/0123", "answers.f1", "no metric and number", EXIT_CONFIG),
        ("0123", "answers.f1=0.01", "no artifact's folder", EXIT_CONFIG),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_run(capfd, tmp_path, against, limit, said, exit_code):
    arguments = ["--config", DEMO, "--set", f"output={tmp_path}/out", "--against", against, "--max-drop", limit]
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", *arguments])
    assert caught.value.code == exit_code
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def run(capfd, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `ragray evaluate retrieval`."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", "retrieval", *map(str, arguments)])
    captured = capfd.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_json_is_all_that_is_printed(beir):
    command = [sys.executable, "-m", "ragray.cli", "evaluate", "retrieval", str(beir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tree = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert list(tree["metrics"]) == ["tfidf", "bm25", "hybrid"]
    assert tree["metrics"]["hybrid"]["recall@100"] == 0.75
    assert set(tree["speed"]["hybrid"]) == {"queries_per_s", "p50_ms", "p99_ms"}
    assert tree["retrieval"]["bm25"]["k1"] == 1.2


def test_the_tables(beir, capfd):
    code, out, err = run(capfd, beir)
    assert code == EXIT_DONE
    assert "4 documents, 2 judged queries" in out and "7 judgements" in out
    for remark in ("queries without judgements: left out", "of queries that are not", "of documents that are not"):
        assert f"1 {remark}" in out or f"1 judgements {remark}" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["retriever", "ndcg@10", "recall@10", "recall@100", "mrr@10", "map"] in rows
    assert ["hybrid", "0.6330", "0.7500", "0.7500", "0.7500", "0.5000"] in rows
    assert "queries/s" in out and "indexing 4 documents" in err


def test_settings_from_an_override_and_from_a_file(beir, tmp_path, capfd):
    def stemmed(*options) -> bool:
        code, out, _ = run(capfd, beir, "--json", *options)
        assert code == EXIT_DONE
        return json.loads(out)["metrics"]["hybrid"]["mrr@10"] == 0.75

    assert stemmed()
    assert not stemmed("--set", "retrieval.analyzer.stem=false")
    config = tmp_path / "run.yaml"
    config.write_text(Path(DEMO).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert stemmed("--config", config)
    assert not stemmed("--config", config, "--set", "retrieval.analyzer.stem=false")


def test_other_queries_and_judgements(beir, tmp_path, capfd):
    (tmp_path / "topics.tsv").write_text("t1\tsavanna\nt2\tzebra\n")
    (tmp_path / "judged.txt").write_text("t1 0 d 1\n")
    code, out, _ = run(capfd, beir, "--queries", tmp_path / "topics.tsv", "--qrels", tmp_path / "judged.txt", "--json")
    tree = json.loads(out)
    assert code == EXIT_DONE and (tree["queries"], tree["judged_queries"]) == (2, 1)
    assert tree["metrics"]["tfidf"] == dict.fromkeys(tree["metrics"]["tfidf"], 1.0)


def test_the_run_is_written(beir, tmp_path, capfd):
    code, _, _ = run(capfd, beir, "--run", tmp_path / "hybrid.run")
    assert code == EXIT_DONE
    assert (tmp_path / "hybrid.run").read_text() == (
        "q1 Q0 d 1 1.000000 ragray\nq1 Q0 b 2 0.500000 ragray\nq2 Q0 a 1 1.000000 ragray\nq2 Q0 b 2 0.500000 ragray\n"
    )


def test_the_run_is_that_of_the_hybrid(beir, capfd):
    # BM25 puts the long document first, TF-IDF the other; fused they tie, and stand in index order
    (beir / "corpus.jsonl").write_text(
        '{"id": "zebras", "text": "zebra zebra zebra zebra"}\n'
        '{"id": "both", "text": "zebra lion one two three four five six seven eight nine ten eleven twelve"}\n'
        '{"id": "other", "text": "tiger"}\n'
    )
    (beir / "queries.jsonl").write_text('{"id": "q", "text": "zebra lion"}\n')
    (beir / "qrels" / "test.tsv").write_text("q\tboth\t1\n")
    code, out, _ = run(capfd, beir, "--json", "--run", beir / "run")
    metrics = json.loads(out)["metrics"]
    assert code == EXIT_DONE
    assert [metrics[name]["mrr@10"] for name in ("tfidf", "bm25", "hybrid")] == [0.5, 1.0, 0.5]
    assert [line.split()[2] for line in (beir / "run").read_text().splitlines()] == ["zebras", "both"]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["absent"], EXIT_DATA, "no such folder"),
        (["beir", "--qrels", "absent"], EXIT_DATA, "no such file"),
        (["beir", "--queries", "beir"], EXIT_DATA, "is a folder"),
        (["beir", "--run", "beir"], EXIT_CONFIG, "is a folder"),
        (["beir", "--run", "absent/run"], EXIT_CONFIG, "does not exist"),
        (["beir", "--config", "absent.yaml"], EXIT_CONFIG, "no such file"),
        (["beir", "--set", "retrieval.bm25.variants=l"], EXIT_CONFIG, "did you mean variant?"),
        (["beir", "--set", "train.epochs=1"], EXIT_CONFIG, "known here: retrieval"),
        ([], EXIT_CONFIG, "Missing argument"),
    ],
)
def test_mistakes(beir, monkeypatch, capfd, arguments, code, problem):
    monkeypatch.chdir(beir.parent)
    found, out, err = run(capfd, *arguments)
    assert (found, out) == (code, "") and problem in err


def test_several_judgements_and_ids_with_spaces(beir, capfd):
    (beir / "qrels" / "test.tsv").rename(beir / "qrels" / "dev.tsv")
    (beir / "qrels.tsv").write_text("q 1\ta\t1\n")
    code, _, err = run(capfd, beir)
    assert code == EXIT_CONFIG and "dev.tsv" in err and "--qrels FILE" in err
    (beir / "queries.jsonl").write_text('{"id": "q 1", "text": "zebra"}\n')
    code, _, err = run(capfd, beir, "--qrels", beir / "qrels.tsv", "--run", beir / "run")
    assert code == EXIT_DATA and "'q 1'" in err and not (beir / "run").exists()

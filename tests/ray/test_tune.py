"""`ragray tune` by Ray tasks: the figures of one process, the files, and mistakes before any work."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ragray import cli
from ragray.config import AnalyzerConfig, Bm25Config, RetrievalConfig
from ragray.distributed.tune import parts_of, tune_remotely
from ragray.errors import EXIT_CONFIG, EXIT_DATA, EXIT_DONE
from ragray.evaluation.collections import Collection, read_collection
from ragray.evaluation.search_quality import evaluate_search
from ragray.evaluation.tuning import Priors, term_settings, tune
from ragray.evaluation.tuning_prior import prior_choices, prior_of, values_with_priors
from ragray.evaluation.tuning_values import Judged, values_of
from ragray.schema import Passage, stable_digest, table_of

WITH_PRIOR = f"retrieval.prior={{file: prior.json, sha256: '{'0' * 64}', weight: 1}}"
WORDS = [f"word{n}" for n in range(30)] + ["训练", "集群", "clusters", "training"]


def drawn(*parts: str | int) -> str:
    """A few words, the first of the list the most frequent."""
    places = [stable_digest(*parts, at) % 10_000 / 10_000 for at in range(3 + stable_digest(*parts) % 12)]
    return " ".join(WORDS[int(place**2 * len(WORDS))] for place in places)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 documents and 24 queries in words of one; relevant is the document that a query was drawn from."""
    made = tmp_path_factory.mktemp("collection")
    documents = [{"_id": f"d{n}", "title": drawn("title", n)[:14], "text": drawn("text", n)} for n in range(80)]
    queries = [{"_id": f"q{n}", "text": " ".join(documents[n]["text"].split()[::2]) + " 训练"} for n in range(24)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (made / "qrels.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(24)))
    return made


@pytest.fixture(scope="module")
def small(folder: Path) -> Collection:
    return read_collection(folder)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer settings, so that a test takes seconds."""
    for name, values in (("K1S", (0.6, 2.0)), ("BS", (0.3,)), ("RRF_KS", (5,)), ("SHARES", (0.2, 0.8))):
        monkeypatch.setattr(f"ragray.evaluation.tuning.{name}", values)


def test_every_setting_is_in_one_part_and_a_part_has_one_analyzer() -> None:
    settings = term_settings(RetrievalConfig(), ["如何 train"])
    for tasks in (1, 12, 13, 64, 1000):
        parts = parts_of(settings, tasks)
        assert sorted(place for part in parts for place in part) == list(range(len(settings)))
        assert all(len({settings[place].analyzer for place in part}) == 1 for part in parts)
        assert len(parts) >= min(tasks, len(settings))


def test_settings_with_the_same_rankings_are_neighbours() -> None:
    settings = [RetrievalConfig(bm25=Bm25Config(k1=k1), rrf_k=k) for k in (1, 2, 3) for k1 in (2.0, 1.0)]
    (part,) = parts_of(settings, 1)
    assert [settings[place].bm25.k1 for place in part] == [1.0] * 3 + [2.0] * 3


def test_tasks_find_what_one_process_finds(ray_local: None, few: None, small: Collection) -> None:
    documents = table_of(Passage, small.documents)
    judged = Judged(small.queries, small.qrels, "mrr@10")

    def here(settings, retriever):  # type: ignore[no-untyped-def]
        values = np.zeros((len(settings), len(small.queries)))
        for made in {(one.analyzer, one.title_weight) for one in settings}:
            places = [n for n, one in enumerate(settings) if (one.analyzer, one.title_weight) == made]
            values[places] = values_of(documents, judged, [settings[n] for n in places], retriever)
        return values

    untuned, told = RetrievalConfig(analyzer=AnalyzerConfig(chinese="words")), []
    choices = prior_choices([(one.title, one.source) for one in small.documents], ("title", "head"), "o")

    def with_priors(asked, fold_of):  # type: ignore[no-untyped-def]
        return np.concatenate(
            [values_with_priors(documents, judged, fold_of, one, [out], choices, "o") for one, out in asked]
        )

    priors = Priors(choices, with_priors, lambda choice: prior_of(small, choice, "o"))
    expected = tune(small.qrels, small.queries, untuned, 3, here, priors)
    found = tune_remotely(small, untuned, 3, "mrr@10", told.append, ("title", "head"), "o")
    assert (found.priors, found.prior, found.prior_choice) == (expected.priors, expected.prior, expected.prior_choice)
    assert np.array_equal(found.without_prior, expected.without_prior) and len(set(found.priors)) > 2
    assert np.array_equal(found.held_out, expected.held_out) and np.array_equal(found.before, expected.before)
    assert (found.terms, found.titles, found.fusions) == (expected.terms, expected.titles, expected.fusions)
    assert (found.chosen, found.folds, found.difference) == (expected.chosen, expected.folds, expected.difference)
    assert len(set(found.terms)) > 1 and len(told) == 4
    assert found.before.mean() == pytest.approx(evaluate_search(small, untuned).metrics["hybrid"]["mrr@10"])
    chosen = evaluate_search(small, found.chosen).metrics["hybrid"]["mrr@10"]
    assert found.priors[0] == (None, pytest.approx(chosen))
    assert found.chosen_mean == dict(found.priors)[found.prior_choice]


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `ragray tune`."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["tune", *map(str, arguments)])
    captured = capfd.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_the_command(
    ray_local: None, few: None, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    code, said, _ = run(capfd, folder, "--out", out, "--folds", 3, "--set", "retrieval.bm25.b=0.5")
    assert code == EXIT_DONE and "on held-out queries" in said and str(out / "tuned.yaml") in said
    tree = json.loads((out / "tune.json").read_text(encoding="utf-8"))
    assert tree["untuned"]["bm25"] == {"k1": 1.2, "b": 0.5} and len(tree["folds"]) == 3
    assert yaml.safe_load((out / "tuned.yaml").read_text())["retrieval"] == tree["tuned"]
    assert tree["metric"] == "ndcg@10" and tree["verdict"] in said.replace("\n", " ")
    assert len(tree["priors"]) == 9  # none, title and head with 4 weights; all have the same source
    other = ("--out", tmp_path / "json", "--folds", 3, "--set", "retrieval.bm25.b=0.5", "--json")
    code, said, errors = run(capfd, folder, *other)
    assert (code, json.loads(said)) == (EXIT_DONE, tree) and "measuring" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["absent", "--out", "o"], EXIT_DATA, "no such folder"),
        (["c", "--out", "c"], EXIT_CONFIG, "holds files already"),
        (["c", "--out", "c/qrels.tsv"], EXIT_CONFIG, "is a file"),
        (["c", "--out", "o", "--metric", "ndcg@3"], EXIT_CONFIG, "write one of ndcg@10"),
        (["c", "--out", "o", "--folds", "1"], EXIT_CONFIG, "--folds"),
        (["c", "--out", "o", "--set", "retrieval.k1=1"], EXIT_CONFIG, "unknown key"),
        (["c", "--out", "o", "--prior", "author"], EXIT_CONFIG, "write title, head, source, or none alone"),
        (["c", "--out", "o", "--prior-separator", "("], EXIT_CONFIG, "not a regular expression"),
        (["c", "--out", "o", "--set", WITH_PRIOR], EXIT_CONFIG, "--set retrieval.prior=null"),
        (["c", "--out", "o", "--set", "retrieval.feedback={}"], EXIT_CONFIG, "--set retrieval.feedback=null"),
        (["c", "--out", "o", "--qrels", "absent"], EXIT_DATA, "no such file"),
        (["c", "--out", "c/qrels.tsv/o"], EXIT_CONFIG, "no folder can be made in"),
        (["c", "--out", "o", "--folds", "25"], EXIT_CONFIG, "write --folds 24"),
        (["c"], EXIT_CONFIG, "--out"),
    ],
)
def test_mistakes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    arguments: list[str], code: int, problem: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").symlink_to(folder)
    found, said, errors = run(capfd, *arguments)
    assert (found, said) == (code, "") and problem in errors and not (tmp_path / "o").exists()

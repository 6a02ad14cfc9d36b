"""Stage evaluate on a small corpus and a random model: whole, deterministic, and clear when it cannot work."""

import importlib.util
import json
import math
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.config_loading import validate_config
from ragray.distributed.build_engine import STAGE as ENGINE
from ragray.distributed.evaluate import STAGE as EVALUATE
from ragray.distributed.evaluate import collect
from ragray.distributed.index import STAGE as INDEX
from ragray.distributed.stage import Job, Stage, bring_up_to_date
from ragray.errors import DataError, EngineError, WorkError
from ragray.evaluation.predictions import PREDICTIONS
from ragray.evaluation.summary import CELLS
from ragray.prompt import DECLINE
from ragray.retrieval.confidence import FEATURES, Confidence
from ragray.schema import EvalQuestion, Passage, QARecord, table_of

RECORDS = [
    QARecord("f-1", "How is ragray installed?", "Run make demo; it creates an environment.", "en", "f.csv", 1),
    QARecord("f-2", "How do I set everything up?", "Run make demo; it creates an environment.", "en", "f.csv", 2),
    QARecord("f-3", "用什么训练？", "训练用 LoRA。", "zh", "f.csv", 3),
    QARecord("f-4", "索引用什么？", "索引用 BM25 和 TF-IDF。", "zh", "f.csv", 4),
]
QUESTIONS = [
    EvalQuestion("q1", "how to install ragray and make an environment", "en", ("f-1",), (RECORDS[0].answer,)),
    EvalQuestion("q2", "训练使用什么方法", "zh", ("f-3",), (RECORDS[2].answer,)),
    EvalQuestion("q3", "xyzzy plugh", "en"),  # no term of it is in the index: the gate declines
]


def model_maker():
    """The engine tests' maker of tiny random models."""
    path = Path(__file__).parents[1] / "unit" / "engine" / "tiny_model.py"
    spec = importlib.util.spec_from_file_location("tiny_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_model_folder


def stage(name: str, needs: tuple[str, ...], build) -> Stage:
    """A stage that writes what the real one would, in no time."""
    return Stage(name, 1, needs, (), lambda config: {"name": config.name}, build, lambda artifact: "")


def prepare(questions: list[EvalQuestion]) -> Stage:
    def build(job: Job) -> None:
        for name, kind, rows in (
            ("records", QARecord, RECORDS),
            ("passages", Passage, []),
            ("questions", EvalQuestion, questions),
        ):
            pq.write_table(table_of(kind, rows), job.draft.folder / f"{name}.parquet")

    return stage("prepare", (), build)


def calibrate(job: Job) -> None:
    """A gate that lets everything through that found any passage."""
    Confidence(
        intercept=3.0,
        coefficients=(0.0,) * len(FEATURES),
        threshold=0.5,
        max_false_declines=0.05,
        counts={},
        metrics={},
        reliability=(),
    ).write(job.draft.folder)


def train(base_model: Path) -> Stage:
    def build(job: Job) -> None:
        text = json.dumps({"path": str(base_model), "digest": "0" * 64})
        (job.draft.folder / "base_model.json").write_text(text)

    return stage("train", (), build)


def merge(job: Job) -> None:
    model_maker()(job.draft.folder / "model", seed=1)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_maker()(tmp_path_factory.mktemp("base") / "tiny", seed=0)


def config_below(output: Path, **evaluate) -> RunConfig:
    return validate_config(
        {
            "name": "small",
            "output": str(output),
            "data": {"faq": [{"path": "f.csv"}]},
            "train": {"base_model": "unused"},
            "engine": {"kind": "transformers", "weights": "fp32"},
            "evaluate": {"max_new_tokens": 6, "bootstrap_samples": 50, "questions": "given", **evaluate},
        },
        "test",
    )


def chain(base_model: Path, questions: list[EvalQuestion] = QUESTIONS) -> list[Stage]:
    return [
        prepare(questions),
        INDEX,
        stage("calibrate", (), calibrate),
        train(base_model),
        stage("merge", (), merge),
        ENGINE,
        EVALUATE,
    ]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def evaluated(ray_local, base_model, lines, tmp_path_factory) -> Artifact:
    config = config_below(tmp_path_factory.mktemp("runs") / "one")
    return bring_up_to_date(config, chain(base_model), report=lines.append)["evaluate"].artifact


def test_every_question_is_answered_in_every_cell(evaluated):
    table = pq.read_table(evaluated.file("predictions.parquet"))
    assert table.schema == PREDICTIONS
    found = list(zip(table["query_id"].to_pylist(), table["cell"].to_pylist(), strict=True))
    assert found == sorted((q.query_id, cell) for q in QUESTIONS for cell in CELLS)
    assert evaluated.manifest.counts == {"questions": 3, "unanswerable": 1, "predictions": 15}


def test_the_gate_declines_in_all_cells_with_retrieval_alike(evaluated):
    rows = pq.read_table(evaluated.file("predictions.parquet")).to_pylist()
    by_gate = {(r["query_id"], r["cell"]) for r in rows if r["declined_by"] == "retrieval"}
    assert by_gate == {("q3", cell) for cell in CELLS if not cell.endswith("closed_book")}
    declined = next(r for r in rows if (r["query_id"], r["cell"]) == ("q3", "engine_retrieval"))
    assert (declined["answer"], declined["completion_tokens"]) == (DECLINE["en"], 0)
    shown = {r["cell"]: r["shown"] for r in rows if r["query_id"] == "q1"}
    assert shown["base_retrieval"] == shown["tuned_retrieval"] == shown["engine_retrieval"]
    assert set(shown["base_retrieval"]) >= {"f-1", "f-2"}
    assert shown["tuned_closed_book"] == []


def test_the_engine_answers_as_the_model_that_it_was_built_from(evaluated):
    rows = pq.read_table(evaluated.file("predictions.parquet")).to_pylist()
    answers = {(r["cell"], r["query_id"]): r["answer"] for r in rows}
    for question in QUESTIONS:
        assert answers["engine_retrieval", question.query_id] == answers["tuned_retrieval", question.query_id]
    assert answers["base_retrieval", "q1"] != answers["tuned_retrieval", "q1"]
    assert answers["tuned_closed_book", "q1"] != answers["tuned_retrieval", "q1"]


def test_metrics_count_what_they_should(evaluated):
    metrics = json.loads(evaluated.file("metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["cells"]) == set(CELLS)
    main = metrics["cells"]["tuned_retrieval"]
    assert {name: figure["n"] for name, figure in main.items() if name.startswith(("f1", "declined"))} == {
        "f1": 2,
        "declined_unanswerable": 1,
        "declined_answerable": 2,
    }
    assert main["declined_unanswerable"]["mean"] == 1.0
    assert set(metrics["retrieval"]) == {"hybrid", "bm25", "tfidf"}
    # q1's answer stands in f-1 and f-2: both are relevant, and both are found.
    qrels = evaluated.file("retrieval/qrels.txt").read_text()
    assert qrels.splitlines() == ["q1 0 f-1 1", "q1 0 f-2 1", "q2 0 f-3 1"]
    assert metrics["retrieval"]["hybrid"]["recall@5"]["mean"] == 1.0
    assert evaluated.manifest.metrics["retrieval_recall@5"] == 1.0


def test_each_cell_reports_one_line(evaluated, lines):
    starts = sorted(line.partition(":")[0] for line in lines if "tokens/s" in line)
    assert starts == sorted(CELLS.values())
    assert any(line.startswith("retrieval: 3 questions, 1 declined") for line in lines)
    assert EVALUATE.headline(evaluated).startswith("F1 ")


def test_the_report_names_the_artifacts_that_it_is_about(evaluated):
    page, text = (evaluated.file(f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    for name in ("prepare", "index", "calibrate", "train", "merge", "engine"):
        digest = evaluated.manifest.inputs[name].digest[:16]
        assert digest in page
        assert digest in text
    for chart in ("answers", "declines", "retrieval"):
        assert evaluated.file(f"charts/{chart}.svg").stat().st_size > 1000


def test_a_second_run_elsewhere_gives_the_same_bytes(evaluated, base_model, tmp_path):
    again = bring_up_to_date(config_below(tmp_path / "two"), chain(base_model))["evaluate"].artifact
    differing = {
        name
        for name, entry in evaluated.manifest.files.items()
        if again.manifest.files[name]["sha256"] != entry["sha256"]
    }
    assert differing <= {"timings.json"}
    assert again.digest == evaluated.digest


def test_fewer_questions_are_chosen_by_digest(evaluated, base_model, tmp_path):
    config = config_below(tmp_path / "two", max_questions=2)
    fewer = bring_up_to_date(config, chain(base_model))["evaluate"].artifact
    table = pq.read_table(fewer.file("predictions.parquet"))
    assert len(set(table["query_id"].to_pylist())) == 2


def test_without_unanswerable_questions_their_figure_is_null(ray_local, base_model, tmp_path):
    artifact = bring_up_to_date(config_below(tmp_path), chain(base_model, QUESTIONS[:1]))["evaluate"].artifact
    assert artifact.manifest.metrics["declined_unanswerable"] is None
    assert not math.isnan(artifact.manifest.metrics["f1"])


def test_no_questions_at_all_is_the_users_error(ray_local, base_model, tmp_path):
    with pytest.raises(DataError, match="no held-out questions") as caught:
        bring_up_to_date(config_below(tmp_path), chain(base_model, []))
    assert "evaluate.questions" in caught.value.fix


def test_an_error_in_a_task_comes_back_as_it_was_raised(ray_local, base_model, tmp_path):
    stages = chain(base_model)
    broken = stage("merge", (), lambda job: None)
    engine = stage("engine", (), lambda job: None)
    with pytest.raises(EngineError) as caught:
        bring_up_to_date(config_below(tmp_path), [*stages[:4], broken, engine, EVALUATE])
    assert caught.value.fix
    assert "ray::" not in str(caught.value)


def test_a_worker_that_is_lost_for_good_is_named(ray_local):
    import ray

    lost = ray.remote(num_cpus=1, max_retries=0)(lambda: os._exit(1)).remote()
    with pytest.raises(WorkError, match="tuned_retrieval: its worker was lost") as caught:
        collect({lost: "tuned_retrieval"}, 1, print)
    assert caught.value.fix

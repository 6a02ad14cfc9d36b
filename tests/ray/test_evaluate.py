"""Stage evaluate on a small corpus and a random model: whole, deterministic, and clear when it cannot work."""

import importlib.util
import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from writing_server import Server, chat

import ragray
from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.config_loading import validate_config
from ragray.distributed.build_engine import STAGE as ENGINE
from ragray.distributed.cells import Answered, CellAnswers
from ragray.distributed.evaluate import STAGE as EVALUATE
from ragray.distributed.evaluated import cell_line
from ragray.distributed.index import STAGE as INDEX
from ragray.distributed.stage import Job, Stage, bring_up_to_date
from ragray.errors import DataError, EngineError
from ragray.evaluation.against import compare_runs, read_figures
from ragray.evaluation.answers import Given
from ragray.evaluation.judge import PROMPT_DIGEST
from ragray.evaluation.predictions import PREDICTIONS
from ragray.evaluation.report import Answerer
from ragray.evaluation.results import QUERIES
from ragray.evaluation.robustness import KIND_NAMES, KINDS, ROBUSTNESS
from ragray.evaluation.summary import CELLS, SERVED_CELL
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
    assert evaluated.manifest.counts == {"questions": 3, "unanswerable": 1, "predictions": 15, "reworded": 9}


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
    reworded = [f"{CELLS[SERVED_CELL]}, {name}" for name in KIND_NAMES.values()]
    assert starts == sorted([*CELLS.values(), *reworded])
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


def test_the_engine_is_asked_reworded_questions_too(evaluated):
    table = pq.read_table(evaluated.file("robustness.parquet"))
    assert table.schema == ROBUSTNESS
    rows = table.to_pylist()
    assert {row["cell"] for row in rows} == set(KINDS)
    written = {q.query_id: q for q in QUESTIONS}
    for row in rows:
        question = written[row["query_id"]]
        assert row["question"] != question.question
        assert (tuple(row["references"]), row["lang"]) == (question.answers, question.lang)
        assert row["method"] in KINDS[row["cell"]]
    metrics = json.loads(evaluated.file("metrics.json").read_text(encoding="utf-8"))
    found = {one["kind"]: one for one in metrics["robustness"]}
    assert set(found) == set(KINDS)
    for kind, one in found.items():
        assert one["changed"] == sum(row["cell"] == kind for row in rows)
        assert one["changed"] + one["unchanged"] == 3
        assert one["shared"]  # augment.methods holds every rule by default
    report = evaluated.file("report.md").read_text(encoding="utf-8")
    assert "## Robustness" in report and "training made its variants by the same rules" in report


def test_without_kinds_nothing_is_reworded(ray_local, base_model, tmp_path):
    artifact = bring_up_to_date(config_below(tmp_path, robustness=[]), chain(base_model, QUESTIONS[:1]))[
        "evaluate"
    ].artifact
    assert pq.read_table(artifact.file("robustness.parquet")).num_rows == 0
    assert "## Robustness" not in artifact.file("report.md").read_text(encoding="utf-8")


def test_every_retrieval_value_of_every_question_is_kept(evaluated):
    table = pq.read_table(evaluated.file("retrieval/queries.parquet"))
    assert table.schema == QUERIES
    rows = {(r["asked"], r["retriever"], r["metric"], r["query_id"]): r["value"] for r in table.to_pylist()}
    metrics = json.loads(evaluated.file("metrics.json").read_text(encoding="utf-8"))
    for retriever, by_metric in metrics["retrieval"].items():
        for metric, figure in by_metric.items():
            values = [rows["", retriever, metric, q] for q in ("q1", "q2")]
            assert sum(values) / 2 == pytest.approx(figure["mean"])
    assert {asked for asked, *_ in rows} == {"", *KINDS}


def test_single_lists_are_judged_beyond_the_depth_of_fusion(ray_local, base_model, tmp_path):
    """q1's two right passages stand in BM25's list, of which fusion sees the first alone."""
    config = config_below(tmp_path, robustness=[])
    shallow = config.retrieval.model_copy(update={"fusion_depth": 1})
    config = config.model_copy(update={"retrieval": shallow})
    artifact = bring_up_to_date(config, chain(base_model, QUESTIONS[:1]))["evaluate"].artifact
    metrics = json.loads(artifact.file("metrics.json").read_text(encoding="utf-8"))["retrieval"]
    assert metrics["bm25"]["recall@5"]["mean"] == metrics["tfidf"]["recall@5"]["mean"] == 1.0
    assert metrics["hybrid"]["recall@5"]["mean"] == 0.5


def test_the_report_says_what_was_evaluated(evaluated, base_model):
    page = evaluated.file("report.html").read_text(encoding="utf-8")
    for stage in ("prepare", "index", "train", "merge", "engine"):
        assert evaluated.manifest.inputs[stage].digest in page  # whole, not its first digits
    for text in (base_model.name, "0" * 64, evaluated.manifest.code, f"ragray {ragray.__version__}"):
        assert text in page
    assert str(base_model) not in page


def test_two_evaluations_of_one_chain_are_compared(evaluated, base_model, tmp_path):
    """One more generated token for each answer changes the answers, and nothing of retrieval."""
    config = config_below(tmp_path / "two", max_new_tokens=7)
    other = bring_up_to_date(config, chain(base_model))["evaluate"].artifact
    limits = {"retrieval.ndcg@10": 0.0, "robustness.typos.f1": 1.0, "answers.engine_retrieval.f1": 1.0}
    found = compare_runs(read_figures(evaluated), read_figures(other), limits, 17)
    rows = {change.name: change for change in found.changes}
    assert set(limits) <= set(rows) and not found.failed
    assert rows["retrieval.ndcg@10"].difference.mean == 0.0
    assert rows["answers.f1"].first == pytest.approx(evaluated.manifest.metrics["f1"])
    assert rows["answers.f1"].second == pytest.approx(other.manifest.metrics["f1"])


def test_a_line_names_the_cell_and_its_speed():
    answerer = Answerer("transformers", "cpu", "fp32", "tiny", "0" * 64)
    answers = CellAnswers((Answered(Given("x", False), "", 5, 30, "stop"),), answerer, 1.0, 2.0)
    assert cell_line("base_retrieval", answers) == "Base model, with retrieval: 30 tokens, 2.0 s, 15 tokens/s"
    assert cell_line("typos", answers).startswith("Built engine, with retrieval, Typos: ")


def test_a_judge_is_part_of_the_artifact_when_it_is_set(ray_local, base_model, tmp_path):
    server = Server()
    reply = json.dumps({"grade": 1, "reason": "half"})
    server.behave = lambda material, times: (200, chat(reply), {})
    try:
        judge = {"endpoint": {"url": server.url, "model": "judge-1"}, "criteria": ["correct"]}
        config = config_below(tmp_path, robustness=[], judge=judge)
        artifact = bring_up_to_date(config, chain(base_model))["evaluate"].artifact
    finally:
        server.close()
    answered = [
        row["query_id"]
        for row in pq.read_table(artifact.file("predictions.parquet")).to_pylist()
        if row["cell"] == "tuned_retrieval" and row["right"] and not row["declined_by"]
    ]
    rows = pq.read_table(artifact.file("judgements.parquet")).to_pylist()
    assert [(row["query_id"], row["grade"]) for row in rows] == [(query_id, 0.5) for query_id in answered]
    assert rows
    report = artifact.file("report.md").read_text(encoding="utf-8")
    assert "## Judge" in report and "judge-1" in report and PROMPT_DIGEST[:16] in report
    assert server.url not in artifact.manifest.to_json()
    assert "judge.correct" in read_figures(artifact).values

"""Stage quantize on a local Ray: the bundled model is quantized, measured and judged; a damaged one is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_service import save  # type: ignore[import-not-found]
from typer.testing import CliRunner

from ragray import cli
from ragray.artifact import Artifact, Store
from ragray.config import RetrievalConfig, RunConfig
from ragray.config_loading import validate_config
from ragray.distributed import quantize as stage
from ragray.distributed.build_engine import _augmented, _reference_here
from ragray.distributed.examples import EXAMPLES
from ragray.distributed.quantize_material import calibration_examples
from ragray.distributed.stage import Job
from ragray.engine.quantize_methods import METHODS, EnvironmentMethod
from ragray.engine.tokens import load_tokenizer
from ragray.errors import EXIT_DONE, EXIT_WORK, DataError, EngineError
from ragray.evaluation.predictions import PREDICTIONS
from ragray.retrieval.confidence import FEATURES, Confidence
from ragray.retrieval.writing import build_index
from ragray.schema import EvalQuestion, Passage, table_of

pytestmark = pytest.mark.usefixtures("ray_local")

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "data" / "models" / "ragray-tiny"
FACTS = [
    ("f-1", "en", "How long may goods be returned?", "Goods may be returned within thirty days of delivery."),
    ("f-2", "en", "When is the office open?", "The office is open from nine to five on working days."),
    ("f-3", "zh", "怎样修改密码？", "在设置页面点击修改密码，然后输入新密码。"),
    ("f-4", "zh", "发票什么时候寄出？", "发票在付款后三天内寄出。"),
    ("f-5", "en", "Which card is accepted?", "All common credit cards are accepted at the counter."),
]
PASSAGES = [Passage(doc_id, question, answer, lang, "f.csv", "faq") for doc_id, lang, question, answer in FACTS]
QUESTIONS = [EvalQuestion(f"q{n}", q, lang, (i,), (a,)) for n, (i, lang, q, a) in enumerate(FACTS)]
NOTHING = EvalQuestion("q9", "xyzzy plugh", "en")  # no term of it is in the index
DAMAGING = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from dataclasses import replace
from safetensors.torch import load_file, save_file
from ragray.engine.quantize_process import run_step
from ragray.engine.quantize_protocol import Request, Result
asked = replace(Request.read(Path(sys.argv[1])), method="int8_weight_only")
facts = None
if asked.step == "quantize":
    facts = run_step(asked).facts
    file = Path(asked.out) / "int8.safetensors"
    tensors = load_file(file)
    layers = [name for name in tensors if name.endswith("q_proj.weight")]
    save_file(tensors | {{name: tensors[name].roll(1, -1) for name in layers}}, file)
    Result(facts).write(Path(sys.argv[2]))
else:
    run_step(asked).write(Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    store = Store(str(tmp_path_factory.mktemp("inputs")))
    confidence = Confidence(5.0, (0.0,) * len(FEATURES), 0.5, 0.05, {}, {}, ())  # sure whenever anything is found
    shown = [{"doc_id": p.doc_id, "title": p.title, "text": p.text} for p in PASSAGES[:2]]
    example = {
        "example_id": "e1", "split": "train", "question": FACTS[0][2], "lang": "en", "closed_book": False,
        "passages": shown, "number": 1, "answer": FACTS[0][3], "negative": None, "negative_number": 0,
    }  # fmt: skip
    questions = table_of(EvalQuestion, [*QUESTIONS, NOTHING])
    examples = pa.Table.from_pylist([example], schema=EXAMPLES)
    return {
        "prepare": save(store, "prepare", lambda d: pq.write_table(questions, d.folder / "questions.parquet")),
        "index": save(store, "index", lambda d: build_index(PASSAGES, RetrievalConfig(), d.folder)),
        "calibrate": save(store, "calibrate", lambda d: confidence.write(d.folder)),
        "augment": save(store, "augment", lambda d: pq.write_table(examples, d.folder / "examples.parquet")),
        "merge": save(store, "merge", lambda d: copy_in_float32(d.folder / "model")),
    }


def copy_in_float32(folder: Path) -> None:
    """The bundled model as the merge stage would write it."""
    from ragray.engine.transformers_runtime import load_model

    shutil.copytree(MODEL, folder)
    load_model(MODEL).save_pretrained(folder)


def config_below(folder: Path, methods: tuple[str, ...], **gate: float | str) -> RunConfig:
    tree = {
        "name": "small",
        "output": str(folder),
        "data": {"faq": [{"path": "none.jsonl"}]},
        "train": {"base_model": "none"},
        "evaluate": {"max_new_tokens": 24, "bootstrap_samples": 100},
        "quantize": {"environments": {"modelopt": sys.executable}, "gate": gate},
    }
    config = validate_config(tree, "test")
    return config.model_copy(update={"quantize": config.quantize.model_copy(update={"methods": methods})})


def run(config: RunConfig, inputs: dict[str, Artifact], warned: list[str] | None = None) -> Artifact:
    store = Store(config.output)
    with store.draft("quantize", "1" * 64, format_version=2, inputs={}, config={}, code="") as draft:
        lines = warned if warned is not None else []
        stage.STAGE.build(Job(config, inputs, draft, Path(config.output), warn=lines.append))
    assert draft.result is not None
    return draft.result


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method that quantizes well and then mixes up the columns of some layers."""
    script = tmp_path / "damaging.py"
    script.write_text(DAMAGING.format(path=[str(ROOT), *(p for p in sys.path if p)]))
    method = EnvironmentMethod("damaged", 8, "nothing", "modelopt", script, "nothing", memory_factor=3.0)
    monkeypatch.setattr(stage, "METHODS", {**METHODS, "damaged": method})
    return "damaged"


@pytest.mark.slow
def test_the_gate_passes_a_good_model_and_refuses_a_damaged_one_by_its_answers(
    inputs: dict[str, Artifact], damaged: str, tmp_path: Path
) -> None:
    names = ("bitsandbytes_int8", damaged)
    artifact = run(config_below(tmp_path / "runs", names, max_kl_nats=1e9), inputs)  # the answers alone decide
    gate = json.loads(artifact.file("gate.json").read_text())
    assert gate["chosen"] == "bitsandbytes_int8" == artifact.manifest.metrics["chosen"]
    good, bad = gate["verdicts"]
    assert good["passed"] and good["difference"]["mean"] >= -0.02
    assert not bad["passed"] and bad["difference"]["mean"] < -0.1
    quality = json.loads(artifact.file("quantize.json").read_text())
    assert quality["full"]["kl_nats"] == 0.0 and quality["full"]["answers"]["f1"]["mean"] > 0.5
    assert quality["full"]["answers"]["f1"]["n"] == len(QUESTIONS)
    assert 0 < quality["bitsandbytes_int8"]["kl_nats"] < 0.1 < quality[damaged]["kl_nats"]
    assert quality["bitsandbytes_int8"]["bytes"] < quality["full"]["bytes"]
    table = pq.read_table(artifact.file("answers.parquet"))
    assert table.schema == PREDICTIONS and table.num_rows == 3 * (len(QUESTIONS) + 1)
    assert set(table.filter(pa.compute.field("query_id") == "q9")["declined_by"].to_pylist()) == {"retrieval"}
    assert (
        artifact.file("bitsandbytes_int8/tokenizer.json").exists()
        and not (artifact.folder / "full/config.json").exists()
    )
    times = json.loads(artifact.file("timings.json").read_text())
    assert all(times[name]["tokens_per_second"] > 0 for name in ("full", *names))
    volatile = {name for name, entry in artifact.manifest.files.items() if entry["volatile"]}
    assert {"timings.json", "report.html", "bitsandbytes_int8/quantize.log"} <= volatile
    assert not volatile & {"quantize.json", "gate.json", "answers.parquet", "bitsandbytes_int8/model.safetensors"}
    assert "bitsandbytes_int8: " in stage.STAGE.headline(artifact)


@pytest.mark.slow
def test_where_none_passes_the_full_model_stays_and_the_command_says_so(
    inputs: dict[str, Artifact], damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    artifact = run(config_below(tmp_path / "runs", (damaged,)), inputs, warned)
    assert warned == ["quantize: none of 1 models passed: the full model stays"]
    assert artifact.manifest.metrics["chosen"] is None
    assert json.loads(artifact.file("gate.json").read_text())["verdicts"][0]["reason"].startswith("damaged: ")
    assert stage.STAGE.headline(artifact).startswith("full: ")
    with pytest.raises(EngineError, match=r"none of 1 models passed: the full model stays; see .*report\.html"):
        call_quantize(artifact, monkeypatch)


def call_quantize(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> int:
    """`ragray quantize` after the stage has run."""
    from ragray.distributed.stage import Outcome

    outcome = Outcome(stage.STAGE, artifact, True, 0.0)
    monkeypatch.setattr(cli, "_run", lambda config, targets, as_json: dict.fromkeys(targets, outcome))
    given = ["quantize", "--config", str(ROOT / "configs" / "demo.yaml")]
    return int(CliRunner().invoke(cli.app, given, catch_exceptions=False).exit_code)


def test_the_exit_code_is_that_of_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def artifact(chosen: str | None) -> Artifact:
        store = Store(str(tmp_path / str(chosen)))
        return save(store, "quantize", lambda draft: draft.metrics.update(chosen=chosen, reason="none passed"))

    assert call_quantize(artifact("openvino_int8"), monkeypatch) == EXIT_DONE
    with pytest.raises(EngineError) as caught:
        call_quantize(artifact(None), monkeypatch)
    assert caught.value.exit_code == EXIT_WORK and "quantize.gate.max_drop" in caught.value.fix


def test_a_method_that_cannot_work_is_refused_before_anything_starts(
    inputs: dict[str, Artifact], damaged: str, tmp_path: Path
) -> None:
    config = config_below(tmp_path / "runs", ("bitsandbytes_int8", damaged))
    without = config.quantize.model_copy(update={"environments": {}})
    with pytest.raises(EngineError, match="damaged runs in an environment of its own"):
        run(config.model_copy(update={"quantize": without}), inputs)


def test_without_questions_there_is_nothing_to_choose_by(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    store, empty = Store(str(tmp_path / "empty")), table_of(EvalQuestion, [])
    none = save(store, "prepare", lambda draft: pq.write_table(empty, draft.folder / "questions.parquet"))
    with pytest.raises(DataError, match="quantize: there are no held-out questions") as caught:
        run(config_below(tmp_path / "runs", ("bitsandbytes_int8",)), inputs | {"prepare": none})
    assert "evaluate.questions" in caught.value.fix


def test_each_method_asks_for_its_own_resources_and_a_lack_of_room_is_told(tmp_path: Path) -> None:
    settings = config_below(tmp_path, ("bitsandbytes_int8",)).quantize.model_copy(update={"cpus": 2})
    method = METHODS["bitsandbytes_int8"]
    plans = [method.plan(size, settings) for size in (10, 10**15)]
    assert stage.placement(plans[0], settings) == {"num_cpus": 2, "memory": plans[0].memory_bytes}
    (line,) = stage.without_room([method, method], plans, settings)
    assert "waits for a node with 2 CPUs and 2793968.7 GiB" in line


def derived(store: Store, kind: str, **sources: Artifact) -> Artifact:
    made_of = {name: artifact.source() for name, artifact in sources.items()}
    with store.draft(kind, "2" * 64, format_version=1, inputs=made_of, config={}, code="") as draft:
        if kind == "merge":
            shutil.copytree(MODEL, draft.folder / "model")
    assert draft.result is not None
    return draft.result


def test_engines_are_calibrated_on_the_training_examples_that_the_lineage_leads_to(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    store, told = Store(str(tmp_path)), list[str]()
    merged = derived(store, "merge", train=derived(store, "train", augment=inputs["augment"]))
    config = config_below(tmp_path, ())
    augmented = _augmented(merged, told.append)
    reference = _reference_here(merged, augmented, config, tmp_path)
    wanted = calibration_examples(
        inputs["augment"].folder / "examples.parquet", load_tokenizer(merged.folder / "model"), config
    )
    assert reference.calibration == wanted and len(wanted) == 1 and not told
    shutil.rmtree(store.open(merged.manifest.inputs["train"].uri).folder)
    assert _augmented(merged, told.append) is None and "fixed prompts" in told[0]
    assert not _reference_here(merged, None, config, tmp_path).calibration

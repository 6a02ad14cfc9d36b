"""The validation of checkpoints beside training: equal to the loop's own, stable, and never half there."""

import json
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from ragray import cli_inspect, prompt
from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig, TrainConfig, ValidationConfig
from ragray.distributed.train_validation import fits_beside
from ragray.engine import validation
from ragray.engine.validation import ValidationTask, sample_rows, validate
from ragray.errors import ConfigError, WorkError
from ragray.train.checkpoint import Checkpoints
from ragray.train.examples import ExampleRow, prompt_tokens
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.loop import TrainRun, train
from ragray.train.run_report import read_run
from ragray.train.validations import (
    BASE,
    SampleAnswer,
    Validation,
    Validations,
    load_validations,
    save_validations,
)

pytestmark = pytest.mark.usefixtures("process_group")

ASYNC = ValidationConfig(asynchronous=True)


@pytest.fixture
def task(tiny_model, examples_file):
    """A function that makes the task of validating an adapter."""

    def make(adapter, step=1, **changes):
        changed = {"precision": "fp32", "max_length": 512, "tokens_per_micro_batch": 512, **changes}
        settings = TrainConfig(base_model=str(tiny_model), **changed)
        folder = None if adapter is None else str(adapter)
        return ValidationTask(settings, 17, str(tiny_model), str(examples_file), folder, step, "d")

    return make


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": LoraConfig(method="dora", use_rslora=True, dropout=0.3, trainable_tokens=(7, 9))}, {"zero_stage": 3}],
    ids=["lora", "all-variants", "zero3"],
)
def test_a_checkpoint_has_the_loss_that_the_loop_found(run, task, changes):
    last = run(checkpoint_every_steps=1, **changes)
    history = last.history()
    found = {r.step: r.valid_loss for r in history.records if r.valid_loss is not None}
    assert sorted(found) == [0, 3, 6]
    again = {0: validate(task(None, **changes))[0].loss}
    for step in (3, 6):
        adapter = last.folder.parent / f"step-{step:08d}" / "adapter"
        again[step] = validate(task(adapter, step, **changes))[0].loss
    assert again == pytest.approx(found, abs=1e-6)
    assert found[6] < found[0] - 0.1


def test_a_validation_is_the_same_each_time(run, task):
    sampled = {"validation": ValidationConfig(asynchronous=True, generate=3, max_new_tokens=8)}
    adapter = run().folder / "adapter"
    (first, answers), (second, again) = (validate(task(adapter, 6, **sampled)) for _ in range(2))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    assert answers == again and len(answers) == first.questions == 3
    assert validate(task(adapter, 6))[0].loss == first.loss, "generating first changes nothing"


def test_the_sample_depends_on_seed_and_ids_alone(write_rows, examples_file, tmp_path):
    ids = [row.example_id for row in sample_rows(examples_file, 3, 17)]
    turned = write_rows(tmp_path / "turned.parquet", lambda row: row, 0)
    import pyarrow.parquet as pq

    table = pq.read_table(examples_file)
    pq.write_table(table.take(list(range(len(table)))[::-1]), turned)
    assert [row.example_id for row in sample_rows(turned, 3, 17)] == ids
    assert len({tuple(row.example_id for row in sample_rows(examples_file, 1, seed)) for seed in range(20)}) > 1
    every = sample_rows(examples_file, 99, 17)
    assert len(every) == 4 and not any(row.closed_book for row in every), "retrieval needs passages"
    assert set(ids) < {row.example_id for row in every}


def test_the_answers_are_those_of_plain_transformers_to_the_prompt_of_serving(run, task, tiny_model, examples_file):
    from peft import PeftModel

    adapter = run(epochs=30).folder / "adapter"
    settings = ValidationConfig(asynchronous=True, generate=4, max_new_tokens=24, batch_size=2)
    answers = validate(task(adapter, validation=settings))[1]
    tokenizer = load_tokenizer(tiny_model)
    model = PeftModel.from_pretrained(load_model(tiny_model, torch.float32), str(adapter)).eval()
    for row, answer in zip(sample_rows(examples_file, 4, 17), answers, strict=True):
        ids = torch.tensor([prompt_tokens(tokenizer, prompt.messages(row.question, row.passages, row.lang))])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        parsed = prompt.parse_answer(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        assert (answer.text, answer.declined) == (parsed.text, parsed.declined)
        assert answer.cited == parsed.cited
    assert {answer.text for answer in answers} - {""}, "a trained model says something"


ROW = ExampleRow("e1", "Who?", "en", "Ann did it", 2, False, (("t", "a"), ("t", "b")))


@pytest.mark.parametrize(
    ("text", "number", "cited", "exact", "f1", "right", "declined"),
    [
        ("[2] Ann did it", 2, (2,), 1.0, 1.0, 1.0, False),
        ("[1] Ann did that", 2, (1,), 0.0, 2 / 3, 0.0, False),
        ("[9] Ann did it", 2, (), 1.0, 1.0, 0.0, False),
        (prompt.DECLINE["en"], 2, (), 0.0, 0.0, None, True),
        ("[1] Ann", 0, (1,), None, None, None, False),
    ],
)
def test_scores_by_hand(text, number, cited, exact, f1, right, declined):
    answer, scores = validation._scored(5, replace(ROW, number=number), text)
    assert (answer.cited, answer.declined, answer.right) == (cited, declined, number)
    assert (scores.exact_match, scores.citation_recall) == (exact, right)
    assert scores.f1 == (None if f1 is None else pytest.approx(f1))


def test_asynchronous_validation_changes_nothing_that_is_trained(run):
    own = run("own", checkpoint_every_steps=4, keep_checkpoints=1)
    beside = run("beside", checkpoint_every_steps=4, keep_checkpoints=1, validation=ASYNC)
    assert folder_digest(own.folder / "adapter") == folder_digest(beside.folder / "adapter")
    assert own.history().losses == beside.history().losses
    measured = [r.step for r in own.history().records if r.valid_loss is not None]
    aside = Validations(beside.folder.parents[1]).waiting()
    assert beside.history().valid_losses == []
    assert [candidate.step for candidate in aside] == measured == [0, 3, 6]
    assert aside[0].adapter is None
    assert folder_digest(aside[2].adapter) == folder_digest(beside.folder / "adapter")
    assert not list((beside.folder.parents[1] / "validation").glob(".*"))


def test_a_request_to_stop_is_heeded_at_the_next_step_and_after_a_kill(tiny_model, examples_file, tmp_path):
    settings = TrainConfig(
        base_model=str(tiny_model), epochs=20, global_batch_examples=4, max_length=512, validation=ASYNC,
        checkpoint_every_steps=2,
    )  # fmt: skip
    made = TrainRun(settings, 17, str(tiny_model), str(examples_file), str(tmp_path), "x")
    calls = []

    def ask_at_the_fifth():
        calls.append(1)
        if len(calls) == 5:
            Validations(tmp_path).request_stop(3)
        return False

    train(made, notice=ask_at_the_fifth)
    last = Checkpoints(tmp_path, 9).latest()
    assert last.state().finished and last.state().step == last.state().counts["steps"] == 6
    assert [candidate.step for candidate in Validations(tmp_path).waiting()] == [0, 3, 6]


def result(step, loss, digest="d"):
    return Validation(step, digest, loss, 1, 0.0, 0.5, 1.0, None, 0.0, 2.0)


def answer(step, text="Ann"):
    return SampleAnswer(step, "e1", "Who?", "en", "Ann did it", 2, text, (2,), False, 0.0, 0.5)


@pytest.fixture
def aside(tmp_path):
    """Validations with adapters of four steps and the base model."""
    kept = Validations(tmp_path)
    kept.set_aside(0, None)
    for step in range(1, 5):
        adapter = tmp_path / f"a{step}"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(bytes([step]))
        kept.set_aside(step, adapter)
    return kept


def test_the_best_adapters_stay_and_no_other(aside):
    for candidate, loss in zip(aside.all(), (0.1, 3.0, float("nan"), 2.0, 2.0), strict=True):
        aside.add(candidate, result(candidate.step, loss), [answer(candidate.step)], keep_best=1)
    assert [candidate.step for candidate in aside.ranked()] == [3, 4, 1, 2], "earliest of equals, no number last"
    assert [c.step for c in aside.all() if c.adapter and c.adapter.exists()] == [3]
    assert aside.waiting() == []
    assert [found.step for found in aside.answers()] == [0, 1, 2, 3, 4]


def test_what_waits_is_never_removed(aside):
    first, second, *waiting = aside.all()
    aside.add(first, result(0, 3.0, BASE), [], keep_best=0)
    aside.add(second, result(1, 2.0), [], keep_best=0)
    assert aside.waiting() == waiting
    assert all(candidate.adapter.exists() for candidate in waiting)
    assert not second.adapter.exists()


def test_an_adapter_is_set_aside_once_and_takes_the_place_of_a_dead_attempts(aside, tmp_path):
    before = aside.all()
    aside.add(before[3], result(3, 2.0), [], keep_best=0)
    aside.set_aside(3, tmp_path / "a3")
    assert aside.all() == before and aside.all()[3].validated, "not validated twice"
    (tmp_path / "a3" / "adapter_model.safetensors").write_bytes(b"another")
    aside.set_aside(3, tmp_path / "a3")
    assert [candidate.step for candidate in aside.all()] == [0, 1, 2, 3, 4]
    assert aside.all()[3].digest != before[3].digest and not aside.all()[3].validated


def test_what_a_dead_attempt_left_is_removed_and_never_read(aside, tmp_path):
    half = tmp_path / "validation" / ".step-00000009-abc.1"
    half.mkdir()
    left = aside.all()[1].folder / ".result.json.7"
    left.write_text("{")
    assert [candidate.step for candidate in aside.waiting()] == [0, 1, 2, 3, 4]
    aside.clear_dead()
    assert not half.exists() and not left.exists()
    assert [candidate.step for candidate in aside.waiting()] == [0, 1, 2, 3, 4]


def test_results_come_back_as_they_were(aside, tmp_path):
    for candidate in aside.all()[:2]:
        aside.add(candidate, result(candidate.step, 2.5), [answer(candidate.step, "<|x|> 好\n[2]")], keep_best=1)
    out = tmp_path / "out"
    out.mkdir()
    save_validations(aside, out)
    assert load_validations(out) == (aside.results(), aside.answers())
    assert [found.step for found in aside.results()] == [0, 1]
    assert load_validations(tmp_path) == ([], [])


def test_a_run_that_goes_on_shows_its_validations(run, tmp_path):
    checkpoint = run("shown", validation=ASYNC)
    work = checkpoint.folder.parents[1]
    kept = Validations(work)
    for candidate, loss in zip(kept.all()[:2], (3.0, 2.0), strict=True):
        kept.add(candidate, result(candidate.step, loss), [answer(candidate.step, "<b>Ann</b>")], keep_best=1)
    shown = read_run(work, "r")
    assert shown.curves["valid_loss"] == [(0, 3.0), (3, 2.0)]
    assert shown.curves["f1"] == [(0, 0.5), (3, 0.5)] and shown.summary["best_valid_loss"] == 2.0
    done = CliRunner().invoke(cli_inspect.app, ["run", str(work), "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page" / "run.html").read_text()
    assert "Validated checkpoints" in page and "&lt;b&gt;Ann&lt;/b&gt;" in page and "<b>Ann" not in page
    tree = json.loads((tmp_path / "page" / "run.json").read_text())
    assert tree["runs"][0]["curves"]["citation_recall"] == [[0, 1.0], [3, 1.0]]


def test_settings_that_would_be_ignored_are_refused(tiny_model):
    for changed in ({"generate": 3}, {"cpus": 2}, {"use_gpu": True}):
        with pytest.raises(ValidationError, match="is for asynchronous validation"):
            ValidationConfig(**changed)
    with pytest.raises(ValidationError, match="max_new_tokens is for generated answers"):
        ValidationConfig(asynchronous=True, max_new_tokens=9)


def test_without_validation_examples_it_is_refused(run, write_rows, tmp_path):
    rows = write_rows(tmp_path / "one.parquet", lambda row: row, 0, only=True)
    with pytest.raises(ConfigError, match=r"asynchronous: there is no validation example\n.*data\.split\.valid"):
        run("none", examples=rows, validation=ASYNC)


def test_a_missing_adapter_is_named(task, tmp_path):
    with pytest.raises(WorkError, match="nowhere: not found"):
        validate(task(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("nodes", "worker", "workers", "wanted", "fit"),
    [
        ([{"CPU": 2}], {"CPU": 1}, 1, {"CPU": 1}, True),
        ([{"CPU": 2}], {"CPU": 1}, 2, {"CPU": 1}, False),
        ([{"CPU": 2}, {"CPU": 2}], {"CPU": 2}, 1, {"CPU": 1}, True),
        ([{"CPU": 3}, {"CPU": 2}], {"CPU": 2}, 2, {"CPU": 1}, False),  # the task may come onto the second node
        ([{"CPU": 3}, {"CPU": 3}], {"CPU": 2}, 2, {"CPU": 1}, True),
        ([{"CPU": 8, "GPU": 1}], {"CPU": 1, "GPU": 1}, 1, {"CPU": 1, "GPU": 1}, False),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 1}], {"CPU": 1, "GPU": 1}, 1, {"CPU": 1}, True),
        ([{"CPU": 4}], {"CPU": 1}, 1, {"CPU": 1, "GPU": 1}, False),
    ],
)  # fmt: skip
def test_a_validation_never_takes_the_workers_room(nodes, worker, workers, wanted, fit):
    assert fits_beside(nodes, worker, workers, wanted) is fit


def test_an_adapter_that_cannot_be_set_aside_ends_the_run(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "validation").write_text("in the way")
    with pytest.raises(WorkError, match="validation: File exists"):
        run("run", validation=ASYNC)

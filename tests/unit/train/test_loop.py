"""Real runs of the loop on a tiny model: laws of training, resuming, and what settings do."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from ragray import prompt
from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig, LossConfig, ScheduleShape, TrainConfig
from ragray.errors import ConfigError, DataError, WorkError
from ragray.train.checkpoint import Checkpoints
from ragray.train.examples import prompt_tokens, read_examples
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.loop import check_settings
from ragray.train.lora import attach_lora, trainable
from ragray.train.packing import DataOrder
from ragray.train.schedule import learning_rate

pytestmark = pytest.mark.usefixtures("process_group")


def digest(checkpoint):
    return folder_digest(checkpoint.folder / "adapter")


def test_losses_fall_and_are_recorded(run):
    checkpoint = run(epochs=8)
    history, state = checkpoint.history(), checkpoint.state()
    assert [record.step for record in history.records] == list(range(25))
    assert history.losses[-1] < history.losses[0] - 1
    assert history.valid_losses[-1] < history.valid_losses[0] - 1
    assert len(history.valid_losses) == 1 + 8
    assert history.records[5].learning_rate == learning_rate(4, 24, peak=3e-3, schedule="cosine", warmup_share=0.05)
    assert state.finished
    assert state.counts["tokens"] == sum(record.tokens for record in history.records)


def test_the_first_loss_is_the_base_models_mean_over_answer_tokens(run, tiny_model, examples_file):
    checkpoint = run(global_batch_examples=12, epochs=1)
    model = load_model(tiny_model, torch.float32)
    examples = read_examples(examples_file, "train", load_tokenizer(tiny_model), 512).examples
    total = 0.0
    for example in examples:
        ids, labels = torch.tensor([example.token_ids]), torch.tensor([example.labels])
        total += model(input_ids=ids, labels=labels).loss.item() * example.answer_tokens
    expected = total / sum(example.answer_tokens for example in examples)
    assert checkpoint.history().losses[0] == pytest.approx(expected, rel=1e-5)


def test_the_loss_curve_is_that_of_plain_peft_one_example_at_a_time(run, tiny_model, examples_file):
    """No packing, no ZeRO, no shortcut: transformers, PEFT and AdamW, on the examples that each step takes."""
    found = run(epochs=3, schedule="linear", lora=LoraConfig(rank=4, alpha=8)).history()
    examples = read_examples(examples_file, "train", load_tokenizer(tiny_model), 512).examples
    order = DataOrder(tuple(example.example_id for example in examples), 17, 4, 3)
    model = attach_lora(load_model(tiny_model, torch.float32), LoraConfig(rank=4, alpha=8), 17).train()
    optimizer = torch.optim.AdamW(trainable(model).values(), weight_decay=0.0)
    losses = []
    for step in range(order.total_steps):
        batch = [examples[i] for i in order.step_examples(step)]
        total = torch.zeros(())
        for example in batch:
            ids, labels = torch.tensor([example.token_ids]), torch.tensor([example.labels])
            total = total + model(input_ids=ids, labels=labels).loss * example.answer_tokens
        loss = total / sum(example.answer_tokens for example in batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable(model).values(), 1.0)
        optimizer.param_groups[0]["lr"] = found.records[step + 1].learning_rate
        optimizer.step()
        losses.append(loss.item())
    assert len(losses) == 9
    assert losses[-1] < losses[0] - 0.5
    assert found.losses == pytest.approx(losses, abs=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_killed_and_resumed_equals_the_run_never_killed(run, tmp_path, stage):
    settings = {"zero_stage": stage, "weight_decay": 0.1, "lora": LoraConfig(dropout=0.1)}
    whole = run("whole", **settings)
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "step-00000002", tmp_path / "cut/checkpoints/step-00000002")
    resumed = run("cut", **settings)
    assert digest(resumed) == digest(whole)
    assert resumed.history().records == whole.history().records


def test_stages_agree_and_read_each_others_checkpoints(run, tmp_path):
    plain = run("plain", zero_stage=0)
    for stage in (1, 2, 3):
        sharded = run(f"z{stage}", zero_stage=stage)
        assert sharded.history().losses == pytest.approx(plain.history().losses, rel=1e-5)
        work = tmp_path / f"from0to{stage}"
        shutil.copytree(tmp_path / "plain/checkpoints/step-00000004", work / "checkpoints/step-00000004")
        assert run(work.name, zero_stage=stage).history().losses == pytest.approx(plain.history().losses, rel=1e-5)


@pytest.mark.parametrize("loss", [LossConfig(kind="dpo", dpo_nll_weight=0.5), LossConfig(kind="unlikelihood")])
def test_losses_on_pairs_agree_in_sharded_training(run, loss):
    plain, sharded = run("plain", zero_stage=0, loss=loss), run("sharded", zero_stage=3, loss=loss)
    assert sharded.history().losses == pytest.approx(plain.history().losses, rel=1e-5)
    rows = run("rows", zero_stage=2, loss=loss, tokens_per_micro_batch=2048)
    assert rows.history().losses == pytest.approx(plain.history().losses, rel=1e-5)


def test_preferences_start_at_log_two_and_count_what_is_left_out(run):
    checkpoint = run(loss=LossConfig(kind="dpo"), epochs=6)
    losses = checkpoint.history().losses
    assert losses[0] == pytest.approx(math.log(2)), "before the first step the model is its own reference"
    assert losses[-1] < losses[0] / 2
    counts = checkpoint.state().counts
    assert (counts["examples"], counts["without_wrong"]) == (10, 2)


def test_examples_without_any_wrong_answer_cannot_train_preferences(run, tmp_path, write_rows):
    rows = write_rows(tmp_path / "one.parquet", lambda row: {**row, "negative": None}, at=3, only=True)
    with pytest.raises(DataError, match=r"negatives_per_question"):
        run(examples=rows, loss=LossConfig(kind="dpo"))


def test_micro_batches_do_not_change_the_result(run):
    wide = run("wide", tokens_per_micro_batch=8192)
    narrow = run("narrow", tokens_per_micro_batch=512, gradient_checkpointing=True)
    assert narrow.history().losses == pytest.approx(wide.history().losses, rel=1e-5)


def test_two_runs_give_the_same_bytes(run):
    assert digest(run("a")) == digest(run("b"))


CHANGES = {
    "seed": {"seed": 18},
    "label_smoothing": {"loss": LossConfig(label_smoothing=0.2)},
    "z_weight": {"loss": LossConfig(z_weight=0.1)},
    "focal": {"loss": LossConfig(kind="focal")},
    "unlikelihood": {"loss": LossConfig(kind="unlikelihood")},
    "dpo": {"loss": LossConfig(kind="dpo")},
    "schedule_shape": {"schedule_shape": ScheduleShape(floor_share=0.5)},
    "gradient_clip": {"gradient_clip": 0.01},
    "weight_decay": {"weight_decay": 1.0},
    "schedule": {"schedule": "linear"},
    "warmup_share": {"warmup_share": 0.5},
    "max_length": {"max_length": 120},
    "rank": {"lora": LoraConfig(rank=2)},
    "alpha": {"lora": LoraConfig(alpha=3)},
    "dropout": {"lora": LoraConfig(dropout=0.3)},
    "target_modules": {"lora": LoraConfig(target_modules=("q_proj",))},
    "precision": {"precision": "bf16"},
    "max_steps": {"max_steps": 5},
}


@pytest.fixture(scope="module")
def unchanged() -> dict[str, str]:
    return {}


@pytest.mark.parametrize("name", CHANGES)
def test_no_setting_is_ignored(run, unchanged, name):
    if not unchanged:
        unchanged["digest"] = digest(run("unchanged"))
    assert digest(run("changed", **CHANGES[name])) != unchanged["digest"]


def test_checkpoints_are_pruned_to_the_last(run, tmp_path):
    run("kept", keep_checkpoints=2, keep_best=0)
    names = sorted(path.name for path in (tmp_path / "kept" / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000006"]


def test_the_best_stays_beside_the_last(run, tmp_path):
    last = run("kept", checkpoint_every_steps=99, keep_checkpoints=1, learning_rate=0.03, schedule="constant", epochs=3)
    validated = [record for record in last.history().records if record.valid_loss is not None and record.step > 0]
    best = min(validated, key=lambda record: record.valid_loss)
    assert best.step < 9, "the run must get worse for this test"
    checkpoints = Checkpoints(tmp_path / "kept", 1)
    assert [checkpoints.best(), checkpoints.latest()] == [checkpoints.at(best.step), checkpoints.at(9)]
    assert len(list((tmp_path / "kept" / "checkpoints").iterdir())) == 2


def test_a_validation_loss_that_is_no_number_is_never_the_best(run, tmp_path):
    run("odd", keep_best=0)
    checkpoints = Checkpoints(tmp_path / "odd", 9)
    for step, loss in ((2, 2.0), (4, math.nan), (6, 1.0)):
        file = checkpoints.at(step).folder / "state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"valid_loss": loss}))
    assert checkpoints.best() == checkpoints.at(6)


def test_a_finished_run_does_nothing_more(run, tmp_path):
    first = run()
    before = first.folder.stat().st_mtime_ns
    assert run().folder.stat().st_mtime_ns == before


def test_the_model_learns_to_answer_and_to_stop(run, tiny_model, tmp_path, write_rows):
    """Overfitted on one example, greedy decoding gives its answer and the end token, then nothing."""
    from peft import PeftModel

    rows = write_rows(
        tmp_path / "one.parquet", lambda row: {**row, "answer": "Open the page."}, at=3, only=True
    )  # e003 is closed book
    checkpoint = run(
        examples=rows, max_steps=40, epochs=100, learning_rate=1e-2, checkpoint_every_steps=99, lora=LoraConfig(rank=16)
    )
    model = PeftModel.from_pretrained(load_model(tiny_model, torch.float32), str(checkpoint.folder / "adapter"))
    tokenizer = load_tokenizer(tiny_model)
    ids = torch.tensor([prompt_tokens(tokenizer, prompt.messages("How do I change my shipping?", None, "en"))])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]) == "Open the page.<|end|>"


def test_a_loss_that_is_not_a_number_names_the_row_of_examples(run, tmp_path, make_model, write_rows):
    model = make_model(tmp_path / "untied", tied=False)
    tokenizer = load_tokenizer(model)
    poison = tokenizer("☃", add_special_tokens=False)["input_ids"][0]
    poisoned = load_model(model, torch.float32)
    with torch.no_grad():
        poisoned.get_input_embeddings().weight[poison] = float("nan")
    poisoned.save_pretrained(model)
    rows = write_rows(tmp_path / "poisoned.parquet", lambda row: {**row, "question": "☃?"}, at=5)
    with pytest.raises(WorkError, match=r"step 1: the loss is not a finite number; examples: .*e005") as caught:
        run(model=model, examples=rows, tokens_per_micro_batch=512, max_length=512, global_batch_examples=12)
    assert caught.value.message.count("e0") <= 4, "only the packed row with the bad example is named"


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"write \[least, most\]"):
        check_settings(TrainConfig(base_model="x", num_workers=(2, 1)))
    with pytest.raises(ConfigError, match=r"set train\.keep_best to 1"):
        check_settings(TrainConfig(base_model="x", result="best", keep_best=0))


def test_damaged_checkpoints_are_explained(run, tmp_path):
    from ragray.errors import ArtifactError

    checkpoint = run(max_steps=2)
    next(Path(checkpoint.folder).glob("moments-*")).unlink()
    with pytest.raises(ArtifactError, match="are missing"):
        checkpoint.moments()
    assert dataclasses.asdict(checkpoint.state())["step"] == 2

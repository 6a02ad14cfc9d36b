"""Bad steps: what counts as one, and that a run which leaves it out equals the run without its batch."""

import math
import shutil
import statistics

import pytest
import torch
from pydantic import ValidationError

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig, TrainConfig, ValidationConfig
from ragray.errors import WorkError
from ragray.train.examples import read_examples
from ragray.train.guard import BadStep, judge, why_bad
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.lora import attach_lora
from ragray.train.losses import AnswerLoss
from ragray.train.packing import pack, register_packed_attention
from ragray.train.zero import ZeroEngine

pytestmark = pytest.mark.usefixtures("process_group")

ONE_PASS = {  # six steps
    "epochs": 1,
    "global_batch_examples": 2,
    "tokens_per_micro_batch": 8192,
    "schedule": "constant",
    "warmup_share": 0.0,
}


def of(**changes):
    return TrainConfig(base_model="x", **changes)


def test_a_spike_is_a_multiple_of_the_running_median():
    settings = of(spike_factor=3.0, spike_after_steps=3)
    assert why_bad(settings, 6.1, [1.0, 2.0, 100.0]) == "the loss 6.1 is more than 3 times the running median 2"
    assert why_bad(settings, 6.0, [1.0, 2.0, 100.0]) is None
    assert why_bad(settings, 99.0, [1.0, 2.0]) is None, "too few losses to judge by"
    assert why_bad(settings, 9.0, [9.0] * 50 + [1.0] * 50) is not None, "the median is over the last 50"
    assert why_bad(of(), 1e9, [1.0] * 99) is None, "no spikes without train.spike_factor"
    for loss in (math.nan, math.inf):
        assert why_bad(of(), loss, []) == "the loss is not a finite number"


def test_a_limit_that_would_be_ignored_is_refused():
    with pytest.raises(ValidationError, match="spike_factor, which is not set"):
        of(spike_after_steps=3)
    with pytest.raises(ValidationError, match="the first bad step stops this run"):
        of(max_bad_steps=3)
    with pytest.raises(ValidationError, match="patience, which is not set"):
        ValidationConfig(min_improvement=0.1)


def test_too_many_bad_steps_end_the_run():
    bad = BadStep(3, "r", "skip", 3, ("a",))
    settings = of(on_bad_step="skip", max_bad_steps=2)
    assert judge(settings, 4, "r", [], [bad]).policy == "skip"
    with pytest.raises(WorkError, match=r"bad step 3 of this run, train.max_bad_steps allows 2"):
        judge(settings, 5, "r", [], [bad, bad])
    assert BadStep(4, "too high", "roll_back", 3, ("a", "b")).line() == (
        "steps 3-4 left out: too high; examples of step 4: a, b"
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("policy", "left_out"), [("skip", (3,)), ("roll_back", (2, 3))])
def test_the_run_equals_the_one_without_the_batch(run, poisoned, tmp_path, policy, left_out, stage):
    model, write, ids = poisoned
    settings = {"model": model, "zero_stage": stage, "weight_decay": 0.1, "keep_best": 0, **ONE_PASS}
    found = run(policy, examples=write("all"), on_bad_step=policy, **settings)
    state, history = found.state(), found.history()
    assert [(bad.step, bad.left_out_from, set(bad.examples)) for bad in state.bad_steps] == [
        (4, left_out[0] + 1, set(ids[3]))
    ]
    assert state.updates == 6 - len(left_out)
    assert [record.step for record in history.records if record.loss is None] == [0, *(step + 1 for step in left_out)]
    clean = run("clean", examples=write("clean", {i for step in left_out for i in ids[step]}), **settings)
    assert history.losses == clean.history().losses
    assert folder_digest(found.folder / "adapter") == folder_digest(clean.folder / "adapter")
    if policy == "skip":
        shutil.copytree(tmp_path / "skip/checkpoints/step-00000004", tmp_path / "cut/checkpoints/step-00000004")
        cut = run("cut", examples=write("all"), on_bad_step=policy, **settings)
        assert folder_digest(cut.folder / "adapter") == folder_digest(clean.folder / "adapter")
        assert cut.state() == found.state()


def test_a_spike_in_a_run_is_left_out(run):
    settings = {"learning_rate": 1e-6, "on_bad_step": "skip", **ONE_PASS}
    losses = run("calm", **settings).history().losses
    ratios = {step: losses[step] / statistics.median(losses[:step]) for step in (3, 4, 5)}
    worst = max(ratios, key=ratios.__getitem__)
    assert ratios[worst] > 1.01
    bad = run("spike", spike_factor=ratios[worst] - 1e-4, spike_after_steps=3, **settings).state().bad_steps
    assert bad[0].step == worst + 1
    assert "times the running median" in bad[0].reason


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("how", ["discard", "gradient"])
def test_a_step_without_update_leaves_no_trace(tiny_model, examples_file, stage, how):
    """Cleared gradients, and those that are no number, change neither weights nor moments nor the next step."""

    def engine():
        settings = of(zero_stage=stage, learning_rate=1e-2)
        model = attach_lora(load_model(tiny_model, torch.float32, register_packed_attention()), LoraConfig(), 1)
        return ZeroEngine(AnswerLoss(model.train()), settings)

    rows = [pack([e]) for e in read_examples(examples_file, "train", load_tokenizer(tiny_model), 512).examples]

    def step(engine, row, factor=1.0):
        engine.backward(engine.forward(row) * factor)

    plain, other = engine(), engine()
    for trained in (plain, other):
        step(trained, rows[0])
        trained.step(1e-2)
    step(other, rows[1], math.nan if how == "gradient" else 1e6)
    if how == "gradient":
        assert not math.isfinite(other.step(1e-2))
    else:
        other.discard()
    for trained in (plain, other):
        step(trained, rows[2])
        assert math.isfinite(trained.step(1e-2))
    assert plain.updates == other.updates == 2
    for part, flats in plain.shard().flats.items():
        assert all(torch.equal(a, b) for a, b in zip(flats, other.shard().flats[part], strict=True)), part

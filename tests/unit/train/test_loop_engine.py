"""What the engine does with offload, 16 bits without ZeRO, and fp16's loss scale: the same run, killed or not."""

import math
import shutil

import pytest
import torch

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig, TrainConfig
from ragray.errors import ConfigError
from ragray.train.checkpoint import Checkpoints
from ragray.train.examples import read_examples
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.lora import attach_lora
from ragray.train.loss_scale import LossScale
from ragray.train.losses import AnswerLoss
from ragray.train.packing import pack, register_packed_attention
from ragray.train.zero import ZeroEngine
from ragray.train.zero_config import ZERO_BUCKET, check_zero, deepspeed_config

pytestmark = pytest.mark.usefixtures("process_group")

OFFLOADED = [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "optimizer_and_parameters")]


def computes_fp16():
    from deepspeed.accelerator import get_accelerator

    return get_accelerator().is_fp16_supported()


@pytest.fixture
def fp16():
    if not computes_fp16():
        pytest.skip("DeepSpeed does not take fp16 on this processor")


def cut_after(tmp_path, step, whole="whole", cut="cut"):
    folder = f"checkpoints/step-{step:08d}"
    shutil.copytree(tmp_path / whole / folder, tmp_path / cut / folder)


def same(one, other):
    assert one.history().records == other.history().records
    assert folder_digest(one.folder / "adapter") == folder_digest(other.folder / "adapter")
    assert one.state() == other.state()


@pytest.mark.parametrize(("stage", "offload"), OFFLOADED)
def test_offload_changes_no_loss_and_resumes(run, tmp_path, stage, offload):
    settings = {"zero_stage": stage, "weight_decay": 0.1}
    there = run("whole", offload=offload, **settings)
    assert there.history().losses == pytest.approx(run("here", **settings).history().losses, abs=1e-6)
    cut_after(tmp_path, 2)
    same(run("cut", offload=offload, **settings), there)
    cut_after(tmp_path, 2, cut="without")
    assert run("without", **settings).history().losses == pytest.approx(there.history().losses, abs=1e-6)


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
@pytest.mark.parametrize(("stage", "offload"), OFFLOADED[1:])
def test_what_is_offloaded_keeps_no_trace_of_a_step_left_out(tiny_model, examples_file, stage, offload, policy):
    """Both ways to leave a step out: its gradient is cleared before the update, or is no number."""
    rows = [pack([e]) for e in read_examples(examples_file, "train", load_tokenizer(tiny_model), 512).examples[:3]]
    settings = TrainConfig(base_model="x", zero_stage=stage, offload=offload, learning_rate=1e-2, precision="fp32")
    shards = []
    for disturbed in (False, True):
        model = attach_lora(load_model(tiny_model, torch.float32, register_packed_attention()), LoraConfig(), 1)
        engine = ZeroEngine(AnswerLoss(model.train(), whole_weights=stage < 3), settings)
        for number, row in enumerate(rows):
            if number == 1:
                if not disturbed:
                    continue
                engine.backward(engine.forward(row) * (1e6 if policy == "skip" else math.nan))
                if policy == "skip":
                    engine.discard()
                else:
                    assert not math.isfinite(engine.step(1e-2))
                continue
            engine.backward(engine.forward(row))
            assert math.isfinite(engine.step(1e-2))
        shards.append(engine.shard())
    for part, flats in shards[0].flats.items():
        assert all(torch.equal(a, b) for a, b in zip(flats, shards[1].flats[part], strict=True)), part


def test_what_is_offloaded_is_what_the_stage_shards():
    def of(**changes):
        return TrainConfig(base_model="x", **changes)

    for stage, offload in OFFLOADED:
        check_zero(of(zero_stage=stage, offload=offload))
    for stage, offload in [(0, "optimizer"), (2, "optimizer_and_parameters")]:
        with pytest.raises(ConfigError, match=r"needs ZeRO-[13]"):
            check_zero(of(zero_stage=stage, offload=offload))
    told = deepspeed_config(of(zero_stage=3, offload="optimizer_and_parameters", use_gpu=True))
    zero = told["zero_optimization"]
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == ZERO_BUCKET
    assert "offload_param" not in deepspeed_config(of(offload="optimizer"))["zero_optimization"]
    assert "offload_optimizer" not in deepspeed_config(of())["zero_optimization"]


def test_bf16_without_zero_is_that_of_zero_and_goes_on_under_it(run, tmp_path):
    settings = {"precision": "bf16", "weight_decay": 10.0}  # a decay that a step made too many would show
    plain = run("whole", zero_stage=0, **settings)
    sharded = run("sharded", zero_stage=2, **settings)
    assert plain.history().losses == pytest.approx(sharded.history().losses, rel=2e-3)
    cut_after(tmp_path, 2)
    same(run("cut", zero_stage=0, **settings), plain)
    cut_after(tmp_path, 4, cut="other")
    other = run("other", zero_stage=2, **settings)
    assert other.history().losses == pytest.approx(plain.history().losses, rel=2e-3)
    whole = [record.loss for record in run("fp32", zero_stage=0, weight_decay=10.0).history().records[1:]]
    assert plain.history().losses == pytest.approx(whole, rel=2e-2)


@pytest.mark.usefixtures("fp16")
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_fp16_run_killed_and_resumed_equals_the_run_never_killed(run, tmp_path, stage):
    """Its first steps overflow, so the scale of the checkpoint is not the one that a new run begins with."""
    settings = {"precision": "fp16", "zero_stage": stage, "epochs": 3, "checkpoint_every_steps": 3}
    whole = run("whole", **settings)
    norms = [record.grad_norm for record in whole.history().records[1:]]
    overflows = sum(math.isinf(norm) for norm in norms)
    state = whole.state()
    assert overflows > 0 and not state.bad_steps and state.updates == len(norms) - overflows
    cut_after(tmp_path, 3)
    scale = Checkpoints(tmp_path / "cut", 9).at(3).state().loss_scale
    assert scale.steps == 3 and scale.scale < 2**16 and scale.last_overflow >= 0
    same(run("cut", **settings), whole)


@pytest.mark.usefixtures("fp16")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_norm_under_a_loss_scale_is_that_of_fp32(tiny_model, examples_file, stage):
    row = pack(read_examples(examples_file, "train", load_tokenizer(tiny_model), 512).examples[:2])
    norms = {}
    for precision in ("fp32", "fp16"):
        settings = TrainConfig(base_model="x", zero_stage=stage, precision=precision)
        model = attach_lora(load_model(tiny_model, torch.float32, register_packed_attention()), LoraConfig(), 1)
        engine = ZeroEngine(AnswerLoss(model.train(), whole_weights=stage < 3), settings)
        if engine.loss_scale is not None:
            LossScale(64.0, 7, 5, 1).put_into(engine._engine.optimizer)
            assert engine.loss_scale.scale == 64.0 and engine.loss_scale.steps == 7
        engine.backward(engine.forward(row) / 100)
        norms[precision] = engine.step(1e-3)
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.02)


@pytest.mark.usefixtures("fp16")
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_gradient_that_is_no_number_at_the_least_scale_is_a_bad_step(tiny_model, examples_file, stage):
    row = pack(read_examples(examples_file, "train", load_tokenizer(tiny_model), 512).examples[:1])
    settings = TrainConfig(base_model="x", zero_stage=stage, precision="fp16")
    model = attach_lora(load_model(tiny_model, torch.float16, register_packed_attention()), LoraConfig(), 1)
    engine = ZeroEngine(AnswerLoss(model.train(), whole_weights=stage < 3), settings)
    LossScale(2.0, 7, 5, 1).put_into(engine._engine.optimizer)
    for scale, lowered in [(1.0, True), (1.0, False)]:
        engine.backward(engine.forward(row) * math.nan)
        assert engine.step(1e-3) == math.inf
        assert engine.lowered_scale is lowered
        assert engine.loss_scale.scale == scale

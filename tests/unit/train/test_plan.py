"""The plan: counts equal to PEFT's and to autograd's, memory by hand, and settings that really fit."""

import dataclasses

import pytest
import torch

from ragray.config_train import LoraConfig, LossConfig, MonitorConfig, TrainConfig, ValidationConfig
from ragray.errors import ConfigError
from ragray.train import memory
from ragray.train.checkpoint import Checkpoints
from ragray.train.device import Device
from ragray.train.flops import StepWork
from ragray.train.hardware import ready_settings
from ragray.train.loading import load_model
from ragray.train.loop import TrainRun, train
from ragray.train.lora import attach_lora
from ragray.train.measure import Pace, measure
from ragray.train.memory import ModelSize, memory_of, size_of_model
from ragray.train.packing import register_packed_attention
from ragray.train.plan import check_fits, count_work, make_plan, nearest_fitting

CPU = Device("cpu", "x86", 64 << 30)
A100 = Device("cuda", "A100", 80 << 30, (8, 0))
SETTINGS = TrainConfig(base_model="x", precision="fp32", max_length=512, tokens_per_micro_batch=512)


def changed(**changes):
    return SETTINGS.model_copy(update=changes)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "lora",
    [
        LoraConfig(), LoraConfig(rank=3, target_modules=("q_proj", "down_proj")), LoraConfig(method="dora"),
        LoraConfig(trainable_tokens=("<|end|>", 9)),
    ],
    ids=["lora", "two modules", "dora", "tokens"],
)  # fmt: skip
def test_trainable_parameters_are_as_peft_counts_them(make_model, tmp_path, lora, tied):
    folder = make_model(tmp_path / "model", tied=tied)
    settings = ready_settings(changed(lora=lora), folder)
    plain = load_model(folder, torch.float32)
    parameters = plain.num_parameters()
    trainable, _ = attach_lora(plain, settings.lora, seed=1).get_nb_trainable_parameters()
    size = size_of_model(folder, settings)
    assert (size.trainable, size.parameters, size.blocks) == (trainable, parameters, 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_saves(tiny_model, precision, checkpointing):
    """The real model, on another number of tokens than the count was made with; checkpointing alone is a bound."""
    settings = changed(precision=precision, gradient_checkpointing=checkpointing)
    size = size_of_model(tiny_model, settings)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = attach_lora(load_model(tiny_model, dtype, register_packed_attention()), settings.lora, seed=1).to(dtype)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    with memory._counting(own) as found:
        logits = model.train()(
            input_ids=torch.arange(512)[None] % 300,
            position_ids=torch.arange(512)[None],
            logits_to_keep=torch.arange(64),
            use_cache=False,
        ).logits[0]
        torch.nn.functional.cross_entropy(logits.float(), torch.zeros(64, dtype=torch.int64))
    saved = sum(size for _, size in found.values())
    expected = memory.activations(size, settings, 64 / 512)
    if checkpointing:
        blocks = 512 * size.saved_by_block  # made anew in the backward pass, one block at a time
        assert saved <= expected <= saved + blocks + 512 * 2 * size.hidden_bytes
    else:
        assert saved == pytest.approx(expected, rel=1e-3)


def test_memory_by_hand():
    """Rajbhandari et al. 2020, figure 1: 2 + 2 + 12 bytes a trained parameter, shared out by stage."""
    size = ModelSize("llama", 1000, 100, 800, 4, 250, 10.0, 1.0, 4.0, 2)
    half, whole = changed(precision="bf16"), changed()
    shown = {
        stage: memory_of(size, half, CPU, stage, 4, 0.25) for stage in range(4)
    }  # fmt: skip
    assert {s: (m.weights, m.gradients, m.optimizer) for s, m in shown.items()} == {
        0: (2200, 200, 1200),
        1: (2200, 200, 300),
        2: (2200, 50, 300),
        3: (2200 // 4 + 2200, 50, 300),  # DeepSpeed keeps a billion weights gathered, here all
    }
    assert shown[2].activations == 512 * (4 * 10 + 1 + 0.25 * 4)
    exact = memory_of(size, whole, CPU, 0, 1, 0.25)
    assert (exact.weights, exact.gradients, exact.optimizer) == (4400, 400, 800), "no copy without ZeRO"
    assert memory_of(size, whole, CPU, 1, 1, 0.25).optimizer == 1200
    assert memory_of(size, changed(quantization="int8"), CPU, 0, 1, 0.25).weights == 4 * 200 + 800 + 400
    nf4 = memory_of(size, changed(quantization="nf4"), CPU, 0, 1, 0.25).weights
    assert nf4 == round(4 * 200 + 800 * (0.5 + 1 / 64 + 4 / 64 / 256) + 400)
    assert shown[2].total == sum(value for name, value in shown[2].tree().items() if name != "total")


def test_what_quantization_makes_smaller_is_what_bitsandbytes_quantizes(tiny_model):
    from bitsandbytes.nn import Linear4bit

    model = load_model(tiny_model, torch.float32, quantization="nf4")
    quantized = sum(2 * m.weight.numel() for m in model.modules() if isinstance(m, Linear4bit))  # two in a byte
    assert size_of_model(tiny_model, SETTINGS).linear == quantized


def small(plan, share):
    """A device with that share of the memory that a plan needs beside its fixed parts."""
    fixed = plan.memory.runtime + plan.memory.buffers
    return Device(plan.device.kind, "small", int(fixed + share * (plan.memory.total - fixed)), plan.device.capability)


@pytest.mark.parametrize("device", [CPU, A100], ids=["cpu", "gpu"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.25])
def test_the_nearest_that_fits_really_fits_and_less_change_does_not(tiny_model, device, share):
    settings = changed(tokens_per_micro_batch=8192)
    plan = make_plan(settings, tiny_model, small(make_plan(settings, tiny_model, device), share))
    assert not plan.fits
    changes, smaller = nearest_fitting(plan, tiny_model)
    again = make_plan(settings.model_copy(update=changes), tiny_model, plan.device)
    assert again.fits and again.memory == smaller.memory
    for left_out in changes:
        fewer = {name: value for name, value in changes.items() if name != left_out}
        assert not make_plan(settings.model_copy(update=fewer), tiny_model, plan.device).fits
    with pytest.raises(ConfigError, match="the nearest that fits") as caught:
        check_fits(plan, tiny_model)
    for name, value in changes.items():
        assert f"--set train.{name}={str(value).lower()}" in str(caught.value)


def test_workers_of_one_machine_share_its_memory(tiny_model):
    plan = make_plan(changed(num_workers=4), tiny_model, CPU)
    assert plan.needed_bytes == 4 * plan.memory.total
    tight = Device("cpu", "x86", plan.needed_bytes - 1)
    check_fits(make_plan(changed(num_workers=4), tiny_model, tight), tiny_model, nodes=2)
    with pytest.raises(ConfigError, match="the plan needs"):
        check_fits(make_plan(changed(num_workers=4), tiny_model, tight), tiny_model)
    assert make_plan(changed(num_workers=4), tiny_model, A100).sharing == 1


def test_what_never_fits_is_said(tiny_model):
    plan = make_plan(SETTINGS, tiny_model, Device("cpu", "x86", 1 << 20))
    assert nearest_fitting(plan, tiny_model) is None
    with pytest.raises(ConfigError, match="choose a smaller base model"):
        check_fits(plan, tiny_model)


@pytest.mark.usefixtures("process_group")
def test_steps_and_tokens_are_those_of_the_run(tiny_model, examples_file, tmp_path):
    settings = changed(epochs=2, global_batch_examples=5)
    work = count_work(examples_file, tiny_model, settings, seed=3)
    train(TrainRun(settings, 3, str(tiny_model), str(examples_file), str(tmp_path), attempt="x"))
    counts = Checkpoints(tmp_path, 2).latest().state().counts
    assert work.steps == counts["steps"]
    assert (work.examples, work.tokens, work.answer_tokens) == (
        counts["examples"], counts["tokens"], counts["answer_tokens"],
    )  # fmt: skip
    plan = make_plan(settings, tiny_model, CPU, work)
    assert plan.answer_share == work.loss_tokens / work.tokens
    assert work.loss_tokens == work.answer_tokens, "no wrong answers"
    assert plan.size.trainable == counts["trainable_parameters"]


@pytest.mark.usefixtures("process_group")
def test_real_steps_are_measured(tiny_model):
    pace = measure(SETTINGS, tiny_model, steps=3)
    assert pace.steps == 3 and pace.seconds_per_step > 0
    assert 0.97 * 512 < pace.tokens_per_step <= 512, "a full row"
    pairs = measure(changed(loss=LossConfig(kind="dpo"), tokens_per_micro_batch=1024), tiny_model, steps=2)
    assert 0.9 * 1024 < pairs.tokens_per_step <= 1024, "wrong answers may be shorter"
    with pytest.raises(ConfigError, match="no step"):
        measure(SETTINGS, tiny_model, steps=0)


@pytest.mark.usefixtures("process_group")
def test_a_measurement_is_watched_by_nobody_and_never_stopped(tiny_model, tmp_path):
    """Under settings of a run that would stop at a spike or without validation examples, and shows itself."""
    settings = changed(
        monitor=MonitorConfig(tensorboard=str(tmp_path / "board")), validation=ValidationConfig(patience=1),
        spike_factor=1.0001, spike_after_steps=1,
    )  # fmt: skip
    assert measure(settings, tiny_model, steps=4).steps == 4
    assert not (tmp_path / "board").exists()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("kind", ["cross_entropy", "dpo", "unlikelihood"])
def test_the_flops_of_the_plan_are_those_that_the_workers_count(tiny_model, examples_file, tmp_path, kind, monkeypatch):
    """Wrong answers and the second forward pass of DPO included."""
    counted = []
    whole = StepWork.flops
    monkeypatch.setattr(StepWork, "flops", lambda *given: counted.append(whole(*given)) or counted[-1])
    settings = changed(epochs=1, loss=LossConfig(kind=kind))
    work = count_work(examples_file, tiny_model, settings, seed=3)
    train(TrainRun(settings, 3, str(tiny_model), str(examples_file), str(tmp_path), attempt="x"))
    plan = make_plan(settings, tiny_model, CPU, work)
    assert plan.flops == pytest.approx(sum(counted), rel=1e-12)
    assert (work.loss_tokens > work.answer_tokens) is (kind != "cross_entropy")
    assert any(plan.size.work.reference) is (kind == "dpo")
    assert plan.row_tokens == (512 if kind == "cross_entropy" else 1024), "a pair is never split"


def test_offload_moves_what_it_says_to_the_machine():
    """Ren et al. 2021: of 2 + 2 + 12 bytes a trained weight, 12 and a float32 gradient, and a copy in 16 bits."""
    size = ModelSize("llama", 1000, 100, 800, 4, 250, 10.0, 1.0, 4.0, 2)

    def of(offload, stage, device=A100):
        return memory_of(size, changed(precision="bf16", offload=offload), device, stage, 4, 0.25)

    here, there = of("none", 2), of("optimizer", 2)
    assert (here.optimizer, here.host, there.optimizer, there.host) == (300, 0, 0, 300 + 6 * 25)
    assert here.total - there.total == 300
    both = of("optimizer_and_parameters", 3)
    assert (both.weights, both.host) == (2200, 300 + 6 * 25 + 2200 // 4), "only what is gathered is on the GPU"
    assert of("optimizer", 0) == of("none", 0), "without ZeRO nothing is moved"
    assert of("optimizer", 2, CPU) == of("none", 2, CPU), "on a CPU all is the machine's memory"


def test_offload_is_proposed_where_the_machine_has_room(tiny_model):
    settings = changed(use_gpu=True, precision="bf16", gradient_checkpointing=True, quantization="nf4")
    plan = make_plan(settings, tiny_model, A100)
    tight = dataclasses.replace(A100, memory_bytes=plan.needed_bytes - plan.memory.optimizer // 2, host_bytes=1 << 40)
    with pytest.raises(ConfigError, match=r"--set train\.offload=optimizer"):
        check_fits(make_plan(settings, tiny_model, tight), tiny_model)
    full = dataclasses.replace(tight, host_bytes=plan.memory.optimizer // 2)
    assert nearest_fitting(make_plan(settings, tiny_model, full), tiny_model) is None
    moved = settings.model_copy(update={"offload": "optimizer", "num_workers": 2})
    with pytest.raises(ConfigError, match=r"of its machine's 0\.\d+ MB|of its machine's \d"):
        check_fits(make_plan(moved, tiny_model, full), tiny_model)


def test_time_follows_from_the_pace():
    pace = Pace(steps=3, seconds_per_step=2.0, tokens_per_step=100.0)
    assert pace.seconds_for(tokens=1000, workers=2) == 10.0

"""Real runs of the loop with LoRA's variants and with quantized bases: they learn, resume, and merge."""

import json

import pytest
import torch

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig, TrainConfig
from ragray.engine.merge import merge_adapter
from ragray.errors import ConfigError
from ragray.train.adapter import read_adapter
from ragray.train.checkpoint import Checkpoints
from ragray.train.device import Device
from ragray.train.hardware import check_variant, choose_precision, ready_settings
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.loop import TrainRun, train
from ragray.train.lora import attach_lora, trainable, with_token_ids

pytestmark = pytest.mark.usefixtures("process_group")
SMALL = {
    "epochs": 2, "global_batch_examples": 4, "learning_rate": 1e-2, "max_length": 512, "tokens_per_micro_batch": 512,
    "checkpoint_every_steps": 2, "keep_checkpoints": 9,
}  # fmt: skip
VARIANTS = {
    "rslora": {"lora": LoraConfig(use_rslora=True)},
    "dora": {"lora": LoraConfig(method="dora")},
    "tokens": {"lora": LoraConfig(trainable_tokens=("<|end|>", 7))},
    "nf4": {"quantization": "nf4"},
    "int8": {"quantization": "int8"},
    "nf4 dora": {"quantization": "nf4", "lora": LoraConfig(method="dora")},
    "nf4 in bf16": {"quantization": "nf4", "precision": "bf16"},
}


@pytest.fixture
def run(tiny_model, examples_file, tmp_path):
    """A function that trains with changed settings in its own folder, and returns the last checkpoint."""

    def train_with(name="run", **changes):
        settings = TrainConfig(base_model=str(tiny_model), **{**SMALL, **changes})
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        train(TrainRun(settings, 17, str(tiny_model), str(examples_file), str(work), attempt="x"))
        return Checkpoints(work, 9).latest()

    return train_with


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_and_merges_into_the_plain_base(run, tiny_model, tmp_path, name):
    checkpoint = run(**VARIANTS[name])
    losses = checkpoint.history().losses
    assert losses[-1] < losses[0] - 0.5
    record = tmp_path / "base_model.json"
    record.write_text(json.dumps({"path": str(tiny_model), "digest": folder_digest(tiny_model)}))
    check = merge_adapter(checkpoint.folder / "adapter", record, tmp_path / "merged")
    assert check["layers"] == 14 and check["relative_update"] > 0.01
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


@pytest.mark.parametrize("name", ["dora", "tokens", "nf4"])
def test_a_variant_killed_and_resumed_equals_the_run_never_killed(run, tmp_path, name):
    import shutil

    whole = run("whole", **VARIANTS[name])
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for folder in sorted((tmp_path / "killed" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(folder)
    assert folder_digest(run("killed", **VARIANTS[name]).folder / "adapter") == folder_digest(whole.folder / "adapter")


def test_the_quantized_base_differs_and_stays_the_same_after_a_validation(tiny_model):
    ids = torch.arange(20)[None]
    plain = load_model(tiny_model, torch.float32)(ids).logits
    for quantization in ("nf4", "int8"):
        model = load_model(tiny_model, torch.float32, quantization=quantization).train()
        before = model(ids).logits
        with torch.no_grad():
            evaluated = model.eval()(ids).logits
        assert torch.equal(model.train()(ids).logits, before), "the evaluation changed the weights"
        torch.testing.assert_close(evaluated, before, rtol=0.05, atol=0.3)
        assert not torch.equal(before, plain)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora": LoraConfig(method="dora")}, "dora"), ({"quantization": "nf4"}, "nf4"),
        ({"lora": LoraConfig(trainable_tokens=(3,))}, "trainable_tokens"),
    ],
)  # fmt: skip
def test_zero_3_is_refused_where_whole_weights_are_needed(changes, named):
    check_variant(TrainConfig(base_model="x", zero_stage=2, **changes))
    with pytest.raises(ConfigError, match=rf"{named}.* needs whole"):
        check_variant(TrainConfig(base_model="x", zero_stage=3, **changes))


def test_the_names_in_our_adapter_files_are_pefts(tiny_model, tmp_path):
    """PEFT reads what it does not find under its own names as zeros, with a warning alone."""
    from safetensors.torch import load_file

    settings = LoraConfig(method="dora", use_rslora=True, trainable_tokens=(3, 5))
    model = attach_lora(load_model(tiny_model, torch.float32), settings, seed=1)
    model.save_pretrained(tmp_path)
    pefts = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: p.shape for name, p in trainable(model).items()} == {name: t.shape for name, t in pefts.items()}
    assert len(read_adapter(tmp_path).layers) == 14


def test_trainable_tokens_are_named_by_text_or_id(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    found = with_token_ids(LoraConfig(trainable_tokens=(7, "<|end|>", 7)), tokenizer)
    assert found.trainable_tokens == tuple(sorted({7, end}))
    for strange in ("<|tool|>", len(tokenizer), -1):
        with pytest.raises(ConfigError, match="is no token of this model's tokenizer"):
            with_token_ids(LoraConfig(trainable_tokens=(strange,)), tokenizer)
    for strange in (9000, -1):
        with pytest.raises(ConfigError, match=f"none for id {strange}"):
            attach_lora(load_model(tiny_model, torch.float32), LoraConfig(trainable_tokens=(strange, 5)), seed=1)
    twice = attach_lora(load_model(tiny_model, torch.float32), LoraConfig(trainable_tokens=(5, 5)), seed=1)
    assert trainable(twice)["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"].shape == (1, 32)


def test_the_number_format_follows_from_the_device(tiny_model):
    auto, fixed = TrainConfig(base_model="x"), TrainConfig(base_model="x", precision="fp16")
    devices = {
        "fp32": Device("cpu", "x86", 1),
        "bf16": Device("cuda", "A100", 1, (8, 0)),
        "fp16": Device("cuda", "T4", 1, (7, 5)),
    }
    for expected, device in devices.items():
        assert choose_precision(auto, device).value == expected
        assert choose_precision(fixed, device).value == "fp16"
        ready = ready_settings(auto, tiny_model, lambda device=device: device)
        assert ready.precision == expected and ready_settings(ready, tiny_model, pytest.fail) == ready
    assert choose_precision(auto, Device("cuda", "P40", 1, (6, 1))).value == "fp32"

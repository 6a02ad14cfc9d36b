"""Which attention is chosen; flash kernels are called as their documentation says. tests/gpu runs the real ones."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig

from ragray.config_train import LoraConfig, TrainConfig
from ragray.errors import ConfigError
from ragray.train import varlen
from ragray.train.attention import choose_attention, kernel_of
from ragray.train.device import Device
from ragray.train.examples import Example, read_examples
from ragray.train.hardware import ready_settings
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.lora import attach_lora
from ragray.train.losses import AnswerLoss
from ragray.train.packing import pack, packed_attention, register_packed_attention
from ragray.train.plan import make_plan
from ragray.train.setup import build_model


def documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What torch.nn.attention.varlen.varlen_attn says of its arguments, in plain mathematics."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.diff().max() == max_q and cu_seq_k.diff().max() == max_k
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert window_size == (-1, 0), "causal"
    group = query.shape[1] // key.shape[1]
    out = torch.empty_like(query)
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        k, v = (tensor[start:end].repeat_interleave(group, 1) for tensor in (key, value))
        logits = torch.einsum("qhd,khd->hqk", query[start:end], k) * scale
        later = torch.ones(end - start, end - start).triu(1).bool()
        out[start:end] = torch.einsum("hqk,khd->qhd", logits.masked_fill(later, -torch.inf).softmax(-1), v)
    return out


def of_the_package(
    q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal
):
    """What flash_attn.flash_attn_varlen_func says of its arguments: heads of keys may be fewer, in equal groups."""
    assert causal is True and dropout_p == 0.0
    shared = q.shape[1] != k.shape[1]
    places = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return documented(q, k, v, *places, scale=softmax_scale, window_size=(-1, 0), enable_gqa=shared)


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(varlen, "kernel", lambda: documented)
    monkeypatch.setattr(varlen, "package_kernel", lambda: of_the_package)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
def test_the_kernels_arguments_give_what_goes_sequence_by_sequence(kernel, kv_heads):
    torch.manual_seed(0)
    row = pack([Example(str(n), tuple(range(length)), 1) for n, length in enumerate((3, 7, 3, 1))])
    query = torch.randn(1, 4, 14, 8)
    key, value = (torch.randn(1, kv_heads, 14, 8) for _ in range(2))
    given = (torch.nn.Identity(), query, key, value, None, 0.3)
    expected, _ = packed_attention(*given, boundaries=row.boundaries, edges=row.edges)
    found, _ = packed_attention(*given, boundaries=row.boundaries, edges=row.edges, kernel=kernel)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
def test_a_model_calls_the_kernel_that_was_chosen(monkeypatch, tiny_model, examples_file, kernel):
    calls = []
    whole = varlen.attend
    monkeypatch.setattr(varlen, "attend", lambda chosen, *given: calls.append(chosen) or whole(chosen, *given))
    row = pack(read_examples(examples_file, "train", load_tokenizer(tiny_model), 512).examples[:4])
    losses = {}
    for name in ("sdpa", kernel):
        model = attach_lora(load_model(tiny_model, torch.float32, register_packed_attention(name)), LoraConfig(), 1)
        losses[name] = AnswerLoss(model).eval()(row).item()
    assert calls == [kernel] * 2, "once for each of the two layers"
    assert losses[kernel] == pytest.approx(losses["sdpa"], rel=1e-5)


def test_this_pytorch_has_the_kernel_with_the_arguments_that_are_passed():
    assert varlen.kernel() is not None
    assert "varlen" in varlen.here() and "sdpa" in varlen.here()


GPU = Device("cuda", "A100", 80 << 30, (8, 0), ("sdpa", "varlen"))
BOTH = dataclasses.replace(GPU, kernels=("sdpa", "varlen", "flash_attention_2"))
PLAIN = LlamaConfig(hidden_size=64, num_attention_heads=8)
CASES = {
    "a CPU": ({}, Device("cpu", "x86", 1), PLAIN, "sdpa", "training is on a CPU"),
    "an old GPU": ({}, dataclasses.replace(GPU, name="T4", capability=(7, 5)), PLAIN, "sdpa", "T4 has 7.5"),
    "fp32": ({"precision": "fp32"}, BOTH, PLAIN, "sdpa", "needs train.precision bf16 or fp16"),
    "odd heads": ({}, BOTH, LlamaConfig(hidden_size=20, num_attention_heads=2), "sdpa", "the model's have 10"),
    "wide heads": ({}, BOTH, LlamaConfig(hidden_size=64, num_attention_heads=8, head_dim=512), "sdpa", "have 512"),
    "nothing installed": ({}, dataclasses.replace(GPU, kernels=("sdpa",)), PLAIN, "sdpa", "no varlen_attn"),
    "PyTorch's": ({}, BOTH, PLAIN, "varlen", "PyTorch's flash attention"),
    "dropout": ({}, BOTH, LlamaConfig(hidden_size=64, num_attention_heads=8, attention_dropout=0.1),
                "flash_attention_2", "the package flash-attn"),
    "the package alone": ({}, dataclasses.replace(GPU, kernels=("sdpa", "flash_attention_2")), PLAIN,
                          "flash_attention_2", "the package flash-attn"),
    "named": ({"attention": "sdpa"}, BOTH, PLAIN, "sdpa", "train.attention says so"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_attention_follows_from_the_device_and_the_model(case):
    changes, device, model, expected, reason = CASES[case]
    settings = TrainConfig(base_model="x", **{"precision": "bf16", **changes})
    choice = choose_attention(settings, device, lambda: model)
    assert choice.value == expected
    assert reason in choice.reason


@pytest.mark.parametrize(("kernel", "reason"), [("varlen", "on a CPU"), ("flash_attention_2", "on a CPU")])
def test_an_attention_that_does_not_fit_is_refused(tiny_model, kernel, reason):
    settings = TrainConfig(base_model="x", attention=kernel)
    with pytest.raises(ConfigError, match=reason) as caught:
        make_plan(settings, tiny_model, Device("cpu", "x86", 1 << 40))
    assert "set train.attention to auto" in str(caught.value)


def test_what_is_not_installed_is_refused():
    package = TrainConfig(base_model="x", precision="bf16", attention="flash_attention_2")
    with pytest.raises(ConfigError, match="flash-attn is not installed"):
        choose_attention(package, GPU, lambda: PLAIN)
    with pytest.raises(ConfigError, match="flash-attn is not installed, on the node"):
        kernel_of(package)
    assert kernel_of(package.model_copy(update={"attention": "varlen"})) == "varlen"
    with pytest.raises(ConfigError, match="auto is not decided yet"):
        kernel_of(TrainConfig(base_model="x"))


def test_a_worker_builds_the_model_with_the_attention_of_the_settings(tiny_model):
    settings = TrainConfig(base_model="x", precision="bf16", attention="varlen")
    for kernel, name in [("varlen", "ragray_packed_varlen"), ("sdpa", "ragray_packed")]:
        model = build_model(tiny_model, settings.model_copy(update={"attention": kernel}), seed=1)
        assert model.get_base_model().config._attn_implementation == name
    with pytest.raises(ConfigError, match="flash-attn is not installed, on the node"):
        build_model(tiny_model, settings.model_copy(update={"attention": "flash_attention_2"}), seed=1)


def test_the_plan_shows_the_attention(tiny_model):
    plan = make_plan(TrainConfig(base_model="x", use_gpu=True), tiny_model, GPU)
    assert (plan.attention.value, plan.settings.attention) == ("varlen", "varlen")
    assert ready_settings(plan.settings, tiny_model, pytest.fail) == plan.settings

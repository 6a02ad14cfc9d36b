"""Shortcuts against the long way: the same numbers and gradients, for every architecture that takes them."""

import pytest
import torch
from torch import nn

from ragray.config_train import LoraConfig, LossConfig
from ragray.train.examples import Example
from ragray.train.lora import attach_lora, trainable
from ragray.train.losses import AnswerLoss
from ragray.train.packing import pack, register_packed_attention
from ragray.train.preference import adapter_off
from ragray.train.shortcuts import KNOWN, AnswerStatistics, LoraLinear, shorten, statistics_of

EXAMPLES = [
    Example("a", tuple(range(3, 20)), 9),
    Example("b", tuple(range(5, 16)), 4),
    Example("c", tuple(range(30, 41)), 10),
]


def causal_lm(kind: str, **changes: object) -> nn.Module:
    """A random model of two layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        **{
            "vocab_size": 60,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            **changes,
        },
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=register_packed_attention())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def with_lora(model: nn.Module, **changes: object) -> nn.Module:
    adapted = attach_lora(model, LoraConfig(rank=4, alpha=8, **changes), seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.normal_(std=0.2)
    return adapted.train()


def long_way(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log probabilities by the untouched model, all logits at all positions; and the gradients of their sum."""
    row = pack(EXAMPLES)
    logits = model(row.token_ids, position_ids=row.position_ids, boundaries=row.boundaries, use_cache=False).logits
    found = statistics_of(logits[0, row.predict_at], row.targets)
    (-found[:, 0].sum() + 0.1 * found[:, 1].square().sum()).backward()
    return found.detach(), {name: p.grad for name, p in trainable(model).items()}


@pytest.mark.parametrize("kind", sorted(KNOWN))
@pytest.mark.parametrize("whole_weights", [True, False])
def test_a_known_model_gives_the_same_statistics_and_gradients(kind, whole_weights):
    expected, gradients = long_way(with_lora(causal_lm(kind)))
    model = with_lora(causal_lm(kind))
    loss = AnswerLoss(model, LossConfig(z_weight=0.1), whole_weights=whole_weights)
    assert loss._wanted is not None
    row = pack(EXAMPLES)
    torch.testing.assert_close(loss._statistics(row).detach(), expected, rtol=1e-5, atol=1e-5)
    loss(row).backward()
    for name, parameter in trainable(model).items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-4 * float(gradients[name].std()))


def test_the_shortcuts_are_taken(monkeypatch):
    """The last MLP sees the answers' positions alone, and no tensor of logits is made."""
    model = with_lora(causal_lm("llama"))
    loss = AnswerLoss(model)
    inner = model.get_base_model()
    seen = {}
    inner.model.layers[-1].mlp.register_forward_pre_hook(lambda _, given: seen.update(last=given[0].shape[1]))
    inner.model.layers[0].mlp.register_forward_pre_hook(lambda _, given: seen.update(first=given[0].shape[1]))
    inner.lm_head.register_forward_hook(lambda _, __, found: seen.update(head=tuple(found.shape)))
    row = pack(EXAMPLES)
    loss(row)
    answers = sum(example.answer_tokens for example in EXAMPLES)
    assert seen == {"last": answers, "first": row.token_ids.shape[1], "head": (1, answers, 3)}


def test_a_model_of_another_kind_keeps_its_output_layer():
    model = with_lora(causal_lm("phi", num_key_value_heads=4), target_modules=("q_proj", "fc1"))
    assert shorten(model, whole_weights=True) is None
    expected, _ = long_way(with_lora(causal_lm("phi", num_key_value_heads=4), target_modules=("q_proj", "fc1")))
    torch.testing.assert_close(AnswerLoss(model)._statistics(pack(EXAMPLES)).detach(), expected, rtol=1e-5, atol=1e-5)


def test_layers_with_dropout_or_a_variant_keep_pefts_forward():
    for changes in ({"dropout": 0.1}, {"target_modules": ("lm_head",)}):
        model = with_lora(causal_lm("llama"), **changes)
        layers = [m for m in model.modules() if hasattr(m, "lora_A")]
        wanted = shorten(model, whole_weights=True)
        assert ("dropout" in changes) == (wanted is not None), "an output layer with LoRA gives logits"
        shortened = ["forward" in vars(layer) for layer in layers]
        assert not any(shortened) if "dropout" in changes else all(shortened)


def test_without_its_adapter_the_model_is_its_base():
    torch.manual_seed(0)
    base = causal_lm("qwen2")
    row = pack(EXAMPLES)
    logits = base(row.token_ids, position_ids=row.position_ids, boundaries=row.boundaries, use_cache=False).logits
    expected = statistics_of(logits[0, row.predict_at], row.targets).detach()
    loss = AnswerLoss(with_lora(causal_lm("qwen2")))
    adapted = loss._statistics(row)
    with adapter_off(loss.model), torch.no_grad():
        found = loss._statistics(row)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((adapted - expected).abs().max()) > 0.1
    torch.testing.assert_close(loss._statistics(row), adapted)


def test_statistics_in_parts_equal_those_of_all_logits(monkeypatch):
    monkeypatch.setattr("ragray.train.shortcuts._LOGITS_AT_ONCE", 70)  # three rows of 23 at once
    torch.manual_seed(0)
    weight, targets = torch.randn(23, 6), torch.randint(0, 23, (10,))
    hidden = (3 * torch.randn(10, 6)).requires_grad_()
    other = hidden.detach().clone().requires_grad_()
    factors = torch.randn(10, 3)
    found, expected = AnswerStatistics.apply(hidden, weight, targets), statistics_of(other @ weight.T, targets)
    torch.testing.assert_close(found, expected)
    (found * factors).sum().backward()
    (expected * factors).sum().backward()
    torch.testing.assert_close(hidden.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_lora_in_one_function_by_numbers():
    torch.manual_seed(0)
    x, weight, bias, a, b = (
        torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 4), (5, 4), 5, (2, 4), (5, 2))
    )
    expected = x @ weight.T + bias + 0.5 * (x @ a.T) @ b.T
    torch.testing.assert_close(LoraLinear.apply(x, weight, bias, a, b, 0.5), expected)
    free = [tensor.requires_grad_() for tensor in (x, a, b)]
    assert torch.autograd.gradcheck(lambda x, a, b: LoraLinear.apply(x, weight, None, a, b, 0.5), free)

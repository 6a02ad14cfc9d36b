"""Three ways to the same loss and gradients with less work, put into a model where they are known to hold.

In: a causal language model with LoRA. Out: the same model, changed in place:

- the output layer gives `[log p(target), log Z, mean log p]` of each answer token instead of its logits, and makes
  their gradients in the forward pass, so that the logits of few tokens exist at any time;
- the last layer's output projection and MLP run at the answers' positions alone: nothing else of it is used;
- a layer with LoRA is one function, whose update is added in place and whose scale is applied to r numbers.

A model of another architecture, or a layer with a variant of LoRA, is left as it is.
Source of the first: Hsu et al. 2024, "Liger Kernel", section 3.2, arXiv:2410.10989 (there for one loss on a GPU).
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma"})  # layers and output layer as tested
_LOGITS_AT_ONCE = 1 << 22  # elements: 16 MiB in float32, which a CPU's caches nearly hold
_ON_GPU = 16  # times as many: there the kernels' number counts


@dataclass
class Wanted:
    """What the next forward pass is asked for; set before it, read by the layers that were changed."""

    positions: torch.Tensor | None = None  # int64 [A]
    targets: torch.Tensor | None = None  # int64 [A]


def statistics_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What losses are made of: `[log p(target), log Z, mean over the vocabulary of log p]`, float32 [A, 3].

    Args:
        logits: [A, vocabulary].
        targets: int64 [A].
    """
    logits = logits.float()
    log_z = logits.logsumexp(-1)
    log_p = logits.gather(-1, targets[:, None])[:, 0] - log_z
    return torch.stack([log_p, log_z, logits.mean(-1) - log_z], -1)


class AnswerStatistics(torch.autograd.Function):
    """`statistics_of(hidden @ weight.T, targets)` without its logits; the weight is frozen.

    With probabilities p of a token, its expected output row e = p W is all that the gradients need:
    d log Z = e, d log p(target) = W[target] - e, d mean log p = mean(W) - e.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Statistics float32 [A, 3] of hidden [A, h], weight [vocabulary, h], targets int64 [A]."""
        found = torch.empty(len(hidden), 3, dtype=torch.float32, device=hidden.device)
        expected = torch.empty_like(hidden)
        rows = max(1, _LOGITS_AT_ONCE * (_ON_GPU if hidden.is_cuda else 1) // len(weight))
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = (hidden[part] @ weight.T).float()
            target = logits.gather(1, targets[part, None])[:, 0]
            mean = logits.mean(1)
            highest = logits.amax(1, keepdim=True)
            total = logits.sub_(highest).exp_().sum(1)
            log_z = highest[:, 0] + total.log()
            found[part] = torch.stack([target - log_z, log_z, mean - log_z], 1)
            expected[part] = (logits.to(weight.dtype) @ weight) / total[:, None]
        ctx.save_for_backward(expected, weight[targets], weight.mean(0))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient of `hidden`."""
        expected, right, mean = ctx.saved_tensors
        to_target, to_z, to_mean = gradient.to(expected.dtype).unbind(1)
        of_expected = to_z - to_target - to_mean
        of_hidden = torch.addcmul(of_expected[:, None] * expected, to_target[:, None], right)
        return of_hidden.addcmul_(to_mean[:, None], mean), None, None


class LoraLinear(torch.autograd.Function):
    """y = x W^T + c + s (x A^T) B^T with W and c frozen; the update is added in place."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """[..., out] of x [..., in], weight [out, in], bias [out], a [r, in], b [out, r]."""
        flat = x.reshape(-1, x.shape[-1])
        y = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
        low = flat @ a.T
        y.addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(flat, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of x, a and b."""
        flat, weight, a, b, low = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        of_low = (gradient @ b).mul_(ctx.scale)
        of_b = (gradient.T @ low).mul_(ctx.scale)
        of_x = (gradient @ weight).addmm_(of_low, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_low.T @ flat, of_b, None


def shorten(model: nn.Module, *, whole_weights: bool) -> Wanted | None:
    """Put the shortcuts into a model with LoRA that can take them.

    Args:
        model: what `attach_lora` returned.
        whole_weights: every worker holds all weights at all times, which ZeRO-3 takes away.

    Returns:
        Where to say what a forward pass is to give; None where the model still gives logits.
    """
    if whole_weights:
        for module in model.modules():
            if _is_plain_lora(module):
                module.forward = types.MethodType(_lora_forward, module)
    adapted: Any = model
    inner = adapted.get_base_model()
    if not _is_known(inner):
        return None
    wanted = Wanted()
    _trim_last_layer(inner.model.layers[-1], wanted)
    inner.lm_head.forward = types.MethodType(_head_forward(wanted), inner.lm_head)
    return wanted


def answer_only(model: nn.Module) -> list[nn.Module]:
    """The modules, beside the output layer, that a model with shortcuts runs at the answers' positions alone."""
    whole: Any = model
    inner = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    if not _is_known(inner):
        return []
    last = inner.model.layers[-1]
    return [last.self_attn.o_proj, last.post_attention_layernorm, last.mlp, inner.model.norm]


def _is_known(inner: Any) -> bool:
    head = inner.get_output_embeddings()
    return (
        inner.config.model_type in KNOWN
        and type(head) is nn.Linear
        and head is inner.lm_head
        and head.bias is None
        and not head.weight.requires_grad
    )


def _is_plain_lora(module: Any) -> bool:
    """Whether a module is LoRA on a linear layer without dropout, variant, or bias of its own."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
        return False
    name = "default"
    return (
        set(module.lora_A) == {name}
        and isinstance(module.lora_dropout[name], nn.Identity)
        and name not in module.lora_variant
        and module.lora_B[name].bias is None
        and not module.base_layer.weight.requires_grad
    )


def _lora_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    base, a, b = self.base_layer, self.lora_A["default"].weight, self.lora_B["default"].weight
    if self.disable_adapters or a.dtype != x.dtype:
        return type(self).forward(self, x)  # type: ignore[no-any-return]
    y: torch.Tensor = LoraLinear.apply(x, base.weight, base.bias, a, b, self.scaling["default"])  # type: ignore[no-untyped-call]
    return y


def _head_forward(wanted: Wanted) -> Any:
    def forward(self: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        """Statistics [1, A, 3] in place of logits; without targets, logits."""
        if wanted.targets is None:
            return nn.functional.linear(hidden, self.weight, self.bias)
        found: torch.Tensor = AnswerStatistics.apply(hidden[0], self.weight, wanted.targets)  # type: ignore[no-untyped-call]
        return found[None]

    return forward


def _trim_last_layer(layer: Any, wanted: Wanted) -> None:
    """Let a layer go on with the wanted positions alone once attention has read all of them."""

    def only_wanted(module: nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        (attended,) = arguments
        return None if wanted.positions is None else (attended[:, wanted.positions],)

    def forward(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        kept = hidden_states if wanted.positions is None else hidden_states[:, wanted.positions]
        kept = kept + attended
        out: torch.Tensor = kept + self.mlp(self.post_attention_layernorm(kept))
        return out

    layer.self_attn.o_proj.register_forward_pre_hook(only_wanted)
    layer.forward = types.MethodType(forward, layer)

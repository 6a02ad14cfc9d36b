"""Flash attention over packed rows on an NVIDIA GPU, one call for all sequences of a row.

In: queries, keys and values of a packed row, and where its sequences begin. Out: what attention on each sequence by
itself gives. Two kernels do it: PyTorch's own, and that of the package flash-attn, which transformers calls
flash_attention_2; `attention.choose_attention` says which fits.
Not verified: this project has not yet run either on a GPU; their arguments are checked against their documentation.
Source: Dao 2023, "FlashAttention-2", arXiv:2307.08691; torch.nn.attention.varlen, PyTorch 2.13; flash-attn 2.8.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch

Kernel = Literal["sdpa", "varlen", "flash_attention_2"]


def here() -> tuple[Kernel, ...]:
    """The kernels that this Python has; sdpa is everywhere."""
    found: list[Kernel] = ["sdpa"]
    if kernel() is not None:
        found.append("varlen")
    if importlib.util.find_spec("flash_attn") is not None:
        found.append("flash_attention_2")
    return tuple(found)


@functools.cache
def kernel() -> Callable[..., Any] | None:
    """PyTorch's `varlen_attn`; None where this PyTorch has none, or one that knows neither windows nor shared keys."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = set(inspect.signature(varlen_attn).parameters)
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= known else None


@functools.cache
def package_kernel() -> Callable[..., Any]:
    """`flash_attn_varlen_func` of the package flash-attn."""
    from flash_attn import flash_attn_varlen_func

    found: Callable[..., Any] = flash_attn_varlen_func
    return found


def attend(
    chosen: Kernel,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    edges: torch.Tensor,
    longest: int,
    scaling: float | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Causal attention inside each sequence, [1, T, heads, head size].

    Args:
        chosen: "varlen" or "flash_attention_2".
        query: [1, heads, T, head size].
        key: [1, key-value heads, T, head size].
        value: [1, key-value heads, T, head size].
        edges: int32 [sequences + 1] on the same device, where each sequence begins, and T.
        longest: tokens of the longest sequence.
        scaling: of the logits; by default 1 / sqrt(head size).
        dropout: of the attention weights; "varlen" has none.
    """
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    if chosen == "flash_attention_2":
        places = {"cu_seqlens_q": edges, "cu_seqlens_k": edges, "max_seqlen_q": longest, "max_seqlen_k": longest}
        packed: torch.Tensor = package_kernel()(
            q, k, v, **places, dropout_p=dropout, softmax_scale=scaling, causal=True
        )
        return packed[None]
    varlen_attn = kernel()
    assert varlen_attn is not None and dropout == 0.0
    shared = q.shape[1] != k.shape[1]
    attended: torch.Tensor = varlen_attn(
        q, k, v, edges, edges, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=shared
    )
    return attended[None]

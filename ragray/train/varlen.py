"""Flash attention over packed rows on an NVIDIA GPU, by PyTorch's own kernel for sequences of different lengths.

In: queries, keys and values of a packed row, and where its sequences begin. Out: what attention on each sequence by
itself gives, in one call. Where this does not fit, `packing.packed_attention` goes from sequence to sequence.
Not verified: this project has not yet run it on a GPU; its arguments are checked against the kernel's documentation.
Source: Dao 2023, "FlashAttention-2", arXiv:2307.08691; torch.nn.attention.varlen, PyTorch 2.13.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

_HALF = (torch.float16, torch.bfloat16)
_LARGEST_HEAD = 256
_OLDEST_GPU = (8, 0)  # compute capability: Ampere


def fits(query: torch.Tensor, dropout: float) -> bool:
    """Whether the kernel takes such queries: half precision, heads of 8 to 256, no dropout, Ampere or newer."""
    size = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in _HALF
        and size <= _LARGEST_HEAD
        and size % 8 == 0
        and dropout == 0.0
        and torch.cuda.get_device_capability(query.device) >= _OLDEST_GPU
        and kernel() is not None
    )


@functools.cache
def kernel() -> Callable[..., Any] | None:
    """PyTorch's `varlen_attn`; None where this PyTorch has none, or one that knows neither windows nor shared keys."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = set(inspect.signature(varlen_attn).parameters)
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= known else None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    edges: torch.Tensor,
    longest: int,
    scaling: float | None,
) -> torch.Tensor:
    """Causal attention inside each sequence, [1, T, heads, head size].

    Args:
        query: [1, heads, T, head size].
        key: [1, key-value heads, T, head size].
        value: [1, key-value heads, T, head size].
        edges: int32 [sequences + 1] on the same device, where each sequence begins, and T.
        longest: tokens of the longest sequence.
        scaling: of the logits; by default 1 / sqrt(head size).
    """
    varlen_attn = kernel()
    assert varlen_attn is not None
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    shared = q.shape[1] != k.shape[1]
    attended: torch.Tensor = varlen_attn(
        q, k, v, edges, edges, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=shared
    )
    return attended[None]

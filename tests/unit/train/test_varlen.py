"""The GPU's kernel is called as its documentation says; on the CPU it is never chosen. tests/gpu runs the real one."""

import pytest
import torch

from ragray.train import varlen
from ragray.train.examples import Example
from ragray.train.packing import pack, packed_attention


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


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_kernels_arguments_give_what_goes_sequence_by_sequence(monkeypatch, kv_heads):
    torch.manual_seed(0)
    row = pack([Example(str(n), tuple(range(length)), 1) for n, length in enumerate((3, 7, 3, 1))])
    query = torch.randn(1, 4, 14, 8)
    key, value = (torch.randn(1, kv_heads, 14, 8) for _ in range(2))
    expected, _ = packed_attention(torch.nn.Identity(), query, key, value, None, 0.3, boundaries=row.boundaries)
    monkeypatch.setattr(varlen, "kernel", lambda: documented)
    found = varlen.attend(query, key, value, row.edges, 7, 0.3)
    torch.testing.assert_close(found, expected)
    monkeypatch.setattr(varlen, "fits", lambda query, dropout: True)
    chosen, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None, 0.3, boundaries=row.boundaries, edges=row.edges
    )
    torch.testing.assert_close(chosen, found)


def test_the_cpu_goes_sequence_by_sequence():
    assert not varlen.fits(torch.randn(1, 4, 14, 8), 0.0)
    assert not varlen.fits(torch.randn(1, 4, 14, 8, dtype=torch.bfloat16), 0.0)


def test_this_pytorch_has_the_kernel_with_the_arguments_that_are_passed():
    assert varlen.kernel() is not None

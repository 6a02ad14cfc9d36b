"""Model FLOPs of a step and the device's peak, which together give the model FLOPs utilization (MFU).

In: a model, the lengths of a step's examples, a device. Out: floating-point operations, and operations a second.
Source: Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", appendix B, arXiv:2204.02311:
a token of a sequence of T costs 6 N + 12 L H Q T, with N parameters, L layers, H heads of size Q. That counts what the
model needs, once: recomputed activations do not raise it, nor does a causal mask lower it. Two things differ here:

- A frozen weight needs no gradient of its own: 4 for each parameter (forward 2, gradient of its input 2) in place of 6.
- The embeddings are looked up, and the output layer works at the answers' tokens alone, so N holds neither; the output
  layer is counted for those tokens, as are the last layer's output projection and MLP where they work at them alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ragray.train.loading import Precision
from ragray.train.shortcuts import answer_only

if TYPE_CHECKING:
    from torch import nn

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")

# Dense peaks without sparsity, TFLOP/s: 16-bit with tensor cores and accumulation in float32, and float32 without TF32,
# which PyTorch leaves off. Source: NVIDIA's data sheets of these products; of a figure "with sparsity", half. The first
# name that the device's name holds counts.
_PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250.0, 75.0),
    "H200 NVL": (835.5, 60.3),
    "H200": (989.4, 66.9),
    "H100 PCIe": (756.0, 51.2),
    "H100 NVL": (835.5, 60.3),
    "H100": (989.4, 66.9),
    "A100": (312.0, 19.5),
    "A10G": (70.0, 31.5),
    "A10": (125.0, 31.2),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
}
_FP16_ONLY: dict[str, tuple[float, float]] = {"V100-PCIE": (112.0, 14.0), "V100": (125.0, 15.7), "T4": (65.0, 8.1)}
_MATMUL_SIZE, _MATMULS = 1024, 4


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a token costs in a model, in FLOPs of one forward and backward pass."""

    each_token: int  # 4 N frozen + 6 N trained
    each_answer_token: int  # the output layer, and what else works there alone
    each_pair: int  # 12 L H Q, for each token and each token of its example
    reference: tuple[int, int, int] = (0, 0, 0)  # what a second forward pass adds to each of them

    @classmethod
    def of(cls, model: nn.Module, *, reference: bool = False) -> StepWork | None:
        """Of a causal language model of transformers, adapted or not; None for a mixture of experts.

        With `reference`, each row also passes forward through the base model alone, as DPO compares with it: 2 for
        each frozen parameter, and a third of attention's 12.

        A token passes through some of the experts only, which the parameters do not tell.
        """
        whole: Any = model
        config = whole.config.get_text_config()
        if any(getattr(config, name, None) for name in _EXPERTS):
            return None
        tables = (whole.get_input_embeddings().weight, whole.get_output_embeddings().weight)
        late = [p for module in answer_only(model) for p in module.parameters()]
        apart = {id(p) for p in (*tables, *late)}
        body = [p for p in model.parameters() if id(p) not in apart]
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        pair = config.num_hidden_layers * config.num_attention_heads * head_size
        return cls(
            each_token=sum(_cost(p) for p in body),
            each_answer_token=sum(_cost(p) for p in (tables[1], *late)),
            each_pair=12 * pair,
            reference=(_once(body), _once((tables[1], *late)), 4 * pair) if reference else (0, 0, 0),
        )

    def flops(self, lengths: Sequence[int], answer_tokens: int) -> float:
        """Of sequences of these lengths, `answer_tokens` of whose tokens carry loss."""
        return self.flops_of(sum(lengths), answer_tokens, sum(length**2 for length in lengths))

    def flops_of(self, tokens: int, answer_tokens: int, pairs: int) -> float:
        """The same from sums; `pairs` is that of the squared lengths."""
        token, answer, pair = self.reference
        work = (self.each_token + token) * tokens + (self.each_answer_token + answer) * answer_tokens
        return float(work + (self.each_pair + pair) * pairs)


def _once(parameters: Iterable[torch.Tensor]) -> int:
    """Of a forward pass without the adapter."""
    return sum(2 * _size(p) for p in parameters if not p.requires_grad)


def _cost(parameter: torch.Tensor) -> int:
    return (6 if parameter.requires_grad else 4) * _size(parameter)


def _size(parameter: Any) -> int:
    """Elements of the whole weight, also where ZeRO-3 has sharded it or bitsandbytes packed it."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return int(torch.Size(state.shape).numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def peak_flops(device: torch.device, precision: Precision, measure: bool) -> float | None:
    """FLOP/s that a device can do at most in a precision; None where that is not known.

    Args:
        device: of the model.
        precision: of the arithmetic.
        measure: multiply matrices where no table says it, as on every CPU.
    """
    known = table_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
    return measured_peak(device, precision) if known is None and measure else known


def table_peak(name: str, precision: Precision) -> float | None:
    """FLOP/s of the GPU of that name, from its data sheet; None where it is not listed."""
    for table in (_PEAKS, _FP16_ONLY):
        for part, (half, single) in table.items():
            if re.search(rf"(?<!\w){part}(?!\w| Ti| D\b| Laptop)", name):  # "T4", not "T400"; "RTX 4090", not its kin
                if precision == "bf16" and table is _FP16_ONLY:
                    return None
                return (single if precision == "fp32" else half) * 1e12
    return None


def measured_peak(device: torch.device, precision: Precision) -> float:
    """The best of some multiplications of square matrices, FLOP/s; about a tenth of a second on a CPU core."""
    from ragray.train.loading import DTYPES

    size = _MATMUL_SIZE if device.type == "cpu" else 8 * _MATMUL_SIZE
    matrix = torch.ones(size, size, dtype=DTYPES[precision], device=device)
    best = float("inf")
    for _ in range(_MATMULS):
        started = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best

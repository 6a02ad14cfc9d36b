"""Which weight formats each NVIDIA GPU takes, by compute capability, in both lines of TensorRT-LLM.

In: an engine kind, a weight format, a compute capability. Out: a refusal with its reason, or a choice with its reason.

Sources, read 2026-11-26: TensorRT-LLM's documentation, legacy/reference/support-matrix.md ("Hardware", "Software":
precisions by SM) for the engine line, features/quantization.md ("Hardware Support Matrix") for the PyTorch line; its
loader `get_quant_method`, which has no W8A8 SmoothQuant. NVIDIA's CUDA GPU list for the compute capabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

ENGINE, TORCH = "tensorrt_llm", "tensorrt_llm_torch"
GPUS = {  # Ray's accelerator type -> compute capability
    "V100": "7.0", "T4": "7.5", "A100": "8.0", "A10G": "8.6", "L4": "8.9", "L40S": "8.9", "H100": "9.0", "H200": "9.0",
    "H20": "9.0", "B200": "10.0", "GB200": "10.0", "B300": "10.3", "GB300": "10.3", "RTX-PRO-6000": "12.0",
}  # fmt: skip
_SUPPORTED = {(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)}
_FIRST_FP8 = (8, 9)
_AWQ_TORCH = {(8, 0), (8, 6), (8, 9), (9, 0)}


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How weights are stored and multiplied."""

    name: str
    algorithm: str | None  # TensorRT-LLM's quant_algo
    bits: int  # of a weight
    meaning: str

    @property
    def method(self) -> str:
        """ragray's quantization method that makes it."""
        return f"modelopt_{self.name}"


FORMATS = {
    made.name: made
    for made in (
        WeightFormat("fp16", None, 16, "float16 throughout"),
        WeightFormat("fp8", "FP8", 8, "FP8 E4M3 weights and activations"),
        WeightFormat("int8_smoothquant", "W8A8_SQ_PER_CHANNEL", 8, "INT8 weights and activations, SmoothQuant"),
        WeightFormat("int8_weight_only", "W8A16", 8, "INT8 weights, float16 activations"),
        WeightFormat("int4_awq", "W4A16_AWQ", 4, "INT4 weights in groups of 128, float16 activations, AWQ"),
    )
}
_PREFERRED = ("fp8", "int8_smoothquant", "int4_awq", "fp16")


@dataclass(frozen=True, slots=True)
class Choice:
    """A weight format, and why it."""

    weights: str
    reason: str


def refusal(kind: str, weights: str, capability: str) -> str | None:
    """None, or why a kind of engine cannot have a weight format on a GPU of a compute capability such as "8.9"."""
    if weights not in FORMATS:
        return f"{kind} has no weight format {weights!r}: choose one of {', '.join(FORMATS)}"
    parts = _parts(capability)
    if parts is None:
        return f"{capability!r} is no compute capability such as 8.9"
    if parts not in _SUPPORTED:
        known = ", ".join(f"{major}.{minor}" for major, minor in sorted(_SUPPORTED))
        return f"TensorRT-LLM supports the compute capabilities {known}; this GPU has {capability}"
    if weights == "fp8" and parts < _FIRST_FP8:
        return f"fp8 needs compute capability 8.9 or newer; this GPU has {capability}"
    return _torch_refusal(weights, parts) if kind == TORCH else None


def choose(kind: str, capability: str) -> Choice:
    """The format with the fewest bits per multiplication that a GPU has hardware for, and why.

    Raises:
        ValueError: TensorRT-LLM does not support the GPU.
    """
    passed_over: list[str] = []
    for weights in _PREFERRED:
        reason = refusal(kind, weights, capability)
        if reason is None:
            chosen = f"{weights} ({FORMATS[weights].meaning}) for compute capability {capability}"
            return Choice(weights, "; ".join([chosen, *passed_over]))
        passed_over.append(f"not {weights}: {reason}")
    raise ValueError(passed_over[-1].partition(": ")[2])


def _torch_refusal(weights: str, capability: tuple[int, int]) -> str | None:
    if weights == "int8_smoothquant":
        return "TensorRT-LLM's PyTorch backend has no W8A8 SmoothQuant layers; the engine line (tensorrt_llm) has"
    if weights == "int8_weight_only":
        return "INT8 is not among the PyTorch backend's documented formats; the engine line (tensorrt_llm) has it"
    if weights == "int4_awq" and capability not in _AWQ_TORCH:
        return "TensorRT-LLM's PyTorch backend documents INT4 AWQ for compute capabilities 8.0 to 9.0 alone"
    return None


def _parts(capability: str) -> tuple[int, int] | None:
    major, point, minor = capability.partition(".")
    return (int(major), int(minor)) if point and major.isdigit() and minor.isdigit() else None

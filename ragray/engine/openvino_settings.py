"""How OpenVINO computes on a CPU, for engines and for what measures them.

In: nothing. Out: properties of a compiled model.
"""

from __future__ import annotations

CPU_PROPERTIES: dict[str, str | int] = {
    "INFERENCE_PRECISION_HINT": "f32",  # on every CPU: bfloat16 where the CPU has it would change answers
    # Where weights are INT8 or INT4, activations are rounded to INT8 in groups of 64, each row by itself: prompts are
    # read in about half of the time. Each engine's answers are compared with the full model's when it is built.
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 64,
}

"""Which weight formats each GPU gets, and why."""

from pathlib import Path

import pytest

from ragray.engine.gpu_policy import ENGINE, FORMATS, GPUS, TORCH, choose, refusal

ROOT = Path(__file__).parents[3]


def markdown_table() -> str:
    """The policy as a Markdown table: a row for each GPU type, the choice of each line in bold."""
    head = "| GPU | compute capability | `tensorrt_llm` | `tensorrt_llm_torch` |\n|---|---|---|---|\n"
    cells = ((gpu, capability, _cell(ENGINE, capability), _cell(TORCH, capability)) for gpu, capability in GPUS.items())
    return head + "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cell(kind: str, capability: str) -> str:
    taken = [weights for weights in FORMATS if refusal(kind, weights, capability) is None]
    if not taken:
        return "none"
    chosen = choose(kind, capability).weights
    return ", ".join(f"**{weights}**" if weights == chosen else weights for weights in taken)


@pytest.mark.parametrize(
    ("kind", "gpu", "weights"),
    [
        (ENGINE, "A100", "int8_smoothquant"),
        (ENGINE, "A10G", "int8_smoothquant"),
        (ENGINE, "L4", "fp8"),
        (ENGINE, "H100", "fp8"),
        (ENGINE, "B200", "fp8"),
        (TORCH, "A100", "int4_awq"),
        (TORCH, "H200", "fp8"),
        (TORCH, "B200", "fp8"),
    ],
)
def test_what_is_chosen_for_a_gpu(kind: str, gpu: str, weights: str) -> None:
    assert choose(kind, GPUS[gpu]).weights == weights


def test_a_choice_says_what_was_passed_over() -> None:
    reason = choose(TORCH, "8.0").reason
    assert reason.startswith("int4_awq (INT4 weights")
    assert "not fp8: fp8 needs compute capability 8.9 or newer; this GPU has 8.0" in reason
    assert "not int8_smoothquant: TensorRT-LLM's PyTorch backend has no W8A8 SmoothQuant layers" in reason


@pytest.mark.parametrize("capability", ["8.0", "8.9", "9.0", "10.0", "12.0"])
def test_int8_is_the_engine_lines_alone(capability: str) -> None:
    for weights in ("int8_smoothquant", "int8_weight_only"):
        assert refusal(ENGINE, weights, capability) is None
        assert "the engine line (tensorrt_llm) has" in str(refusal(TORCH, weights, capability))


def test_fp8_begins_at_8_9_and_awq_ends_at_9_0_in_the_pytorch_backend() -> None:
    taken = {gpu for gpu, capability in GPUS.items() if refusal(TORCH, "fp8", capability) is None}
    assert taken == {"L4", "L40S", "H100", "H200", "H20", "B200", "GB200", "B300", "GB300", "RTX-PRO-6000"}
    grouped = {gpu for gpu, capability in GPUS.items() if refusal(TORCH, "int4_awq", capability) is None}
    assert grouped == {"A100", "A10G", "L4", "L40S", "H100", "H200", "H20"}


@pytest.mark.parametrize("gpu", ["V100", "T4"])
def test_gpus_before_ampere_get_no_engine(gpu: str) -> None:
    with pytest.raises(ValueError, match=f"supports the compute capabilities 8.0, .*; this GPU has {GPUS[gpu]}"):
        choose(ENGINE, GPUS[gpu])


def test_unknown_words_are_refused() -> None:
    assert "choose one of fp16, fp8" in str(refusal(ENGINE, "int3", "9.0"))
    assert refusal(ENGINE, "fp8", "hopper") == "'hopper' is no compute capability such as 8.9"


def test_what_is_chosen_is_never_refused_and_the_documentation_shows_the_table() -> None:
    for kind in (ENGINE, TORCH):
        for capability in set(GPUS.values()) - {"7.0", "7.5"}:
            assert refusal(kind, choose(kind, capability).weights, capability) is None
    assert markdown_table() in (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert all(made.meaning in (ROOT / "docs" / "engines.md").read_text(encoding="utf-8") for made in FORMATS.values())

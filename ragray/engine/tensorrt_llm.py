"""Engines for NVIDIA GPUs by TensorRT-LLM: what is planned, the commands, and what they must leave behind.

In: a merged checkpoint on a machine with the GPU. Out: for `tensorrt_llm` a TensorRT engine of release 1.2.1, the last
stable one with trtllm-build; for `tensorrt_llm_torch` (from 1.3 on, where nothing is built) the quantized checkpoint.

    ModelOpt (its environment)      -> checkpoint          modelopt_task.py
    trtllm-build (its environment)  -> rank0.engine        `build_argv`
    LLM API (the same environment)  -> answers             tensorrt_llm_runtime.py

Checked argument by argument on 2026-11-26 against tensorrt_llm/commands/build.py and plugin/plugin.py of the 1.2 line:
the file with 1.2's pydantic BuildConfig and PluginConfig, between 1.2.0rc2 and 1.2.1. The text of tag v1.2.1 itself
could not be had. No call was run on a GPU in this project's tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragray.engine.compat_config import read_json
from ragray.engine.protocol import EngineSpec, Limits
from ragray.errors import EngineError

VERSION = "1.2.1"
TORCH_VERSION = "1.3"  # the first release of the PyTorch backend alone
NOT_RUN = "written against the documented interface; no call of TensorRT-LLM was run on a GPU in this project's tests"
_MOST_STEP_TOKENS = 8192  # trtllm-build's own default


@dataclass(frozen=True, slots=True)
class LoraLimits:
    """What LoRA adapters an engine takes when it runs."""

    max_rank: int
    modules: tuple[str, ...] = ("attn_q", "attn_k", "attn_v")  # TensorRT-LLM's names


def plan_limits(spec: EngineSpec) -> Limits:
    """Limits to compile for; the tokens of one step hold a whole prompt beside one of every other sequence."""
    tokens = spec.max_batch_size * spec.max_input_tokens
    return Limits(
        max_batch_size=spec.max_batch_size,
        max_input_tokens=spec.max_input_tokens,
        max_sequence_tokens=spec.max_input_tokens + spec.max_new_tokens,
        max_num_tokens=max(spec.max_input_tokens + spec.max_batch_size, min(_MOST_STEP_TOKENS, tokens)),
    )


def plugins(weights: str, lora: LoraLimits | None = None) -> dict[str, str]:
    """Plugin arguments: KV-cache reuse needs paged context attention, adapters need the LoRA plugin.

    The GEMM plugin serves layers that are not quantized; for FP8 it is left to TensorRT.
    """
    made = {"gemm_plugin": "disable" if weights == "fp8" else "auto", "use_paged_context_fmha": "enable"}
    return made | ({"lora_plugin": "auto"} if lora else {})


def build_argv(
    python: str, checkpoint: Path, out: Path, limits: Limits, weights: str, lora: LoraLimits | None = None
) -> tuple[str, ...]:
    """The command of trtllm-build, as a module of its environment's Python.

    All limits are passed: the defaults (2048 sequences, 1024 tokens of a prompt) are for no one. The timing cache is
    named, as by default it is written into the working directory.
    """
    values: dict[str, Any] = {
        "checkpoint_dir": checkpoint,
        "output_dir": out,
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_tokens,
        "max_seq_len": limits.max_sequence_tokens,
        "max_num_tokens": limits.max_num_tokens,
        "max_beam_width": 1,
        "kv_cache_type": "paged",
        "output_timing_cache": checkpoint.parent / "timing.cache",
        "workers": 1,
        "log_level": "info",
    } | plugins(weights, lora)
    argv = [python, "-m", "tensorrt_llm.commands.build"]
    for name, value in values.items():
        argv += [f"--{name}", str(value)]
    if lora:
        argv += ["--max_lora_rank", str(lora.max_rank), "--lora_target_modules", *lora.modules]
    return tuple(argv)


def check_engine(folder: Path, limits: Limits) -> str:
    """Check what trtllm-build wrote; the release that wrote it.

    Raises:
        EngineError: files are missing, or the engine has other limits.
    """
    try:
        config = read_json(folder / "config.json")
    except ValueError as error:
        raise EngineError(f"trtllm-build left no engine: {error}", "read the build's log") from None
    built = config.get("build_config") or {}
    expected = {
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_tokens,
        "max_seq_len": limits.max_sequence_tokens,
        "max_num_tokens": limits.max_num_tokens,
    }
    wrong = [f"{key} {built.get(key)} instead of {right}" for key, right in expected.items() if built.get(key) != right]
    if not (folder / "rank0.engine").is_file():
        wrong.append("no rank0.engine")
    if config.get("version") != VERSION:
        wrong.append(f"version {config.get('version')} instead of {VERSION}")
    if wrong:
        raise EngineError(f"{folder}: trtllm-build left {'; '.join(wrong)}", "read the build's log")
    return VERSION

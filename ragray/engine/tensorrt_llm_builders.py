"""The builders of TensorRT-LLM engines: ModelOpt and trtllm-build, each in its own environment.

In: a `BuildOrder` on a machine with the GPU. Out: an engine's folder: `engine/` (the compiled engine; not for
`tensorrt_llm_torch`) and `model/` (configuration, tokenizer; for `tensorrt_llm_torch` the quantized weights too).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.engine.commands import run_logged
from ragray.engine.compat import export_compat
from ragray.engine.compat_config import read_json
from ragray.engine.gpu_policy import ENGINE, FORMATS, TORCH, choose, refusal
from ragray.engine.modelopt import PINS, TASK, TRTLLM_FOLDER, check_checkpoint
from ragray.engine.protocol import (
    BuildOrder,
    BuildPlan,
    BuiltEngine,
    DeviceInfo,
    EngineSpec,
    Environment,
    SamplingParams,
)
from ragray.engine.tensorrt_llm import (
    NOT_RUN,
    TORCH_VERSION,
    VERSION,
    LoraLimits,
    build_argv,
    check_engine,
    plan_limits,
    plugins,
)
from ragray.errors import EngineError

if TYPE_CHECKING:
    from ragray.engine.manifest import EngineManifest

ENGINE_FOLDER, MODEL_FOLDER = "engine", "model"
MODELOPT = Environment("modelopt", PINS)


class TensorRtLlmBuilder:
    """A TensorRT engine for one type of GPU, by release 1.2.1.

    Args:
        lora: adapters that engines shall take; part of `version`, and so of an engine's key.
    """

    name = ENGINE

    def __init__(self, lora: LoraLimits | None = None) -> None:
        self.lora = lora

    def version(self) -> str:
        """Versions of everything that decides the engine's bytes."""
        adapters = f" lora={self.lora.max_rank}:{','.join(self.lora.modules)}" if self.lora else ""
        return f"nvidia-modelopt=={PINS['nvidia-modelopt']} tensorrt_llm=={VERSION}{adapters}"

    def environment(self) -> tuple[Environment, ...]:
        """ModelOpt's and TensorRT-LLM's, which cannot be one."""
        return (MODELOPT, Environment(ENGINE, {"tensorrt_llm": VERSION}))

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        """None, or the reason why this engine cannot be built for `device`."""
        return unsupported(self.name, device, spec)

    def plan(self, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
        """The weights that were asked for, or those that suit the GPU; all limits."""
        return planned(self.name, device, spec)

    def build(self, order: BuildOrder, out: Path) -> BuiltEngine:
        """Quantize, compile, check."""
        weights = order.plan.weights
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".work-") as name:
            work = Path(name)
            facts, quantized = run_modelopt(order, work)
            checkpoint = work / "checkpoint" / TRTLLM_FOLDER
            check_checkpoint(checkpoint, weights, read_json(order.checkpoint / "config.json"))
            python = order.interpreters[ENGINE]
            argv = build_argv(python, checkpoint, out / ENGINE_FOLDER, order.plan.limits, weights, self.lora)
            run_logged(argv, order.log, cwd=work)
        version = check_engine(out / ENGINE_FOLDER, order.plan.limits)
        export_compat(order.checkpoint, out / MODEL_FOLDER, weights=False)
        return BuiltEngine(
            format="tensorrt",
            quantization=FORMATS[weights].algorithm,
            kv_cache="float16",
            runtime={},  # TensorRT-LLM is not in the environment that loads; its own process checks the release
            versions=facts["versions"] | {"tensorrt_llm": version},
            plugins=plugins(weights, self.lora),
            lora={"max_rank": self.lora.max_rank, "modules": list(self.lora.modules)} if self.lora else None,
            calibration=facts["calibration"],
            commands=(quantized, argv),
        )

    def verify(
        self, order: BuildOrder, manifest: EngineManifest, out: Path, prompts: Sequence[Sequence[int]], tokens: int
    ) -> list[tuple[int, ...]]:
        """Load what was built in its environment and answer the prompts greedily."""
        return greedy(order, manifest, out, prompts, tokens)


class TensorRtLlmTorchBuilder:
    """A quantized checkpoint for TensorRT-LLM's PyTorch backend, from release 1.3 on: there is nothing to compile."""

    name = TORCH

    def version(self) -> str:
        """Versions of everything that decides the engine's bytes."""
        return f"nvidia-modelopt=={PINS['nvidia-modelopt']}"

    def environment(self) -> tuple[Environment, ...]:
        """ModelOpt's, and TensorRT-LLM's to verify."""
        return (MODELOPT, Environment(TORCH, {"tensorrt_llm": TORCH_VERSION}))

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        """None, or the reason why this engine cannot be built for `device`."""
        return unsupported(self.name, device, spec)

    def plan(self, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
        """The weights that were asked for, or those that suit the GPU; all limits."""
        return planned(self.name, device, spec)

    def build(self, order: BuildOrder, out: Path) -> BuiltEngine:
        """Quantize; the checkpoint is the engine."""
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".work-") as name:
            facts, quantized = run_modelopt(order, Path(name))
            made = Path(name) / "checkpoint"
            shutil.rmtree(made / TRTLLM_FOLDER, ignore_errors=True)
            export_compat(order.checkpoint, out / MODEL_FOLDER, weights=False)
            for path in sorted(made.iterdir()):
                shutil.move(path, out / MODEL_FOLDER / path.name)
        return BuiltEngine(
            format="huggingface_modelopt",
            quantization=FORMATS[order.plan.weights].algorithm,
            kv_cache="float16",
            runtime={},
            versions=facts["versions"],
            calibration=facts["calibration"],
            commands=(quantized,),
        )

    def verify(
        self, order: BuildOrder, manifest: EngineManifest, out: Path, prompts: Sequence[Sequence[int]], tokens: int
    ) -> list[tuple[int, ...]]:
        """Load the checkpoint in TensorRT-LLM's environment and answer the prompts greedily."""
        return greedy(order, manifest, out, prompts, tokens)


def unsupported(kind: str, device: DeviceInfo, spec: EngineSpec) -> str | None:
    """None, or why a kind of TensorRT-LLM engine cannot be built for a device."""
    if device.type == "cpu":
        return f"the {kind} engine runs on NVIDIA GPUs, not on cpu"
    if device.compute_capability is None:
        return f"the {kind} engine needs the compute capability of {device.type}, which nvidia-smi did not tell"
    if device.arch not in ("x86_64", "aarch64"):
        return f"TensorRT-LLM has no release for {device.arch}"
    return refusal(kind, spec.weights or "fp16", device.compute_capability)


def planned(kind: str, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
    """What will be built for a supported device, with the reason for its weights and what was not tried."""
    assert device.compute_capability is not None  # `unsupported` was asked first
    weights, reason = spec.weights, f"{spec.weights} was asked for"
    if weights is None:
        chosen = choose(kind, device.compute_capability)
        weights, reason = chosen.weights, chosen.reason
    return BuildPlan(weights=weights, limits=plan_limits(spec), reason=f"{reason}. Mind: {NOT_RUN}")


def run_modelopt(order: BuildOrder, work: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Quantize the merged model into `work/checkpoint`; ModelOpt's facts and the command.

    Calibrated on the order's training examples, else on the fixed prompts of verification.

    Raises:
        EngineError: ModelOpt's environment or the model does not suit, or the command failed.
    """
    from ragray.engine.tokens import load_tokenizer
    from ragray.engine.verification import fixed_prompts

    out, asked, told = work / "checkpoint", work / "request.json", work / "result.json"
    out.mkdir()
    request = {
        "schema": 1,
        "step": "quantize",
        "method": FORMATS[order.plan.weights].method,
        "model": str(order.checkpoint.resolve()),
        "out": str(out.resolve()),
        "calibration": order.calibration or fixed_prompts(load_tokenizer(order.checkpoint)),
        "threads": order.settings.cpu_threads,
    }
    asked.write_text(json.dumps(request), encoding="utf-8")
    argv = (order.interpreters[MODELOPT.name], "-I", str(TASK), str(asked), str(told))
    run_logged(argv, order.log, cwd=work)
    result: Mapping[str, Any] = read_json(told)
    if error := result.get("error"):
        raise EngineError(f"ModelOpt: {error['message']}", error["fix"])
    return dict(result["facts"]), argv


def greedy(
    order: BuildOrder, manifest: EngineManifest, out: Path, prompts: Sequence[Sequence[int]], tokens: int
) -> list[tuple[int, ...]]:
    """An engine's most probable answers, from its own environment."""
    from ragray.engine.tensorrt_llm_engine import TensorRtLlmEngine

    engine = TensorRtLlmEngine(out, manifest, order.settings, order.interpreters[manifest.builder])
    try:
        return [answer.token_ids for answer in engine.generate(prompts, SamplingParams(max_new_tokens=tokens))]
    finally:
        engine.close()

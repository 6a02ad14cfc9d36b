"""The quantization methods, by name; see `quantize_protocol.Method`.

In: a `Request`. Out: files, and what they load as. bitsandbytes repacks NF4 weights in the first forward pass on
CPUs with AVX512-BF16, and what is saved after that is wrong without any error; so a model is saved by `save_fresh`
alone, which refuses one that was run.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragray.engine import modelopt
from ragray.engine.manifest import installed
from ragray.engine.quantize_protocol import LocalMethod, Method, Plan, Request, Scorer
from ragray.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ragray.config_quantize import QuantizeConfig
    from ragray.engine.protocol import Engine

FULL_MODEL = "full"
_BASE_BYTES = 2**30  # of interpreter, torch and libraries


@dataclass(frozen=True, slots=True)
class _Here:
    """What methods of this interpreter share."""

    name: str
    bits: int
    used_by: str
    memory_factor: float  # of the full model's bytes, at the peak
    calibrated: bool = False

    def plan(self, model_bytes: int, settings: QuantizeConfig) -> Plan:
        """Memory for the full model, what is made of it, and both read side by side."""
        return Plan(_BASE_BYTES + int(self.memory_factor * model_bytes))

    def program(self, settings: QuantizeConfig) -> list[str]:
        """This interpreter."""
        return [sys.executable, "-m", "ragray.engine.quantize_process"]


@dataclass(frozen=True, slots=True)
class _Transformers(_Here):
    """Methods whose folder transformers loads."""

    def load(self, request: Request) -> Engine:
        """The reference engine on the folder."""
        from ragray.engine.transformers_runtime import load_model_folder

        return load_model_folder(request.out, request.batch_size, request.threads)

    def scorer(self, request: Request, engine: Engine) -> Scorer:
        """The engine's own model."""
        from ragray.engine.transformers_runtime import TransformersEngine

        assert isinstance(engine, TransformersEngine)
        return engine.log_probabilities


@dataclass(frozen=True, slots=True)
class FullModel(_Transformers):
    """The model itself, as what the others are measured against."""

    def quantize(self, request: Request) -> dict[str, Any]:
        """Nothing to do: `request.out` is the model's folder."""
        return {"algorithm": "none", "versions": installed("torch", "transformers")}


@dataclass(frozen=True, slots=True)
class BitsAndBytes(_Transformers):
    """Linear layers quantized by bitsandbytes; embedding and output layer stay.

    Source: Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale"; Dettmers et
    al. 2023, "QLoRA", section 3: 4-bit NormalFloat, and quantization of the quantization constants.
    """

    number: Literal["int8", "nf4"] = "int8"

    def quantize(self, request: Request) -> dict[str, Any]:
        """Quantize while loading, and save before anything is computed."""
        if importlib.util.find_spec("bitsandbytes") is None:
            raise EngineError(f"{self.name} needs the package bitsandbytes", "pip install 'ragray[quantize]'")
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        options: dict[str, Any] = {"load_in_8bit": True}
        if self.number == "nf4":
            options = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": torch.float32,
            }
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            request.model,
            quantization_config=BitsAndBytesConfig(**options),  # type: ignore[no-untyped-call]
            dtype=torch.float32,
            local_files_only=True,
        )
        save_fresh(model, Path(request.out))
        algorithm = "LLM.int8" if self.number == "int8" else "NF4, double quantization"
        return {"algorithm": algorithm, "versions": installed("bitsandbytes", "torch", "transformers")}


def save_fresh(model: PreTrainedModel, out: Path) -> None:
    """Save a model that bitsandbytes quantized and that nothing was computed with.

    Raises:
        EngineError: its weights were repacked by a forward pass; they would be written wrongly.
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise EngineError(
                f"{name}: was repacked by a forward pass, and would be saved wrongly",
                "load the model anew and save it before it computes anything",
            )
    model.save_pretrained(out)


@dataclass(frozen=True, slots=True)
class WeightOnly(_Transformers):
    """Weights in int8 by torch alone; see `weight_only`."""

    def quantize(self, request: Request) -> dict[str, Any]:
        """Round every row to its scale."""
        from ragray.engine.transformers_runtime import load_model
        from ragray.engine.weight_only import save_int8

        save_int8(load_model(Path(request.model)), Path(request.out))
        return {"algorithm": "int8 weights, symmetric, a scale for each row", "versions": installed("torch")}


@dataclass(frozen=True, slots=True)
class OpenVino(_Here):
    """The CPU engine's compressed weights; see `openvino_export`."""

    weights: Literal["int8", "int4"] = "int8"

    def quantize(self, request: Request) -> dict[str, Any]:
        """Export and compress; calibrated methods look at the training examples."""
        versions = installed("nncf", "openvino", "openvino-genai", "torch", "transformers")
        from ragray.engine.openvino_export import export

        seen = request.material.calibration if self.calibrated else ()
        if self.calibrated and not seen:
            raise EngineError(
                f"{self.name}: there is no training example to calibrate it on",
                "run `ragray augment`, or leave the method out of quantize.methods",
            )
        export(Path(request.model), self.weights, Path(request.out), seen)
        algorithm = {"int8": "int8, asymmetric, a scale for each row", "int4": "int4, symmetric, groups of 64"}
        how = f"{algorithm[self.weights]}{', AWQ and scale estimation' if seen else ''}"
        return {
            "algorithm": how,
            "calibration_examples": len(seen),
            "versions": versions,
        }

    def load(self, request: Request) -> Engine:
        """An engine with the default settings."""
        from ragray.config import EngineConfig
        from ragray.engine.openvino_runtime import OpenVinoEngine
        from ragray.engine.openvino_scorer import unverified_manifest

        settings = EngineConfig(cpu_threads=request.threads, max_batch_size=request.batch_size)
        manifest = unverified_manifest(Path(request.model), self.weights)
        return OpenVinoEngine(Path(request.out), manifest, settings)

    def scorer(self, request: Request, engine: Engine) -> Scorer:
        """The same files once more, as a plain model: the engine gives tokens alone."""
        from ragray.engine.openvino_scorer import load_scorer

        engine.close()
        return load_scorer(Path(request.out), request.threads)


@dataclass(frozen=True, slots=True)
class EnvironmentMethod:
    """A method of another Python environment: `script` runs there, without ragray, and reads and writes the JSON."""

    name: str
    bits: int
    used_by: str
    environment: Literal["modelopt"]  # its interpreter: quantize.environments.<environment>
    script: Path
    requirement: str  # the file that says what to install there
    memory_factor: float = 4.0
    calibrated: bool = True

    def plan(self, model_bytes: int, settings: QuantizeConfig) -> Plan:
        """Refused where no interpreter is named."""
        memory = _BASE_BYTES + int(self.memory_factor * model_bytes)
        if self.environment in settings.environments:
            return Plan(memory)
        return Plan(
            memory,
            f"{self.name} runs in an environment of its own, which quantize.environments does not name",
            f"install {self.requirement} into one, and set quantize.environments.{self.environment} to its python",
        )

    def program(self, settings: QuantizeConfig) -> list[str]:
        """The other interpreter, without this one's path."""
        return [settings.environments[self.environment], "-I", str(self.script)]


_TRANSFORMERS = "transformers, as a Hugging Face folder"
FULL = FullModel(FULL_MODEL, 32, _TRANSFORMERS, 2.0)
_LOCAL: tuple[LocalMethod, ...] = (
    BitsAndBytes("bitsandbytes_int8", 8, _TRANSFORMERS, 3.0),
    BitsAndBytes("bitsandbytes_nf4", 4, _TRANSFORMERS, 3.0, number="nf4"),
    WeightOnly("int8_weight_only", 8, "ragray's transformers engine", 3.0),
    OpenVino("openvino_int8", 8, "the engine: engine.kind=openvino engine.weights=int8", 4.0),
    OpenVino("openvino_int4", 4, "the engine: engine.kind=openvino engine.weights=int4", 4.0, weights="int4"),
    OpenVino("openvino_int4_awq", 4, "OpenVINO GenAI, as an IR folder", 5.0, calibrated=True, weights="int4"),
)
LOCAL: Mapping[str, LocalMethod] = {method.name: method for method in (FULL, *_LOCAL)}
_MODELOPT: tuple[Method, ...] = tuple(
    EnvironmentMethod(
        made.method, made.bits, modelopt.used_by(made), "modelopt", modelopt.TASK, modelopt.REQUIREMENT,
        calibrated=modelopt.RECIPES[made.method].calibrated,
    )
    for made in modelopt.QUANTIZED
)  # fmt: skip
METHODS: Mapping[str, Method] = {method.name: method for method in [*_LOCAL, *_MODELOPT]}

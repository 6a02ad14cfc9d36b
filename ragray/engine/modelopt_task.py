"""One ModelOpt quantization, run by the interpreter of an environment that has ModelOpt; it imports no ragray.

    python -I modelopt_task.py REQUEST.json RESULT.json

In: a request to quantize a model, or to measure what was written (`modelopt_stored`). Out: a Hugging Face folder, for
TensorRT-LLM's PyTorch backend and vLLM, and below it `tensorrt_llm/`, a checkpoint for trtllm-build; or figures against
the full model.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
TRTLLM_FOLDER = "tensorrt_llm"  # of the checkpoint for trtllm-build, in the folder that is written
AWQ_GROUP = 128  # inputs that share a scale
PINS = {"nvidia-modelopt": "0.47.0", "transformers": "5.14"}  # "5.14" accepts every 5.14.x
MAKE = "python3.11 -m venv modelopt && modelopt/bin/pip install -r deploy/modelopt.txt"


@dataclass(frozen=True)
class Recipe:
    """How a method is called in ModelOpt and in TensorRT-LLM."""

    preset: str | None  # in modelopt.torch.quantization; None: nothing is quantized
    algorithm: str | None  # TensorRT-LLM's quant_algo
    calibrated: bool = True


RECIPES = {
    "modelopt_int8_smoothquant": Recipe("INT8_SMOOTHQUANT_CFG", "W8A8_SQ_PER_CHANNEL"),
    "modelopt_int8_weight_only": Recipe("INT8_WEIGHT_ONLY_CFG", "W8A16", calibrated=False),
    "modelopt_fp8": Recipe("FP8_DEFAULT_CFG", "FP8"),
    "modelopt_int4_awq": Recipe("INT4_AWQ_CFG", "W4A16_AWQ"),
    "modelopt_fp16": Recipe(None, None, calibrated=False),
}


class TaskError(Exception):
    """What cannot be done, and what to do about it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def main(arguments: Sequence[str]) -> None:
    """Read the request, do it, and write the result."""
    request_path, result_path = map(Path, arguments)
    request = json.loads(request_path.read_text(encoding="utf-8"))
    try:
        result = run(request)
    except TaskError as error:
        result = {"error": {"message": error.message, "fix": error.fix}}
    result_path.write_text(json.dumps({"schema": SCHEMA} | result, indent=2) + "\n", encoding="utf-8")


def run(request: dict[str, Any]) -> dict[str, Any]:
    """The result of a request, without its schema.

    Raises:
        TaskError: the environment, the method or the model does not suit.
    """
    versions = check_environment()
    if request["method"] not in RECIPES:
        raise TaskError(f"no ModelOpt method {request['method']!r}", f"choose one of {', '.join(RECIPES)}")
    import torch

    torch.set_num_threads(max(1, int(request["threads"])))
    if request["step"] == "measure":
        try:
            return {"measured": sibling("modelopt_stored").measure(load_full(Path(request["model"])), request)}
        except ValueError as error:
            raise TaskError(str(error), "quantize again; give examples of the validation split") from None
    return {"facts": quantize(request) | {"versions": versions}, "measured": None}


def check_environment() -> dict[str, str]:
    """Versions of the packages that take part.

    Raises:
        TaskError: one is missing or of a version that was not tried.
    """
    found: dict[str, str] = {}
    for package in (*PINS, "torch", "safetensors"):
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            raise TaskError(f"{sys.executable}: {package} is not installed", MAKE) from None
    for package, needed in PINS.items():
        if found[package] != needed and not found[package].startswith(f"{needed}."):
            raise TaskError(f"{sys.executable}: {package} {found[package]} is installed, needed is {needed}", MAKE)
    return found


def quantize(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize a model and write both layouts; facts about what was done."""
    import modelopt.torch.quantization as mtq

    recipe, folder, out = RECIPES[request["method"]], Path(request["model"]), Path(request["out"])
    calibration = request["calibration"]
    if recipe.calibrated and not calibration:
        raise TaskError(f"{request['method']} needs calibration sequences", "give it some of the training set's")
    model = load_full(folder)
    full = copy.deepcopy(model) if recipe.algorithm == "W8A16" else None
    if recipe.algorithm == "W4A16_AWQ":
        check_groups(model)
    if recipe.preset is not None:
        preset = getattr(mtq, recipe.preset)
        model = mtq.quantize(model, preset, lambda quantized: calibrate(quantized, calibration))
    layouts = ["huggingface"]
    config = compat().read_json(folder / "config.json")
    if config["model_type"] in compat().DECODERS:
        # trtllm-build quantizes float16 weights to INT8 itself; what ModelOpt exports for it would not be read.
        export_trtllm(full or model, config, out / TRTLLM_FOLDER, recipe)
        layouts.append("tensorrt_llm")
    export_huggingface(model, recipe, out)
    return {
        "algorithm": recipe.algorithm or "none",
        "number_format": "float16",
        "layouts": layouts,
        "calibration_sequences": len(calibration) if recipe.calibrated else 0,
        "calibration": digest(calibration) if recipe.calibrated else None,
    }


def calibrate(model: Any, sequences: Sequence[Sequence[int]]) -> None:
    """Run the model over sequences of token ids, so that ModelOpt sees the range of every input."""
    import torch

    with torch.inference_mode():
        for sequence in sequences:
            model(torch.tensor([list(sequence)]))


def check_groups(model: Any) -> None:
    """Refuse a model whose layers cannot be cut into groups of `AWQ_GROUP` inputs."""
    import torch

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head" and layer.in_features % AWQ_GROUP:
            raise TaskError(
                f"INT4 AWQ shares a scale among {AWQ_GROUP} inputs; {name} has {layer.in_features}",
                "choose modelopt_int8_smoothquant or modelopt_fp8 for this model",
            )


def export_trtllm(model: Any, config: dict[str, Any], out: Path, recipe: Recipe) -> None:
    """Write `config.json` and `rank0.safetensors` for trtllm-build."""
    import torch
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    tools, vocabulary = compat(), model.config.vocab_size
    decoder = tools.DECODERS[config["model_type"]]
    # Its default of 0 GPUs ends in a division by zero.
    export_tensorrt_llm_checkpoint(model, decoder, torch.float16, out, inference_tensor_parallel=1)
    model.config.vocab_size = vocabulary  # INT4 AWQ pads it to a multiple of 64 for this layout alone
    made = tools.trtllm_config(tools.read_json(out / "config.json"), config)
    if recipe.algorithm == "W8A16":
        made = tools.weight_only(made, "W8A16")
    (out / "quant_cfg.json").unlink(missing_ok=True)  # written for a model without quantized layers; says nothing
    tools.write_json(out / "config.json", made)


def export_huggingface(model: Any, recipe: Recipe, out: Path) -> None:
    """Write the Hugging Face layout; what is not quantized in float16."""
    from modelopt.torch.export import export_hf_checkpoint
    from safetensors.torch import load_file, save_file

    tools = compat()
    if recipe.preset is None:
        model.half().save_pretrained(out)
    else:
        export_hf_checkpoint(model, export_dir=out)
    for path in sorted(out.glob("*.safetensors")):
        tensors = {name: halved(name, tensor) for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    config = tools.read_json(out / "config.json") | {"dtype": "float16", "torch_dtype": "float16"}
    tools.write_json(out / "config.json", tools.compatible_config(config))


def halved(name: str, tensor: Any) -> Any:
    """A float32 weight or bias as float16; scales and quantized weights as they are."""
    import torch

    is_weight = name.endswith((".weight", ".bias")) and tensor.dtype == torch.float32
    return tensor.half().contiguous() if is_weight else tensor.contiguous()


def load_full(folder: Path) -> Any:
    """A folder's model in float32, for inference."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"{folder}: cannot be loaded: {error}", "name a merged model's folder") from None


def digest(sequences: Sequence[Sequence[int]]) -> str:
    """SHA-256 of the calibration sequences."""
    return hashlib.sha256(json.dumps([list(sequence) for sequence in sequences]).encode()).hexdigest()


def compat() -> Any:
    """The module compat_config."""
    return sibling("compat_config")


def sibling(name: str) -> Any:
    """A module beside this script, loaded by its path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None  # a file that exists
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


if __name__ == "__main__":
    main(sys.argv[1:])

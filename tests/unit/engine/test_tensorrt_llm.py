"""TensorRT-LLM up to the call: plan, command, checkpoint, environment, record, refusal; and the process that serves.

What stands in for TensorRT-LLM has its recorded interface and arithmetic for a model; see stand_in/.
"""

import json
import stat
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ragray.config import EngineConfig
from ragray.engine.build import model_facts
from ragray.engine.compat_config import trtllm_config
from ragray.engine.gpu_policy import FORMATS
from ragray.engine.manifest import EngineManifest, SourceDigests, files_below
from ragray.engine.modelopt import TASK, check_checkpoint
from ragray.engine.protocol import BuildOrder, DeviceInfo, EngineSpec
from ragray.engine.tensorrt_llm import (
    VERSION,
    LoraLimits,
    build_argv,
    check_engine,
    plan_limits,
)
from ragray.engine.tensorrt_llm_builders import TensorRtLlmBuilder, TensorRtLlmTorchBuilder
from ragray.errors import EngineError

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
INTERFACE = json.loads((HERE / "trtllm_build_interface.json").read_text())["arguments"]
CALIBRATION = ((5, 6, 7), (8, 9))
H100 = DeviceInfo(type="H100", arch="x86_64", name="NVIDIA H100 80GB HBM3", compute_capability="9.0")
A100 = DeviceInfo(type="A100", arch="x86_64", name="NVIDIA A100-SXM4-40GB", compute_capability="8.0")
SPEC = EngineSpec(weights=None, max_batch_size=4, max_input_tokens=300, max_new_tokens=40)
LORA = LoraLimits(max_rank=8)


def given(argv: tuple[str, ...]) -> dict[str, list[str]]:
    """The values of each argument of a command."""
    found: dict[str, list[str]] = {}
    for word in argv[argv.index("tensorrt_llm.commands.build") + 1 :]:
        if word.startswith("--"):
            name = word.removeprefix("--")
            assert name not in found, f"--{name} twice"
            found[name] = []
        else:
            found[name].append(word)
    return found


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("weights", list(FORMATS))
def test_every_argument_is_one_of_trtllm_builds(weights: str, lora: LoraLimits | None) -> None:
    argv = build_argv("python", Path("/w/checkpoint/tensorrt_llm"), Path("/out"), plan_limits(SPEC), weights, lora)
    for name, values in given(argv).items():
        argument = INTERFACE[name]
        assert not argument.get("deprecated"), name
        assert len(values) == 1 or argument.get("many"), name
        assert argument["type"] != "int" or all(value.isdigit() for value in values), name
        assert not argument.get("choices") or set(values) <= set(argument["choices"]), name


def test_the_command_sets_every_limit_block_reuse_and_lora() -> None:
    argv = build_argv("/env/bin/python", Path("/w/checkpoint"), Path("/out"), plan_limits(SPEC), "int4_awq", LORA)
    assert argv[:3] == ("/env/bin/python", "-m", "tensorrt_llm.commands.build")
    assert {name: " ".join(values) for name, values in given(argv).items()} == {
        "checkpoint_dir": "/w/checkpoint", "output_dir": "/out", "max_batch_size": "4", "max_input_len": "300",
        "max_seq_len": "340", "max_num_tokens": "1200", "max_beam_width": "1", "kv_cache_type": "paged",
        "output_timing_cache": "/w/timing.cache", "workers": "1", "log_level": "info", "gemm_plugin": "auto",
        "use_paged_context_fmha": "enable", "lora_plugin": "auto", "max_lora_rank": "8",
        "lora_target_modules": "attn_q attn_k attn_v",
    }  # fmt: skip
    plain = given(build_argv("python", Path("/w/c"), Path("/out"), plan_limits(SPEC), "fp8"))
    assert plain["gemm_plugin"] == ["disable"] and not [name for name in plain if "lora" in name]


@pytest.mark.parametrize(("batch", "prompt", "step"), [(1, 100, 101), (64, 2048, 8192), (64, 16000, 16064)])
def test_a_step_holds_the_longest_prompt_beside_the_others(batch: int, prompt: int, step: int) -> None:
    limits = plan_limits(EngineSpec(weights=None, max_batch_size=batch, max_input_tokens=prompt, max_new_tokens=512))
    assert (limits.max_num_tokens, limits.max_sequence_tokens) == (step, prompt + 512)


def test_the_plan_names_weights_limits_and_what_was_not_run() -> None:
    plan = TensorRtLlmBuilder().plan(A100, SPEC)
    assert plan.weights == "int8_smoothquant" and plan.limits == plan_limits(SPEC)
    assert "not fp8: fp8 needs compute capability 8.9" in plan.reason
    assert "no call of TensorRT-LLM was run on a GPU" in plan.reason
    assert TensorRtLlmTorchBuilder().plan(A100, SPEC).weights == "int4_awq"


@pytest.mark.parametrize(
    ("device", "weights", "says"),
    [
        (DeviceInfo(type="cpu", arch="x86_64", name="x"), None, "runs on NVIDIA GPUs, not on cpu"),
        (DeviceInfo(type="H100", arch="x86_64", name="x"), None, "which nvidia-smi did not tell"),
        (DeviceInfo(type="T4", arch="x86_64", name="x", compute_capability="7.5"), None, "this GPU has 7.5"),
        (A100, "fp8", "fp8 needs compute capability 8.9"),
        (DeviceInfo(type="H100", arch="ppc64le", name="x", compute_capability="9.0"), None, "no release for ppc64le"),
    ],
)
def test_devices_and_weights_that_do_not_go_together_are_refused(
    device: DeviceInfo, weights: str | None, says: str
) -> None:
    spec = EngineSpec(weights=weights, max_batch_size=1, max_input_tokens=8, max_new_tokens=8)
    for builder in (TensorRtLlmBuilder(), TensorRtLlmTorchBuilder()):
        assert says in str(builder.supports(device, spec))
        assert builder.supports(H100, SPEC) is None


def test_the_key_holds_versions_and_adapters() -> None:
    assert TensorRtLlmBuilder().version() == "nvidia-modelopt==0.47.0 tensorrt_llm==1.2.1"
    assert TensorRtLlmBuilder(LORA).version().endswith(" lora=8:attn_q,attn_k,attn_v")
    names = [environment.name for environment in TensorRtLlmBuilder().environment()]
    assert names == ["modelopt", "tensorrt_llm"]


def write_checkpoint(folder: Path, model_config: dict, algorithm: str | None) -> None:
    """What ModelOpt writes for trtllm-build, as recorded of 0.47.0, with a tensor in place of the model's."""
    import torch

    folder.mkdir(parents=True)
    exported = {
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "architecture": "LlamaForCausalLM",
        "dtype": "float16",
        "num_hidden_layers": model_config["num_hidden_layers"],
        "num_attention_heads": model_config["num_attention_heads"],
        "hidden_size": model_config["hidden_size"],
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]},
    }
    (folder / "config.json").write_text(json.dumps(trtllm_config(exported, model_config)))
    save_file({"transformer.ln_f.weight": torch.ones(2)}, folder / "rank0.safetensors")


def test_a_checkpoint_that_would_be_read_as_another_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    model_config = json.loads((model_folder / "config.json").read_text())
    model_config["rope_parameters"]["rope_theta"] = 1e6
    write_checkpoint(tmp_path / "c", model_config, "FP8")
    check_checkpoint(tmp_path / "c", "fp8", model_config)
    with pytest.raises(EngineError, match="quant_algo FP8 instead of W8A16"):
        check_checkpoint(tmp_path / "c", "int8_weight_only", model_config)
    path = tmp_path / "c" / "config.json"
    config = json.loads(path.read_text())
    del config["rotary_base"]
    config["quantization"]["mystery"] = 1
    path.write_text(json.dumps(config))
    (tmp_path / "c" / "rank0.safetensors").unlink()
    with pytest.raises(EngineError) as caught:
        check_checkpoint(tmp_path / "c", "fp8", model_config)
    said = caught.value.message
    assert "rotary_base None instead of 1000000.0" in said and "quantization.mystery, which it refuses" in said
    assert "no rank0.safetensors" in said


@pytest.fixture
def modelopt_python(tmp_path: Path, model_folder: Path) -> str:
    """A program that takes the place of ModelOpt's Python: it writes what the task script would."""
    program = tmp_path / "modelopt-python"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"sys.path[:0] = {[str(HERE), str(ROOT)]!r}\n"
        "from pathlib import Path\n"
        "from test_tensorrt_llm import fake_task\n"
        f"fake_task(Path({str(model_folder)!r}), *sys.argv[1:])\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def fake_task(model_folder: Path, isolated: str, script: str, asked: str, told: str) -> None:
    """Called by `modelopt_python` in its own process."""
    import torch

    assert isolated == "-I" and Path(script) == TASK
    request = json.loads(Path(asked).read_text())
    assert request["step"] == "quantize" and request["calibration"] == [list(ids) for ids in CALIBRATION]
    out, config = Path(request["out"]), json.loads((model_folder / "config.json").read_text())
    algorithm = next(made.algorithm for made in FORMATS.values() if made.method == request["method"])
    write_checkpoint(out / "tensorrt_llm", config, algorithm)
    (out / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_algo": algorithm}}))
    save_file({"model.norm.weight": torch.ones(2)}, out / "model.safetensors")
    facts = {"versions": {"nvidia-modelopt": "0.47.0"}, "calibration": "ab" * 32}
    Path(told).write_text(json.dumps({"schema": 1, "facts": facts, "measured": None}))
    sys.stdout.write("calibrated\n")


def order_for(builder, model_folder: Path, folder: Path, interpreters: dict[str, str], spec=SPEC) -> BuildOrder:
    return BuildOrder(
        checkpoint=model_folder, device=H100, spec=spec, plan=builder.plan(H100, spec), settings=EngineConfig(),
        log=folder / "build.log", interpreters=interpreters, calibration=CALIBRATION,
    )  # fmt: skip


def manifest_of(builder, order: BuildOrder, built, folder: Path) -> EngineManifest:
    return EngineManifest(
        builder=builder.name, builder_version=builder.version(), format=built.format, weights=order.plan.weights,
        quantization=built.quantization, kv_cache=built.kv_cache, model=model_facts(order.checkpoint),
        source=SourceDigests("a", "b", "c", calibration=built.calibration), device=order.device,
        runtime=dict(built.runtime), versions=dict(built.versions), files=files_below(folder),
        limits=order.plan.limits, plugins=built.plugins, lora=built.lora, commands=built.commands,
    )  # fmt: skip


@pytest.mark.parametrize("lora", [None, LORA])
def test_an_engine_is_quantized_compiled_checked_recorded_and_answers(
    model_folder: Path, tmp_path: Path, stand_in_python: str, modelopt_python: str, lora: LoraLimits | None
) -> None:
    builder, out = TensorRtLlmBuilder(lora), tmp_path / "artifact" / "engine"
    out.mkdir(parents=True)
    order = order_for(builder, model_folder, tmp_path, {"modelopt": modelopt_python, "tensorrt_llm": stand_in_python})
    built = builder.build(order, out)
    assert sorted(path.name for path in out.iterdir()) == ["engine", "model"] and not list(out.parent.glob(".work*"))
    assert built.format == "tensorrt" and built.quantization == "FP8" and built.calibration == "ab" * 32
    assert built.versions == {"nvidia-modelopt": "0.47.0", "tensorrt_llm": VERSION}
    assert [command[0] for command in built.commands] == [modelopt_python, stand_in_python]
    assert (built.lora or {}).get("max_rank") == (lora and 8)
    log = order.log.read_text()
    assert "calibrated" in log and "$ " + stand_in_python in log and "Total time of building all engines" in log
    manifest = manifest_of(builder, order, built, out.parent)
    manifest.write(tmp_path)
    assert EngineManifest.read(tmp_path) == manifest
    prompts = [[5, 6, 7], list(range(10, 40))]
    answers = builder.verify(order, manifest, out, prompts, 5)
    assert answers == [expected(prompt, 5) for prompt in prompts]


def test_the_pytorch_lines_engine_is_the_quantized_checkpoint(
    model_folder: Path, tmp_path: Path, stand_in_python: str, modelopt_python: str
) -> None:
    builder, out = TensorRtLlmTorchBuilder(), tmp_path / "artifact" / "engine"
    out.mkdir(parents=True)
    names = {"modelopt": modelopt_python, "tensorrt_llm_torch": stand_in_python}
    order = order_for(builder, model_folder, tmp_path, names)
    built = builder.build(order, out)
    assert built.format == "huggingface_modelopt" and len(built.commands) == 1
    assert not (out / "model" / "tensorrt_llm").exists()
    assert json.loads((out / "model" / "config.json").read_text())["quantization_config"] == {"quant_algo": "FP8"}
    assert json.loads((out / "model" / "tokenizer_config.json").read_text())["tokenizer_class"] == (
        "PreTrainedTokenizerFast"
    )
    manifest = manifest_of(builder, order, built, out.parent)
    assert builder.verify(order, manifest, out, [[5, 6, 7]], 4) == [expected([5, 6, 7], 4)]


def expected(prompt: list[int], tokens: int, adapter: int = 0, stops: tuple[int, ...] = (2,)) -> tuple[int, ...]:
    """What the stand-in generates."""
    whole = [(sum(prompt) + 7 * adapter + place) % 300 for place in range(tokens)]
    return tuple(whole[: next((place for place, token in enumerate(whole) if token in stops), tokens)])


def test_a_failing_command_says_its_last_lines(model_folder: Path, tmp_path: Path, modelopt_python: str) -> None:
    builder, out = TensorRtLlmBuilder(), tmp_path / "artifact" / "engine"
    out.mkdir(parents=True)
    without = order_for(builder, model_folder, tmp_path, {"modelopt": modelopt_python, "tensorrt_llm": sys.executable})
    with pytest.raises(EngineError, match=r"(?s)ended with code 1:.*No module named 'tensorrt_llm'"):
        builder.build(without, out)
    missing = order_for(builder, model_folder, tmp_path, {"modelopt": "/no/python", "tensorrt_llm": sys.executable})
    with pytest.raises(EngineError, match="/no/python cannot be started"):
        builder.build(missing, out)


def test_modelopts_own_refusal_reaches_the_user(model_folder: Path, tmp_path: Path) -> None:
    builder, out = TensorRtLlmBuilder(), tmp_path / "artifact" / "engine"
    out.mkdir(parents=True)
    order = order_for(builder, model_folder, tmp_path, {"modelopt": sys.executable, "tensorrt_llm": sys.executable})
    with pytest.raises(EngineError, match="nvidia-modelopt is not installed") as caught:
        builder.build(order, out)
    assert "pip install -r deploy/modelopt.txt" in caught.value.fix


def test_an_engine_with_other_limits_or_of_another_release_is_refused(tmp_path: Path) -> None:
    limits = plan_limits(SPEC)
    with pytest.raises(EngineError, match="trtllm-build left no engine"):
        check_engine(tmp_path, limits)
    build = {"max_batch_size": 4, "max_input_len": 300, "max_seq_len": 340, "max_num_tokens": 1200}
    (tmp_path / "rank0.engine").write_bytes(b"x")
    (tmp_path / "config.json").write_text(json.dumps({"version": VERSION, "build_config": build}))
    assert check_engine(tmp_path, limits) == VERSION
    (tmp_path / "config.json").write_text(json.dumps({"version": "1.2.0", "build_config": build | {"max_seq_len": 9}}))
    with pytest.raises(EngineError, match=r"max_seq_len 9 instead of 340; version 1\.2\.0 instead of 1\.2\.1"):
        check_engine(tmp_path, limits)

"""The engine in another process: tokens as they come, batching, cancelling, adapters, refusals.

The other process runs ragray's own runtime script; what stands in for TensorRT-LLM in it is in stand_in/.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ragray.config import EngineConfig
from ragray.engine.build import model_facts
from ragray.engine.compat import export_compat
from ragray.engine.manifest import EngineManifest, SourceDigests
from ragray.engine.protocol import DeviceInfo, Limits, SamplingParams
from ragray.engine.tensorrt_llm_engine import TensorRtLlmEngine, cache_tokens
from ragray.errors import EngineError

LIMITS = Limits(max_batch_size=4, max_input_tokens=300, max_sequence_tokens=340, max_num_tokens=1200)
LORA = {"max_rank": 8, "modules": ["attn_q"]}


@pytest.fixture
def files(model_folder: Path, tmp_path: Path) -> Path:
    """An engine's folder as the builder leaves it."""
    export_compat(model_folder, tmp_path / "files" / "model", weights=False)
    (tmp_path / "files" / "engine").mkdir()
    (tmp_path / "files" / "engine" / "rank0.engine").write_bytes(b"x")
    build = {"build_config": {"plugin_config": {"lora_plugin": "auto"}}}
    (tmp_path / "files" / "engine" / "config.json").write_text(json.dumps(build))
    return tmp_path / "files"


@pytest.fixture
def manifest(model_folder: Path) -> EngineManifest:
    return EngineManifest(
        builder="tensorrt_llm", builder_version="x", format="tensorrt", weights="fp8", quantization="FP8",
        kv_cache="float16", model=model_facts(model_folder), source=SourceDigests("a", "b", "c"),
        device=DeviceInfo(type="H100", arch="x86_64", name="x", compute_capability="9.0"), runtime={},
        versions={"tensorrt_llm": "1.2.1"}, files={}, limits=LIMITS, lora=LORA,
    )  # fmt: skip


def continued(prompt: list[int], tokens: int, adapter: int = 0) -> tuple[int, ...]:
    """What the stand-in generates; 2 ends it, the tokenizer's end of a turn."""
    whole = [(sum(prompt) + 7 * adapter + place) % 300 for place in range(tokens)]
    return tuple(whole[: whole.index(2)] if 2 in whole else whole)


def test_many_requests_share_the_batch_and_keep_their_order(
    stand_in_python: str, files: Path, manifest: EngineManifest
) -> None:
    engine = TensorRtLlmEngine(files, manifest, EngineConfig(), stand_in_python)
    prompts = [[n, n + 1, 3 * n] for n in range(5, 30)]
    answers = engine.generate(prompts, SamplingParams(max_new_tokens=7))
    assert [answer.token_ids for answer in answers] == [continued(prompt, 7) for prompt in prompts]
    assert [answer.text for answer in answers] == [
        engine.tokenizer.decode(list(answer.token_ids), skip_special_tokens=True) for answer in answers
    ]
    stats = engine.stats()
    assert (stats["requests"], stats["active"], stats["prompt_tokens"]) == (25, 0, 75)
    assert stats["completion_tokens"] == sum(len(answer.token_ids) for answer in answers)
    assert engine.info.kind == "tensorrt_llm" and engine.info.weights == "fp8"
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.submit([5], SamplingParams())


def test_a_stop_token_ends_an_answer_before_its_limit(
    stand_in_python: str, files: Path, manifest: EngineManifest
) -> None:
    engine = TensorRtLlmEngine(files, manifest, EngineConfig(), stand_in_python)
    stopped = engine.generate([[297]], SamplingParams(max_new_tokens=20))[0]  # 297 298 299 0 1 then 2, a stop token
    assert stopped.token_ids == (297, 298, 299, 0, 1) and stopped.finish_reason == "stop"
    assert engine.generate([[50]], SamplingParams(max_new_tokens=3))[0].finish_reason == "length"
    measured = engine.generate([[297]], SamplingParams(max_new_tokens=20, ignore_stop=True))[0]
    assert len(measured.token_ids) == 20 and measured.finish_reason == "length"
    engine.close()


def test_text_comes_piece_by_piece_and_cancelling_keeps_it(
    stand_in_python: str, files: Path, manifest: EngineManifest
) -> None:
    engine = TensorRtLlmEngine(files, manifest, EngineConfig(), stand_in_python)
    handle = engine.submit([10], SamplingParams(max_new_tokens=300, temperature=0.7, top_p=0.9, seed=3))
    first = handle.read(timeout_s=20)
    handle.cancel()
    whole = handle.completion()
    assert first and whole.text.startswith(first) and whole.finish_reason == "cancelled"
    assert 0 < len(whole.token_ids) < 290 and whole.token_ids == continued([10], 300)[: len(whole.token_ids)]
    assert engine.generate([[60]], SamplingParams(max_new_tokens=2))[0].token_ids == (60, 61)  # it still serves
    engine.close()


def test_several_adapters_answer_beside_the_model_alone(
    stand_in_python: str, files: Path, manifest: EngineManifest, tmp_path: Path
) -> None:
    adapters = {}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 8}')
        adapters[name] = str(tmp_path / name)
    for kind, form in (("tensorrt_llm", "tensorrt"), ("tensorrt_llm_torch", "huggingface_modelopt")):
        if kind == "tensorrt_llm_torch":
            (files / "model" / "model.safetensors").write_bytes(b"x")
        told = replace(manifest, builder=kind, format=form)
        engine = TensorRtLlmEngine(files, told, EngineConfig(), stand_in_python, adapters)
        handles = [engine.submit([50], SamplingParams(max_new_tokens=4, adapter=name)) for name in (None, *adapters)]
        assert [handle.completion().token_ids for handle in handles] == [continued([50], 4, n) for n in range(3)]
        with pytest.raises(EngineError, match="no adapter 'third'"):
            engine.submit([50], SamplingParams(adapter="third"))
        engine.close()
    with pytest.raises(EngineError, match="takes no LoRA adapters"):
        TensorRtLlmEngine(files, replace(manifest, lora=None), EngineConfig(), stand_in_python, adapters)


def test_a_prompt_beyond_the_engines_limit_is_refused(
    stand_in_python: str, files: Path, manifest: EngineManifest
) -> None:
    engine = TensorRtLlmEngine(files, manifest, EngineConfig(), stand_in_python)
    with pytest.raises(EngineError, match="301 tokens; this engine was built for 300"):
        engine.submit([5] * 301, SamplingParams())
    assert engine.submit([5] * 300, SamplingParams(max_new_tokens=500)).completion().finish_reason in ("length", "stop")
    engine.close()


def test_an_engine_of_another_release_is_refused_by_its_environment(
    stand_in_python: str, files: Path, manifest: EngineManifest
) -> None:
    other = replace(manifest, versions={"tensorrt_llm": "1.2.0"})
    with pytest.raises(EngineError, match=r"built by tensorrt_llm 1\.2\.0; .* has 1\.2\.1"):
        TensorRtLlmEngine(files, other, EngineConfig(), stand_in_python)


def test_a_process_that_cannot_load_or_dies_says_why(
    stand_in_python: str, files: Path, manifest: EngineManifest
) -> None:
    with pytest.raises(EngineError, match="/no/python cannot be started"):
        TensorRtLlmEngine(files, manifest, EngineConfig(), "/no/python")
    engine = TensorRtLlmEngine(files, manifest, EngineConfig(), stand_in_python)
    handle = engine.submit([5], SamplingParams(max_new_tokens=300))
    engine._worker._process.kill()
    with pytest.raises(EngineError, match="the TensorRT-LLM process ended"):
        handle.completion()
    engine.close()
    shutil.rmtree(files / "engine")
    with pytest.raises(EngineError, match=r"(?s)process ended.*no engine"):
        TensorRtLlmEngine(files, manifest, EngineConfig(), stand_in_python)


def test_the_cache_is_counted_in_tokens_and_must_hold_a_sequence(
    files: Path, manifest: EngineManifest, tmp_path: Path
) -> None:
    config = {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cache_tokens(tmp_path / "config.json", 1) == 2**30 // (2 * 24 * 2 * 64 * 2)  # Qwen2.5-0.5B: 87,381
    big = replace(manifest, limits=replace(LIMITS, max_sequence_tokens=10**9))
    with pytest.raises(EngineError, match="less than one sequence of 1000000000"):
        TensorRtLlmEngine(files, big, EngineConfig(), "/no/python")


def test_closing_ends_the_process_at_once(stand_in_python: str, files: Path, manifest: EngineManifest) -> None:
    engine = TensorRtLlmEngine(files, manifest, EngineConfig(), stand_in_python)
    process = engine._worker._process
    handle = engine.submit([5], SamplingParams(max_new_tokens=300))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        handle.completion()
    assert process.poll() is not None

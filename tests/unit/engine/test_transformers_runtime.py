"""The reference engine equals transformers' own generate, batched or streamed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ragray.engine.protocol import SamplingParams
from ragray.engine.transformers_runtime import TransformersEngine, load_model_folder, sample
from ragray.errors import EngineError

GREEDY = SamplingParams(max_new_tokens=24)


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[TransformersEngine]:
    engine = load_model_folder(model_folder, batch_size=4, threads=1)
    yield engine
    engine.close()


def test_greedy_batches_equal_transformers_one_by_one(
    engine: TransformersEngine, model_folder: Path, prompts: Sequence[list[int]]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    for prompt, completion in zip(prompts, engine.generate(prompts, GREEDY), strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :]
        expected = [token for token in expected.tolist() if token != engine.tokenizer.eos_token_id]
        assert list(completion.token_ids) == expected
        assert completion.prompt_tokens == len(prompt)
        assert completion.finish_reason == ("length" if len(expected) == 24 else "stop")


def test_streams_that_join_a_running_batch_equal_generate(
    engine: TransformersEngine, prompts: Sequence[list[int]]
) -> None:
    expected = engine.generate(prompts, GREEDY)
    handles = [engine.submit(prompt, GREEDY) for prompt in prompts]
    for handle, completion in zip(handles, expected, strict=True):
        pieces = list(iter(handle.read, None))
        assert "".join(pieces) == completion.text == handle.completion().text
        assert handle.completion() == completion
        assert handle.read() is None


def test_a_stop_token_ends_the_answer_and_is_left_out(model_folder: Path, prompts: Sequence[list[int]]) -> None:
    engine = load_model_folder(model_folder, batch_size=4, threads=1)
    full = engine.generate(prompts[:4], GREEDY)
    engine.close()
    stop = full[0].token_ids[5]
    engine._stops = frozenset({stop})
    for cut, whole in zip(engine.generate(prompts[:4], GREEDY), full, strict=True):
        end = whole.token_ids.index(stop) if stop in whole.token_ids else 24
        assert cut.token_ids == whole.token_ids[:end]
        assert cut.finish_reason == ("stop" if end < 24 else "length")


def test_sampling_depends_on_the_seed_alone_not_on_the_neighbours(
    engine: TransformersEngine, prompts: Sequence[list[int]]
) -> None:
    params = SamplingParams(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=3)
    forward = engine.generate(prompts, params)
    backward = engine.generate(prompts[::-1], params)[::-1]
    assert [c.token_ids for c in forward] == [c.token_ids for c in backward]
    other = SamplingParams(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=4)
    assert [c.token_ids for c in engine.generate(prompts, other)] != [c.token_ids for c in forward]


def test_nucleus_sampling_draws_only_from_the_smallest_sufficient_set() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()  # top_p 0.6 needs the first two
    generator = torch.Generator().manual_seed(0)
    draws = [sample(logits, SamplingParams(temperature=1.0, top_p=0.6), generator) for _ in range(400)]
    assert set(draws) == {0, 1}
    assert draws.count(0) / 400 == pytest.approx(0.5 / 0.8, abs=0.07)


def test_prompts_that_do_not_fit_are_refused_and_long_answers_end_at_the_context(
    engine: TransformersEngine, prompts: Sequence[list[int]]
) -> None:
    for prompt in ([], [1] * 512):
        with pytest.raises(EngineError, match="the model takes 1 to 511"):
            engine.submit(prompt, GREEDY)
    completion = engine.generate([[5] * 508], GREEDY)[0]
    assert len(completion.token_ids) <= 4


def test_a_damaged_folder_is_refused(tmp_path: Path, model_folder: Path) -> None:
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(EngineError, match="cannot be loaded"):
        load_model_folder(tmp_path, 4, 1)


def test_no_tokens_can_be_asked_for_in_vain() -> None:
    for wrong in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(ValueError):
            SamplingParams(**wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_an_engine_for_a_gpu_says_so_where_torch_sees_none(model_folder: Path) -> None:
    with pytest.raises(EngineError, match="sees no GPU, and this engine was made for L4"):
        load_model_folder(model_folder, batch_size=1, threads=1, device_type="L4")

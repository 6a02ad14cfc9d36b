"""The OpenVINO engine answers as transformers does; its files repeat byte for byte and are checked on load."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tiny_model import make_model_folder

from ragray.artifact import folder_digest
from ragray.config import EngineConfig
from ragray.engine.build import Build, build_engine
from ragray.engine.openvino_export import export
from ragray.engine.openvino_runtime import guesses
from ragray.engine.protocol import Completion, Engine, SamplingParams
from ragray.engine.runtime import load_engine
from ragray.engine.transformers_runtime import load_model_folder
from ragray.errors import EngineError

GREEDY = SamplingParams(max_new_tokens=24)
SETTINGS = EngineConfig(weights="fp32", cpu_threads=1, max_batch_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def built(folder: Path, model_folder: Path) -> Build:
    return build_engine(model_folder, SETTINGS, folder)


@pytest.fixture(scope="module")
def engine(built: Build, folder: Path) -> Iterator[Engine]:
    engine = load_engine(folder, SETTINGS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(model_folder: Path, prompts: Sequence[list[int]]) -> list[Completion]:
    reference = load_model_folder(model_folder, batch_size=8, threads=1)
    answers = reference.generate(prompts, GREEDY)
    reference.close()
    return answers


def test_fp32_answers_equal_transformers_token_for_token(
    engine: Engine, prompts: Sequence[list[int]], expected: list[Completion]
) -> None:
    assert engine.generate(prompts, GREEDY) == expected


def test_generate_repeats_although_the_second_time_meets_a_warm_prefix_cache(
    engine: Engine, prompts: Sequence[list[int]]
) -> None:
    assert engine.generate(prompts, GREEDY) == engine.generate(prompts, GREEDY)
    params = SamplingParams(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=3)
    alone = [engine.generate([prompt], params)[0] for prompt in prompts[:3]]
    assert alone == [engine.generate([prompt], params)[0] for prompt in prompts[:3]]
    assert alone != engine.generate(prompts[:3], GREEDY)


def test_guessed_tokens_change_no_answer_and_save_steps(
    folder: Path, engine: Engine, prompts: Sequence[list[int]]
) -> None:
    longer = SamplingParams(max_new_tokens=120)  # long enough for this model to repeat itself
    plain = load_engine(folder, SETTINGS.model_copy(update={"prompt_lookup_tokens": 0}))
    assert plain.generate(prompts, longer) == engine.generate(prompts, longer)
    sampled = [SamplingParams(max_new_tokens=40, temperature=0.3, seed=seed) for seed in range(8)]
    alone = [[each.generate(prompts[:1], params) for params in sampled] for each in (plain, engine)]
    assert alone[0] == alone[1] and len({str(answers) for answers in alone[0]}) > 4
    steps = [count_steps(which, prompts[0], longer) for which in (plain, engine)]
    tokens = len(plain.generate(prompts[:1], longer)[0].token_ids)
    plain.close()
    assert steps[0] == tokens > 2 * steps[1]


def test_a_full_batch_of_guesses_leaves_room_to_read_prompts(folder: Path, prompts: Sequence[list[int]]) -> None:
    engine = load_engine(folder, SETTINGS.model_copy(update={"max_batch_size": 64}))
    params = SamplingParams(max_new_tokens=200, ignore_stop=True)
    given = engine.generate([[*prompts[number % len(prompts)], 300 + number] for number in range(64)], params)
    engine.close()
    timings = [one.timing for one in given if one.timing is not None]
    assert len(timings) == 64
    assert max(one.first_token_s for one in timings) < min(one.last_token_s for one in timings)


@pytest.mark.parametrize(
    ("setting", "parameters", "tokens"),
    [(None, 99_999_999, 12), (None, 100_000_000, 4), (0, 1, 0), (0, 10**9, 0), (7, 10**9, 7)],
)
def test_a_large_model_guesses_fewer_tokens_unless_it_is_set(setting: int | None, parameters: int, tokens: int) -> None:
    assert guesses(EngineConfig(prompt_lookup_tokens=setting), parameters) == tokens


def count_steps(engine: Engine, prompt: list[int], params: SamplingParams) -> int:
    decoder = engine._loop._decoder  # type: ignore[attr-defined]
    step, calls = decoder.step, []
    decoder.step = lambda: (calls.append(1), step())
    engine.generate([prompt], params)
    decoder.step = step
    return len(calls)


def test_streamed_pieces_join_to_the_completion_and_hold_whole_characters(
    engine: Engine, prompts: Sequence[list[int]], expected: list[Completion]
) -> None:
    handles = [engine.submit(prompt, GREEDY) for prompt in prompts]
    for handle, completion in zip(handles, expected, strict=True):
        pieces = list(iter(handle.read, None))
        assert "".join(pieces) == completion.text == handle.completion().text


def test_a_cancelled_stream_stops_early_and_frees_its_place(engine: Engine, prompts: Sequence[list[int]]) -> None:
    handle = engine.submit(prompts[0], SamplingParams(max_new_tokens=450))
    handle.read(30)
    handle.cancel()
    completion = handle.completion()
    assert completion.finish_reason == "cancelled"
    assert 1 <= len(completion.token_ids) < 450
    assert engine.stats()["active"] == 0


def test_stats_and_info_say_what_ran(engine: Engine, built: Build, prompts: Sequence[list[int]]) -> None:
    before = engine.stats()
    answers = engine.generate(prompts[:2], GREEDY)
    after = engine.stats()
    assert after["requests"] - before["requests"] == 2
    assert after["completion_tokens"] - before["completion_tokens"] == sum(len(a.token_ids) for a in answers)
    assert (engine.info.kind, engine.info.weights, engine.info.device) == ("openvino", "fp32", "cpu")
    assert engine.info.digest == built.manifest.digest


INTERRUPTED = """
import gc, signal, sys, threading
from pathlib import Path
from ragray.config import EngineConfig
from ragray.engine.runtime import load_engine
engines = [load_engine(Path(sys.argv[1]), EngineConfig(weights="fp32", cpu_threads=1, max_batch_size=8))]
def end():
    engines.pop().close()
    gc.collect()
thread = threading.Thread(target=end)
thread.start()
thread.join()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_still_works_after_another_thread_closed_the_engine(built: Build, folder: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, folder], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


def test_a_prompt_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match="the model takes 1 to 511"):
        engine.generate([[1] * 512], GREEDY)


def test_a_build_records_what_it_was_made_from(built: Build, folder: Path, model_folder: Path) -> None:
    manifest = json.loads((folder / "engine.json").read_text())
    assert manifest["verification"]["prefix_share"] == 1.0
    assert manifest["verification"]["equal_answers"] == manifest["verification"]["prompts"] == 8
    assert manifest["source"]["checkpoint"] == folder_digest(model_folder)
    assert manifest["model"] == {
        "architecture": "llama",
        "parameters": built.manifest.model.parameters,
        "context_tokens": 512,
        "rope_theta": 10000.0,
    }
    assert manifest["device"]["cuda"] is None
    assert set(built.timings_s) == {"build", "verify"}
    assert manifest["build_s"] == pytest.approx(built.timings_s["build"], abs=0.001)


def test_int8_agreement_is_recorded_and_it_is_smaller(
    built: Build, folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    int8 = build_engine(model_folder, SETTINGS.model_copy(update={"weights": "int8"}), tmp_path)
    verification = int8.manifest.verification
    assert verification is not None
    assert verification.least_prefix_share <= verification.prefix_share < 1.0
    assert verification.least_f1 <= verification.f1 <= 1.0
    assert verification.equal_answers < 8

    def weights(place: Path) -> int:
        return (place / "engine" / "openvino_model.bin").stat().st_size

    assert weights(tmp_path) < 0.3 * weights(folder)


def test_exported_files_repeat_byte_for_byte(model_folder: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        out = tmp_path / name
        out.mkdir()
        export(model_folder, "int4", out)
        digests.append(folder_digest(out))
    assert digests[0] == digests[1]


def test_an_unknown_architecture_is_refused_before_any_work(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=32)).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="not 'gpt2'") as caught:
        export(tmp_path, "fp32", tmp_path)
    assert "engine.kind=transformers" in caught.value.fix


def test_an_engine_that_answers_otherwise_than_its_model_is_kept_marked_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder is made to export other weights than those that it is given."""
    from ragray.engine import openvino_export

    other = make_model_folder(tmp_path / "other", seed=1)
    right = make_model_folder(tmp_path / "right", seed=0)
    monkeypatch.setattr(openvino_export, "load_model", lambda _, load=openvino_export.load_model: load(other))
    out = tmp_path / "out"
    out.mkdir()
    found = build_engine(right, SETTINGS, out).manifest.verification
    assert found is not None and not found.usable
    assert found.prefix_share < 0.1 and found.f1 <= 0.5  # some answers of both have no words
    assert (out / "engine" / "openvino_model.bin").exists()
    with pytest.raises(EngineError, match="openvino fp32 engine answers worse than its model on 8 prompts") as caught:
        load_engine(out, SETTINGS)
    assert "engine.weights" in caught.value.fix

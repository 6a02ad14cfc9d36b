"""Measuring an engine: closed-loop clients, exact lengths, times that belong together."""

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tiny_model import TEXTS

from ragray.config import EngineConfig
from ragray.engine.build import build_engine
from ragray.engine.load_test import Load, Prompts, run_load, sweep
from ragray.engine.protocol import Completion, Engine, Handle, SamplingParams
from ragray.engine.runtime import load_engine
from ragray.engine.transformers_runtime import load_model_folder
from ragray.errors import EngineError


@pytest.fixture(scope="module")
def stopping_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with a token that it does write among those that end an answer."""
    engine = load_model_folder(model_folder, batch_size=4, threads=1)
    ids = engine.tokenizer("\n".join(TEXTS))["input_ids"]
    written = engine.generate(Prompts(ids).take(1, 20), SamplingParams(max_new_tokens=12))[0].token_ids
    engine.close()
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("stops") / "model")
    config = folder / "generation_config.json"
    tree = json.loads(config.read_text())
    config.write_text(json.dumps({**tree, "eos_token_id": [engine.tokenizer.eos_token_id, written[10]]}))
    return folder


@pytest.fixture(scope="module", params=["transformers", "openvino"])
def engine(
    request: pytest.FixtureRequest, stopping_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    if request.param == "transformers":
        made: Engine = load_model_folder(stopping_folder, batch_size=4, threads=1)
    else:
        folder = tmp_path_factory.mktemp("engine")
        settings = EngineConfig(weights="fp32", cpu_threads=1, max_batch_size=4)
        build_engine(stopping_folder, settings, folder)
        made = load_engine(folder, settings)
    yield made
    made.close()


@pytest.fixture(scope="module")
def text(engine: Engine) -> list[int]:
    ids: list[int] = engine.tokenizer("\n".join(TEXTS))["input_ids"]
    return ids


def test_every_answer_has_the_length_that_was_asked_though_stop_tokens_come(engine: Engine, text: list[int]) -> None:
    prompts = Prompts(text).take(12, 20)
    stopping = engine.generate(prompts, SamplingParams(max_new_tokens=40))
    whole = engine.generate(prompts, SamplingParams(max_new_tokens=40, ignore_stop=True))
    assert any(len(answer.token_ids) < 40 for answer in stopping), "the test's model stops by itself"
    assert all(len(answer.token_ids) == 40 and answer.finish_reason == "length" for answer in whole)
    for short, long in zip(stopping, whole, strict=True):
        assert long.token_ids[: len(short.token_ids)] == short.token_ids


def test_times_of_a_request_add_up_to_its_whole_and_lie_in_the_loads(engine: Engine, text: list[int]) -> None:
    load = Load(concurrency=3, prompt_tokens=16, new_tokens=8, requests=7)
    result = run_load(engine, load, Prompts(text).take(7, 16))
    assert len(result.requests) == 7
    for times in result.requests:
        assert 0 < times.first_token_s < times.total_s <= result.seconds
        assert times.first_token_s + 7 * times.each_token_s == pytest.approx(times.total_s)


def test_a_completion_is_equal_whenever_its_tokens_came(engine: Engine, text: list[int]) -> None:
    prompts = Prompts(text).take(2, 12)
    first, again = (engine.generate(prompts, SamplingParams(max_new_tokens=4, ignore_stop=True)) for _ in range(2))
    assert first == again and first[0].timing != again[0].timing


def test_answers_beyond_the_context_are_an_error_not_a_figure(engine: Engine, text: list[int]) -> None:
    load = Load(concurrency=1, prompt_tokens=500, new_tokens=64, requests=1)
    with pytest.raises(EngineError, match="12 tokens to a prompt of 500, where 64 were asked"):
        run_load(engine, load, Prompts(text).take(1, 500))


class MeetingEngine:
    """Ends no request before as many run at once as there are to be clients."""

    def __init__(self, engine: Engine, clients: dict[int, int]) -> None:
        self._engine = engine
        self._meetings = {length: threading.Barrier(count, timeout=60) for length, count in clients.items()}
        self._lock = threading.Lock()
        self.running, self.most, self.prompts = 0, 0, list[tuple[int, ...]]()

    def submit(self, token_ids: Sequence[int], params: SamplingParams) -> "MeetingHandle":
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.prompts.append(tuple(token_ids))
        return MeetingHandle(self, self._meetings[len(token_ids)], self._engine.submit(token_ids, params))

    def ended(self) -> None:
        with self._lock:
            self.running -= 1


class MeetingHandle:
    def __init__(self, engine: MeetingEngine, meeting: threading.Barrier, handle: Handle) -> None:
        self._engine, self._meeting, self._handle = engine, meeting, handle

    def completion(self) -> Completion:
        self._meeting.wait()
        found = self._handle.completion()
        self._engine.ended()
        return found


def test_a_sweep_keeps_as_many_running_as_there_are_clients_and_sends_no_prompt_twice(
    engine: Engine, text: list[int]
) -> None:
    meeting = MeetingEngine(engine, {10: 2, 12: 3})
    loads = [Load(2, 10, 4, 6), Load(3, 12, 4, 6)]
    results = list(sweep(meeting, loads, Prompts(text)))  # type: ignore[arg-type]
    assert [result.load for result in results] == loads
    assert meeting.most == 3
    assert sorted(map(len, meeting.prompts)) == [10] * (2 + 6) + [12] * (3 + 6), "one for each client goes first"
    assert len({prompt[:8] for prompt in meeting.prompts}) == len(meeting.prompts)


def test_prompts_begin_everywhere_before_they_repeat() -> None:
    prompts = Prompts(range(60))
    begins = [prompt[0] for prompt in prompts.take(60, 5)]
    assert sorted(begins) == list(range(60))
    assert prompts.take(1, 130)[0] == [(begins[0] + n) % 60 for n in range(130)], "a short text goes round"

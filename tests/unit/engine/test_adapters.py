"""Adapters beside an engine's model: each row of a mixed batch by its own, equal to PEFT; which fit, which do not."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_adapter import change_record, make_merged, make_trained

from ragray.config import EngineConfig
from ragray.engine.adapters import Trained, check_engine, difference, fitted, write_layers
from ragray.engine.build import build_engine
from ragray.engine.manifest import EngineManifest
from ragray.engine.protocol import Engine, SamplingParams
from ragray.engine.runtime import load_engine
from ragray.errors import ArtifactError, EngineError
from ragray.train.adapter import read_adapter

BASE = Path(__file__).parents[3] / "data/models/ragray-tiny"
SETTINGS = EngineConfig(kind="transformers", cpu_threads=1, max_batch_size=5)
MODULES = {"own": ("q_proj", "v_proj"), "first": ("q_proj", "v_proj"), "second": ("k_proj", "v_proj", "down_proj")}
GREEDY = SamplingParams(max_new_tokens=24)
NAMES = (None, "first", "second")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Adapters on one base, by name: the one that is merged, and two more, of other ranks, layers and scales."""
    folder = tmp_path_factory.mktemp("trained")
    methods = {"own": "lora", "first": "lora", "second": "rslora"}
    return {
        name: Trained(make_trained(folder / name, BASE, seed, 3 + seed, methods[name], modules), f"train/{name}")
        for seed, (name, modules) in enumerate(MODULES.items())
    }


@pytest.fixture(scope="module")
def built(trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    build_engine(make_merged(trained["own"].folder, folder / "merged"), SETTINGS, folder)
    return folder


@pytest.fixture(scope="module")
def engine(built: Path, trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("fitted")
    for name in ("first", "second"):
        write_layers(fitted(trained[name], trained["own"], built), folder / name)
    engine = load_engine(built, SETTINGS, {name: folder / name for name in ("first", "second")})
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def questions(engine: Engine) -> list[list[int]]:
    texts = [
        "How do I install ragray?",
        "怎样训练模型？",
        "Which port does the server use, and how is it changed?",
        "LoRA",
    ]
    chats = [[{"role": "user", "content": text}] for text in texts]
    return [engine.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]


def by(name: str | None) -> SamplingParams:
    return replace(GREEDY, adapter=name)


def by_peft(trained: Trained, prompts: Sequence[list[int]]) -> list[list[int]]:
    """What PEFT's own model on the base generates."""
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, str(trained.folder / "adapter")).eval()
    answers = []
    for prompt in prompts:
        tokens = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :]
        end = base.generation_config.eos_token_id
        ends = {end} if isinstance(end, int) else set(end)
        answers.append([token for token in tokens.tolist() if token not in ends])
    return answers


def test_each_adapter_answers_as_peft_does_on_the_base(
    engine: Engine, trained: dict[str, Trained], questions: list[list[int]]
) -> None:
    found = {name: [list(c.token_ids) for c in engine.generate(questions, by(name))] for name in NAMES}
    assert found["first"] == by_peft(trained["first"], questions)
    assert found["second"] == by_peft(trained["second"], questions)
    assert found[None] == by_peft(trained["own"], questions)
    assert len({str(answers) for answers in found.values()}) == 3, "the adapters make no difference"


def test_a_mixed_running_batch_gives_each_request_what_it_gets_alone(
    engine: Engine, questions: list[list[int]]
) -> None:
    asked = [(question, name) for question in questions for name in NAMES]  # 12 requests, 5 at once
    handles = [engine.submit(question, by(name)) for question, name in asked]
    for (question, name), handle in zip(asked, handles, strict=True):
        assert handle.completion() == engine.generate([question], by(name))[0]


def test_the_difference_takes_the_merged_update_out(trained: dict[str, Trained]) -> None:
    own, first = (read_adapter(trained[name].folder / "adapter").layers for name in ("own", "first"))
    wanted, merged = ({layer.name: layer.delta() for layer in layers} for layers in (first, own))
    found = {layer.name: layer.delta() for layer in difference(first, own)}
    assert set(found) == set(wanted) | set(merged)
    for name, delta in found.items():
        torch.testing.assert_close(delta, wanted[name] - merged[name])


def test_an_adapter_trained_on_the_merged_model_is_applied_as_it_is(
    built: Path, tmp_path: Path, questions: list[list[int]]
) -> None:
    later = Trained(make_trained(tmp_path / "later", built / "merged", 9), "train/later")
    layers = fitted(later, None, built)
    assert {layer.rank for layer in layers} == {4}
    write_layers(layers, tmp_path / "fitted")
    engine = load_engine(built, SETTINGS, {"later": tmp_path / "fitted"})
    changed, same = engine.generate(questions, by("later")), engine.generate(questions, by(None))
    engine.close()
    assert changed != same


def test_an_adapter_of_another_base_is_refused(
    trained: dict[str, Trained], built: Path, tmp_path: Path, model_folder: Path
) -> None:
    other = Trained(make_trained(tmp_path / "other", model_folder, 5), "train/other")
    with pytest.raises(ArtifactError, match=r"train/other: trained on the base model .*; this engine's was made of"):
        fitted(other, trained["own"], built)
    with pytest.raises(ArtifactError, match="not there to tell whether"):
        fitted(trained["first"], None, built)


def test_an_adapter_that_is_asked_by_another_template_is_refused(
    trained: dict[str, Trained], built: Path, tmp_path: Path
) -> None:
    asked = Trained(make_trained(tmp_path / "asked", BASE, 6), "train/asked")
    change_record(asked.folder, template={"chat_template": "0", "prompt": "0"})
    with pytest.raises(ArtifactError, match="another chat template or prompt"):
        fitted(asked, trained["own"], built)


def test_what_is_more_than_an_update_is_refused(trained: dict[str, Trained], built: Path, tmp_path: Path) -> None:
    dora = Trained(make_trained(tmp_path / "dora", BASE, 7, method="dora"), "train/dora")
    with pytest.raises(ArtifactError, match="train/dora: an adapter with DoRA"):
        fitted(dora, trained["own"], built)
    with pytest.raises(ArtifactError, match="does not say what it was trained on"):
        fitted(Trained(tmp_path, "train/none"), trained["own"], built)


def test_names_that_an_engine_does_not_have_are_refused(engine: Engine, questions: list[list[int]]) -> None:
    for ask in (lambda: engine.submit(questions[0], by("third")), lambda: engine.generate(questions, by("third"))):
        with pytest.raises(EngineError, match="no adapter 'third'"):
            ask()


def test_engines_that_cannot_choose_by_request_say_which_can(built: Path, tmp_path: Path) -> None:
    check_engine(built)
    manifest = EngineManifest.read(built)
    for builder, says in (("openvino", "engine.kind=transformers"), ("tensorrt_llm", "compiled without adapters")):
        (tmp_path / builder).mkdir()
        replace(manifest, builder=builder).write(tmp_path / builder)
        with pytest.raises(EngineError, match=says):
            check_engine(tmp_path / builder)

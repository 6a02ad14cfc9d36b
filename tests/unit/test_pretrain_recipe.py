"""The recipe of the bundled model: its tasks teach only what a prompt holds, and a stopped run goes on as it was."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ragray import prompt

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "data" / "models" / "ragray-tiny"
TOPICS = ("cluster", "index", "adapter", "engine", "prompt", "quota", "driver", "dashboard")
TOPICS_ZH = ("集群", "索引", "适配器", "引擎", "提示词", "配额", "驱动", "监控面板")

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not (BUNDLED / "tokenizer.json").exists(), reason="no bundled model")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_tiny", ROOT / "jobs" / "pretrain_tiny.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["pretrain_tiny"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BUNDLED)


@pytest.fixture(scope="module")
def library(recipe):
    items = []
    for number, (topic, topic_zh) in enumerate(zip(TOPICS, TOPICS_ZH, strict=True)):
        text = f"Run step {number} of the {topic} guide, then wait. It takes {number} minutes."
        asks = (f"my {topic} is gone, what now",)
        items.append(recipe.Item(f"How do I repair the {topic}?", text, asks, "en", "guide"))
        zh = f"先运行{topic_zh}的第 {number} 步，再等待。需要 {number} 分钟。"
        items.append(recipe.Item(f"{topic_zh}坏了怎么修复？", zh, (), "zh", "guide_zh"))
    return recipe.Library(items, held=2)


def examples(recipe, library, task, count=40):
    rng = random.Random(0)
    size = recipe.Size(4, 450)
    return [library.example(rng, task, library.draw(rng), size) for _ in range(count)]


def test_an_answer_is_copied_from_the_passage_that_it_cites(recipe, library):
    for task in ("ask", "repeat"):
        for example in examples(recipe, library, task):
            parsed = prompt.parse_answer(example.answer)
            assert parsed.cited == (example.right,)
            assert parsed.text in example.passages[example.right - 1][1]
            assert not parsed.declined


def test_every_position_is_right_sometimes(recipe, library):
    assert {example.right for example in examples(recipe, library, "ask")} >= {1, 2, 3}


def test_a_declined_question_has_no_passage_that_answers(recipe, library):
    rng = random.Random(1)
    for _ in range(40):
        item = library.draw(rng)
        example = library.example(rng, "absent", item, recipe.Size(4, 450))
        assert example.answer == prompt.DECLINE[item.lang]
        assert example.passages
        for title, text in example.passages:
            assert title != item.title
            assert text != item.text


def test_a_closed_book_question_shows_no_passage(recipe, library):
    for example in examples(recipe, library, "closed"):
        assert example.messages[0]["content"] in prompt.SYSTEM_CLOSED_BOOK.values()
        assert "[1]" not in example.messages[1]["content"]


def test_only_the_answer_and_the_second_question_count(recipe, library, tokenizer):
    for example in examples(recipe, library, "ask", 10):
        row = recipe.example_row(example, tokenizer)
        full = [i for i, weight in enumerate(row.weights) if weight >= 1]
        assert tokenizer.decode([row.ids[i] for i in full]) == example.answer + "<|end|>"
        light = tokenizer.decode([i for i, weight in zip(row.ids, row.weights, strict=True) if weight == 0.3])
        assert light in example.messages[1]["content"].rsplit("\n\n", 1)[1]


def test_random_prompts_hold_the_answer_they_teach(recipe, tokenizer):
    rng = random.Random(2)
    frame = recipe.Frame.of(tokenizer, "en")
    declined = 0
    for _ in range(60):
        row = recipe.marker_row(rng, frame, recipe.LEVELS[2])
        start = row.weights.index(recipe.CHOICE)
        shown, answer = row.ids[:start], row.ids[start:-1]
        if answer == frame.decline:
            declined += 1
        else:
            assert str(answer)[1:-1] in str(shown)
    assert 0 < declined < 30


def test_a_repeated_text_counts_from_its_second_token(recipe):
    row = recipe.random_row(random.Random(3), 60)
    counted = [token for token, weight in zip(row.ids, row.weights, strict=True) if weight]
    assert row.ids[1 : len(counted) + 1] == counted


def test_batches_keep_every_row_within_the_budget(recipe):
    rng = random.Random(4)
    rows = [recipe.random_row(rng, 120) for _ in range(50)]
    made = recipe.batches(rows, 1000)
    assert sorted(len(row.ids) for batch in made for row in batch) == sorted(len(row.ids) for row in rows)
    assert all(len(batch) == 1 or len(batch) * max(len(row.ids) for row in batch) <= 1000 for batch in made)


def test_the_learning_rate_warms_up_and_falls(recipe):
    rates = [recipe.learning_rate(step, step / 1000) for step in (0, 29, 400, 725, 999)]
    assert rates == pytest.approx([1 / 30, 1, 1, 0.5, 0.02])


def test_the_planted_model_copies_before_any_training(recipe, tokenizer):
    import torch

    model = recipe.build_model(tokenizer, 0)
    generator = torch.Generator().manual_seed(0)
    text, gap = (torch.randint(20, 8000, (4, 40), generator=generator) for _ in range(2))
    with torch.no_grad():
        foreseen = model(input_ids=torch.cat([text, gap, text], 1)).logits[:, 80:-1].argmax(-1)
    assert (foreseen == text[:, 1:]).float().mean() > 0.9  # chance is 1 in 8,192


@pytest.mark.parametrize(
    "text", ["如何重启 Ray 集群？先执行 ray stop。", "Pass --resume; it goes on from step 1,200.\n\n\tok", "emoji 🙂 Ω"]
)
def test_the_tokenizer_gives_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_markers_are_single_tokens_and_text(recipe, tokenizer):
    for number, marker in enumerate(recipe.MARKERS, 1):
        assert tokenizer(marker)["input_ids"] == [recipe.marker_id(number)]
        assert tokenizer.decode([recipe.marker_id(number)], skip_special_tokens=True) == marker
    assert [tokenizer.convert_tokens_to_ids(token) for token in recipe.SPECIAL] == [0, 1, 2, 3, 4]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<|pad|>")


def test_the_chat_template_renders_roles_and_ends(tokenizer):
    asked = prompt.messages("Why?", [("Title", "Text.")], "en")
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    user = "Question: Why?\n\nTitle\n[1] Text.\n\nQuestion: Why?"
    assert text == f"<|system|>{prompt.SYSTEM['en']}<|end|><|user|>{user}<|end|><|assistant|>"


def test_the_bundled_model_is_small_and_tied(tokenizer):
    from transformers import AutoModelForCausalLM

    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 20e6
    assert not [path.name for path in BUNDLED.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]
    model = AutoModelForCausalLM.from_pretrained(BUNDLED)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_a_stopped_run_equals_one_never_stopped(recipe, library, tokenizer, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(recipe, "STEP_TOKENS", 512)
    maker = recipe.RowMaker(library, tokenizer)

    def trained(work: Path, stops: int):
        for _ in range(stops):
            trainer = recipe.Trainer(maker, work, seed=5, tokens=1500)
            for _ in range(4 // stops):
                trainer.train_step()
            trainer.save()
        return trainer

    whole, halves = trained(tmp_path / "whole", 1), trained(tmp_path / "halves", 2)
    assert json.loads((tmp_path / "whole" / "state.json").read_text())["level"] == len(recipe.LEVELS)
    assert whole.state.tokens == halves.state.tokens
    for (name, one), (_, other) in zip(whole.named_tensors(), halves.named_tensors(), strict=True):
        assert torch.equal(one, other), name

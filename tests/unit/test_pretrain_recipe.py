"""The recipe of the bundled model: its tasks teach only what a prompt holds, and a stopped run goes on as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tiny_recipe import corpus, planting, rows, tasks, trainer
from tiny_recipe import tokenizer as bpe

from ragray import prompt

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "data" / "models" / "ragray-tiny"
TOPICS = ("cluster", "index", "adapter", "engine", "prompt", "quota", "driver", "dashboard")
TOPICS_ZH = ("集群", "索引", "适配器", "引擎", "提示词", "配额", "驱动", "监控面板")

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not (BUNDLED / "tokenizer.json").exists(), reason="no bundled model")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BUNDLED)


@pytest.fixture(scope="module")
def library():
    items = []
    for number, (topic, topic_zh) in enumerate(zip(TOPICS, TOPICS_ZH, strict=True)):
        text = f"Run step {number} of the {topic} guide, then wait. It takes {number} minutes."
        asks = (f"my {topic} is gone, what now",)
        items.append(corpus.Item(f"How do I repair the {topic}?", text, asks, "en", "guide"))
        zh = f"先运行{topic_zh}的第 {number} 步，再等待。需要 {number} 分钟。"
        items.append(corpus.Item(f"{topic_zh}坏了怎么修复？", zh, (), "zh", "guide_zh"))
    return tasks.Library(items, held=2)


def examples(library, task, count=40):
    rng = random.Random(0)
    size = tasks.Size(4, 450)
    return [library.example(rng, task, library.draw(rng), size) for _ in range(count)]


def test_an_answer_is_copied_from_the_passage_that_it_cites(library):
    for task in ("ask", "repeat"):
        for example in examples(library, task):
            parsed = prompt.parse_answer(example.answer)
            assert parsed.cited == (example.right,)
            assert parsed.text in example.passages[example.right - 1][1]
            assert not parsed.declined


def test_every_position_is_right_sometimes(library):
    assert {example.right for example in examples(library, "ask")} >= {1, 2, 3}


def test_a_declined_question_has_no_passage_that_answers(library):
    rng = random.Random(1)
    for _ in range(40):
        item = library.draw(rng)
        example = library.example(rng, "absent", item, tasks.Size(4, 450))
        assert example.answer == prompt.DECLINE[item.lang]
        assert example.passages
        for title, text in example.passages:
            assert title != item.title
            assert text != item.text


def test_a_closed_book_question_shows_no_passage(library):
    for example in examples(library, "closed"):
        assert example.messages[0]["content"] in prompt.SYSTEM_CLOSED_BOOK.values()
        assert "[1]" not in example.messages[1]["content"]


def test_only_the_answer_and_the_second_question_count(library, tokenizer):
    for example in examples(library, "ask", 10):
        row = rows.example_row(example, tokenizer)
        full = [i for i, weight in enumerate(row.weights) if weight >= 1]
        assert tokenizer.decode([row.ids[i] for i in full]) == example.answer + "<|end|>"
        light = tokenizer.decode([i for i, weight in zip(row.ids, row.weights, strict=True) if weight == 0.3])
        assert light in example.messages[1]["content"].rsplit("\n\n", 1)[1]


def test_random_prompts_hold_the_answer_they_teach(tokenizer):
    rng = random.Random(2)
    frame = rows.Frame.of(tokenizer, "en")
    declined = 0
    for _ in range(60):
        row = rows.marker_row(rng, frame, rows.LEVELS[2])
        start = row.weights.index(rows.CHOICE)
        shown, answer = row.ids[:start], row.ids[start:-1]
        if answer == frame.decline:
            declined += 1
        else:
            assert str(answer)[1:-1] in str(shown)
    assert 0 < declined < 30


def test_a_repeated_text_counts_from_its_second_token():
    row = rows.random_row(random.Random(3), 60)
    counted = [token for token, weight in zip(row.ids, row.weights, strict=True) if weight]
    assert row.ids[1 : len(counted) + 1] == counted


def test_batches_keep_every_row_within_the_budget():
    rng = random.Random(4)
    drawn = [rows.random_row(rng, 120) for _ in range(50)]
    made = rows.batches(drawn, 1000)
    assert sorted(len(row.ids) for batch in made for row in batch) == sorted(len(row.ids) for row in drawn)
    assert all(len(batch) == 1 or len(batch) * max(len(row.ids) for row in batch) <= 1000 for batch in made)


def test_the_learning_rate_warms_up_and_falls():
    rates = [trainer.learning_rate(step, step / 1000) for step in (0, 29, 400, 725, 999)]
    assert rates == pytest.approx([1 / 30, 1, 1, 0.5, 0.02])


def test_the_planted_model_copies_before_any_training(tokenizer):
    import torch

    model = planting.build_model(tokenizer, 0)
    generator = torch.Generator().manual_seed(0)
    text, gap = (torch.randint(20, 8000, (4, 60), generator=generator) for _ in range(2))
    text[:, 30:36] = text[:, 10:16]  # the same words twice: what stood before them decides
    with torch.no_grad():
        foreseen = model(input_ids=torch.cat([text, gap, text], 1)).logits[:, 120:-1].argmax(-1)
    assert (foreseen == text[:, 1:]).float().mean() > 0.97  # chance is 1 in 8,192


def test_training_leaves_what_was_planted_as_it_was(library, tokenizer, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(rows, "STEP_TOKENS", 512)
    fresh = planting.build_model(tokenizer, 5)
    trained = trainer.Trainer(rows.RowMaker(library, tokenizer), tmp_path, seed=5, tokens=1500)
    trained.train_step()
    masks = planting.trainable(fresh)
    changed = set()
    for (name, before), (_, after) in zip(fresh.named_parameters(), trained.model.named_parameters(), strict=True):
        assert torch.equal(before[masks[name] == 0], after[masks[name] == 0]), name
        if not torch.equal(before, after):
            changed.add(name)
    assert {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"} <= changed


@pytest.mark.parametrize(
    "text", ["如何重启 Ray 集群？先执行 ray stop。", "Pass --resume; it goes on from step 1,200.\n\n\tok", "emoji 🙂 Ω"]
)
def test_the_tokenizer_gives_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_markers_are_single_tokens_and_text(tokenizer):
    for number, marker in enumerate(bpe.MARKERS, 1):
        assert tokenizer(marker)["input_ids"] == [bpe.marker_id(number)]
        assert tokenizer.decode([bpe.marker_id(number)], skip_special_tokens=True) == marker
    assert [tokenizer.convert_tokens_to_ids(token) for token in bpe.SPECIAL] == [0, 1, 2, 3, 4]
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


def test_a_stopped_run_equals_one_never_stopped(library, tokenizer, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(rows, "STEP_TOKENS", 512)
    maker = rows.RowMaker(library, tokenizer)

    def trained(work: Path, stops: int):
        for _ in range(stops):
            run = trainer.Trainer(maker, work, seed=5, tokens=1500)
            for _ in range(4 // stops):
                run.train_step()
            run.save()
        return run

    whole, halves = trained(tmp_path / "whole", 1), trained(tmp_path / "halves", 2)
    assert json.loads((tmp_path / "whole" / "state.json").read_text())["level"] == len(rows.LEVELS)
    assert whole.state.tokens == halves.state.tokens
    for (name, one), (_, other) in zip(whole.named_tensors(), halves.named_tensors(), strict=True):
        assert torch.equal(one, other), name

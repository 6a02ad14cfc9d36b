"""Make the bundled model `ragray-tiny` from nothing: tokenizer, tasks, training, export.

In: a data folder (`--data`, laid out as its README says). Out: a folder that `AutoModelForCausalLM` and
`AutoTokenizer` load (`--out`), and a work folder (`--work`) whose checkpoint a stopped run goes on from.

Why it exists: the demo and the tests need a model that reads ragray's prompts on two CPU cores. A few
million parameters cannot know much, but they can learn the two things that answering from passages
takes: choosing the passage whose title matches the question, and copying what follows its number. The
second is planted in the first weights (`plant_induction`), which then learn slowly; the first begins with
two random titles of a few tokens, a level at a time, each only when the last is mastered, and is carried
over to real prompts that grow. Mixed prompts from random weights taught neither.
Source: Olsson et al. 2022, "In-context Learning and Induction Heads", arXiv:2209.11895.

    python jobs/pretrain_tiny.py --data DATA --work WORK --out data/models/ragray-tiny
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ragray import prompt
from ragray.schema import stable_digest

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 8192
SPECIAL = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
MARKERS = tuple(f"[{k}]" for k in range(1, 10))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIECES = (  # words carry their leading space except in Chinese, digits stand alone
    r"\p{Han}+| ?[\p{L}&&[^\p{Han}]]+|\p{N}| ?[^\s\p{L}\p{N}]+|\n+|[^\S\n]+(?!\S)|[^\S\n]+"
)
TOKENIZER_BYTES = {  # how much of each file the tokenizer sees, so that neither language drowns the other
    "text/zh_tidb_docs": 4_500_000,
    "text/zh_python_docs": 4_000_000,
    "text/en_python_docs": 3_500_000,
    "text/en_covidqa_papers": 300_000,
    "qa/zh_medical_dialogue_raw": 1_200_000,
    "qa/zh_lecoqa_train": 800_000,
    "qa/zh_cmrc2018_dev": 800_000,
    "qa/zh_tidb_faq": 400_000,
    "qa/en_medquad_raw": 1_000_000,
    "qa/en_stackfaq": 400_000,
    "pairs/en_banking77_train.intents": 400_000,
}
TOOLING = (  # the users' words, which the corpora hold too seldom
    "Ray cluster worker head node replica deployment autoscaling placement group runtime environment actor "
    "GPU CUDA driver memory out of memory TensorRT engine build quantize quantization int8 fp16 bf16 adapter LoRA "
    "merge checkpoint resume learning rate batch size gradient accumulation tokenizer prompt template index "
    "retrieval retriever BM25 TF-IDF embedding rerank top_k citation dashboard Prometheus Grafana Kubernetes "
    "KubeRay job submit serve config YAML port timeout latency throughput streaming API key log upload download "
    "训练 微调 量化 推理 检索 索引 召回 引擎 部署 集群 节点 副本 显存 显卡 内存 日志 报错 配置 参数 端口 超时 "
    "延迟 吞吐 断点续训 学习率 批次 分词器 提示词 知识库 文档 问答 常见问题 客服 接口 网页 流式输出 监控 权限 密钥 "
    "上传 下载 重启 升级 安装"
)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def row_text(row: dict[str, Any]) -> str:
    """All running text of a record, for the tokenizer."""
    keys = ("question", "question_detail", "context", "answer", "text")
    return "\n".join(str(row[key]) for key in keys if row.get(key))


def tokenizer_texts(data: Path) -> Iterator[str]:
    """Balanced text for the tokenizer: every file evenly sampled down to its share of bytes."""
    for name, limit in TOKENIZER_BYTES.items():
        path = data / f"{name}.jsonl.gz"
        texts = [clean(row_text(row)) for row in read_rows(path)]
        keep = limit / max(1, sum(len(text.encode()) for text in texts))
        for number, text in enumerate(texts):
            if keep >= 1 or stable_digest("tokenizer", name, number) % 1000 < keep * 1000:
                yield text
    yield from [TOOLING] * 20


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the roles, `<|end|>`, and `[1]` to `[9]` as single ordinary tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKERS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), new)
    for pattern, new, flags in (
        (r"\A---\n.*?\n---\n", "", re.S),  # front matter
        (r"```.*?```", "", re.S),
        (r"<!--.*?-->|</?[A-Za-z][^<>\n]*>", "", re.S),
        (r"!?\[([^\[\]]*)\]\([^()\s]*(?:\([^()]*\))?[^()]*\)", r"\1", 0),  # [text](link)
        (r":[a-z][\w+:-]*:`([^`<]+?)\s*<[^`]*>`", r"\1", 0),  # :role:`text <target>`
        (r":[a-z][\w+:-]*:`[!~]?([^`]+)`", r"\1", 0),
        (r"`([^`<]+?)\s*<[^`]*>`_*", r"\1", 0),
        (r"``([^`]*)``|`([^`]*)`_*", r"\1\2", 0),
        (r"\{\{\{[^}]*\}\}\}|\*\*|~~", "", 0),
        (r"(?<![\w*])\*([^*\n]+)\*(?![\w*])", r"\1", 0),
        (r"::?$", ":", re.M),
        (r"[ \t]+", " ", 0),
        (r"\n{3,}", "\n\n", 0),
    )
)


def clean(text: str) -> str:
    """Text without Markdown, reStructuredText and HTML marks, whose copying would teach nothing."""
    text = text.replace("\r", "").replace("<|", "< |").replace("|>", "| >")
    for pattern, new in _MARKUP:
        text = pattern.sub(new, text)
    return text.strip()


# Items: passages, and questions that people asked about them.

_HAN = re.compile(r"[\u4e00-\u9fff]")
_SENTENCE_END = re.compile(r"(?<=[。！？!?])|(?<=[.!?])\s+|\n+")
_CLAUSE = re.compile(r"[^，。；,;.!?！？：:]+[，。；,;.!?！？：:]?")
_WORD = re.compile(r"[\u4e00-\u9fff]|[A-Za-z0-9_.\-]+|[^\s]")
_LONG_WORD = re.compile(r"[A-Za-z0-9_.\-]{4,}")


@dataclass(frozen=True, slots=True)
class Item:
    """A passage, the questions that people asked about it (where known), and an answer within it."""

    title: str
    text: str
    asks: tuple[str, ...]
    lang: str
    source: str
    span: str = ""


def language(text: str) -> str:
    """ "zh" where more than a third of the characters are Chinese, else "en"."""
    return "zh" if len(_HAN.findall(text)) * 3 > len(text) else "en"


def one_line(text: str, limit: int) -> str:
    """`text` in one line, cut to `limit` characters."""
    return prompt.cut(re.sub(r"\s*\n\s*", " ", clean(text)).strip(), limit)


def sentences(text: str) -> list[str]:
    """The sentences of `text` that are not blank."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


Found = tuple[str, str, Sequence[str], str, str]  # title, text, asks, source, span


def asked_questions(data: Path) -> Iterator[Found]:
    """Questions with their answers; a patient's long question is another way to ask the short one."""
    for row in read_rows(data / "qa/zh_medical_dialogue_raw.jsonl.gz"):
        yield row["question"], row["answer"], [row.get("question_detail") or ""], "medical", ""
    for row in read_rows(data / "qa/en_medquad_raw.jsonl.gz"):
        question = row["question"].replace("What is (are)", "What is").replace(" ?", "?")
        if row["answer"] and stable_digest(row["id"]) % 5:
            yield question, row["answer"], [], "medquad", ""
    for name in ("zh_lecoqa_train", "zh_tidb_faq", "en_stackfaq"):
        for row in read_rows(data / f"qa/{name}.jsonl.gz"):
            yield row["question"], row["answer"], [], name, ""


def rephrased_questions(data: Path, rng: random.Random) -> Iterator[Found]:
    """Answers whose question people have put in other words, and bank customers' questions by intent."""
    folder = data / "retrieval/en_stackfaq"
    queries = {row["id"]: row["text"] for row in read_rows(folder / "queries.jsonl.gz")}
    asked: dict[str, list[str]] = defaultdict(list)
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        asked[document].append(queries[query])
    for row in read_rows(folder / "corpus.jsonl.gz"):
        if row["id"] in asked:
            asks = asked[row["id"]][:12]
            yield from [(row["title"] or asks[0], row["text"], asks, "rephrased", "")] * 2
    intents: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(data / "pairs/en_banking77_train.intents.jsonl.gz"):
        intents[row["intent"]].append(row["text"])
    for texts in intents.values():
        for _ in range(12):
            title, *asks = rng.sample(texts, 5)
            yield title, " ".join(rng.sample(texts, 2)), asks, "banking77", ""


def comprehension(data: Path) -> Iterator[Found]:
    """The sentence of a context that holds the answer, titled by the context's first words."""
    for row in read_rows(data / "qa/zh_cmrc2018_dev.jsonl.gz"):
        held = [part for part in sentences(row["context"]) if row["answer"] in part]
        if held:
            yield row["context"][:12], held[0], [row["question"]], "cmrc2018", row["answer"]
    for row in read_rows(data / "qa/en_covidqa_200423.jsonl.gz"):
        answer = row["answer"].strip()
        held = [part for part in sentences(row["context"]) if answer[:40] in part]
        title = " ".join(row["context"].split()[:7])
        yield title, held[0] if held else answer, [row["question"]], "covidqa", answer


def sections(data: Path, rng: random.Random) -> Iterator[Found]:
    """Paragraphs of documents, titled by page, heading or their own first words; two in three are left out."""
    for name in ("zh_tidb_docs", "zh_python_docs", "en_python_docs", "en_covidqa_papers"):
        for row in read_rows(data / f"text/{name}.jsonl.gz"):
            lines = [line.strip() for line in clean(row["text"]).split("\n")]
            page = heading = lines[0].lstrip("# ")[:60]
            for line in lines[1:]:
                if line.startswith("#"):
                    heading = line.lstrip("# ")[:60]
                elif is_prose(line) and rng.random() < (0.65 if name == "zh_tidb_docs" else 0.35):
                    first = re.split(r"[，。,.:：;；]", line)[0][:40]
                    yield rng.choice((f"{page} > {heading}", first, f"{heading} > {first}")), line, [], name, ""


def is_prose(line: str) -> bool:
    """Whether a line is a paragraph worth reading: long enough, no table, few signs of code."""
    signs = sum(character in "{}[]()<>=_/\\" for character in line)
    return len(line) >= (25 if _HAN.search(line) else 60) and line.count("|") <= 3 and signs <= 0.08 * len(line)


def load_items(data: Path, seed: int = 0) -> list[Item]:
    """All items of readable length, in an order that depends on `seed` alone."""
    rng = random.Random(seed)
    found = (asked_questions(data), rephrased_questions(data, rng), comprehension(data), sections(data, rng))
    items = []
    for title, text, asks, source, span in (each for group in found for each in group):
        title, text = one_line(title, 120), one_line(text, rng.choice((120, 200, 300, 450)))
        if len(title) >= 4 and len(text) >= 12:
            kept = tuple(one_line(ask, 160) for ask in asks if ask.strip())
            items.append(Item(title, text, kept, language(title + text), source, span if span in text else ""))
    rng.shuffle(items)
    return items


# Tasks: what is asked about an item, and the answer.

ASKED_AS = {
    "zh": (
        *("{}", "{}", "{}", "怎么{}", "如何{}", "{}怎么办", "请问{}", "我想知道{}", "{}是什么意思"),
        *("{}是怎么回事", "关于{}", "{}吗", "想问下{}", "能不能说说{}", "{}，怎么处理"),
    ),
    "en": (
        *("{}", "{}", "{}", "how do I {}", "what about {}", "I want to know about {}", "can you explain {}"),
        *("{} please", "help with {}", "where is {}", "what does {} mean", "is it possible to {}"),
        *("hi, {}", "why {}"),
    ),
}
REPEAT = {"zh": "完整复述资料 [{}]。", "en": "Repeat passage [{}] in full."}
TASKS = {"ask": 0.56, "repeat": 0.25, "absent": 0.17, "closed": 0.02}


def title_keys(title: str) -> set[str]:
    """What titles are compared by: longer words, and pairs of Chinese characters."""
    signs = _HAN.findall(title)
    pairs = {a + b for a, b in pairwise(signs)}
    return {word.lower() for word in _LONG_WORD.findall(title)} | pairs


def chunks(rng: random.Random, text: str) -> list[str]:
    """The words of `text`; Chinese in random pieces of two to four characters."""
    pieces: list[str] = []
    room = 0
    for word in _WORD.findall(text):
        if room and _HAN.match(word):
            pieces[-1] += word
            room -= 1
        else:
            pieces.append(word)
            room = rng.choice((1, 1, 1, 2, 3)) if _HAN.match(word) else 0
    return pieces


def perturb(rng: random.Random, title: str, lang: str) -> str:
    """A question made from a title: words dropped and moved, put the way that people ask."""
    pieces = chunks(rng, title.strip(" ?？。.!！")) or [title]
    keep = rng.uniform(0.35, 0.95)
    kept = [piece for piece in pieces if rng.random() < keep] or [rng.choice(pieces)]
    if rng.random() < 0.3:
        rng.shuffle(kept)
    text = ""
    for piece in kept:
        spaced = re.match(r"[A-Za-z0-9]", piece) and re.search(r"[A-Za-z0-9,.?]$", text)
        text += (" " if spaced else "") + piece
    asked = rng.choice(ASKED_AS[lang]).format(text)
    if rng.random() < 0.5:
        asked += "？" if lang == "zh" else "?"
    return asked[:1].upper() + asked[1:] if lang == "en" and rng.random() < 0.3 else asked


def short_answer(item: Item, text: str) -> str:
    """The known span, or the first clauses: about 9 to 18 Chinese characters, 22 to 45 others."""
    if item.span and item.span in text:
        return item.span
    limit = 18 if item.lang == "zh" else 45
    taken = ""
    for clause in _CLAUSE.findall(text):
        if taken and len(taken) + len(clause) > limit:
            break
        taken += clause
        if len(taken) >= limit / 2:
            break
    return taken.strip(" ，,;；:：") or text[:limit]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer to learn. `passages` are as shown; `right` is the number of the answering one."""

    task: str
    messages: list[dict[str, str]]
    answer: str
    passages: tuple[tuple[str, str], ...] = ()
    right: int | None = None


class Library:
    """The items, found by source and by the words of their titles; the first `held` are kept from training."""

    def __init__(self, items: Sequence[Item], held: int = 300) -> None:
        self.held, self.items = list(items[:held]), list(items[held:])
        self.by_source: dict[str, list[Item]] = defaultdict(list)
        self.by_key: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            self.by_source[item.source].append(item)
            for key in title_keys(item.title):
                self.by_key[key].append(item)
        self.sources = sorted(self.by_source)

    def draw(self, rng: random.Random) -> Item:
        """An item: in six of ten draws every source counts the same."""
        return rng.choice(self.by_source[rng.choice(self.sources)] if rng.random() < 0.6 else self.items)

    def others(self, rng: random.Random, item: Item, count: int) -> list[Item]:
        """Up to `count` passages that do not answer `item`'s questions; half share a word of its title."""
        keys = [key for key in sorted(title_keys(item.title)) if 1 < len(self.by_key.get(key, ())) < 3000]
        chosen: list[Item] = []
        for _ in range(40):
            if len(chosen) == count:
                break
            kind = rng.random()
            if kind < 0.55 and keys:
                other = rng.choice(self.by_key[rng.choice(keys)])
            else:
                other = rng.choice(self.by_source.get(item.source, self.items) if kind < 0.85 else self.items)
            if other.title == item.title or (other.lang != item.lang and rng.random() < 0.8):
                continue
            alike = any(other.text[:20] == known.text[:20] for known in (item, *chosen))
            if not alike and not set(other.asks) & set(item.asks):
                chosen.append(other)
        return chosen

    def example(self, rng: random.Random, task: str, item: Item, size: Size) -> Example:
        """A prompt of `task` about `item`."""
        lang = item.lang
        question = rng.choice(item.asks) if item.asks and rng.random() < 0.6 else perturb(rng, item.title, lang)
        if rng.random() < 0.08:
            question = item.title
        if task == "closed":
            return Example(task, prompt.messages(question, None, lang), short_answer(item, item.text))
        shown = self.others(rng, item, rng.randint(2, size.passages) - 1 + (task == "absent"))
        right = rng.randint(0, len(shown)) if rng.random() < 0.6 else 0
        if task != "absent":
            shown.insert(right, item)
        passages = tuple((each.title, prompt.escape(prompt.cut(each.text, size.characters))) for each in shown)
        if task == "absent":
            return Example(task, prompt.messages(question, passages, lang), prompt.DECLINE[lang], passages)
        if task == "repeat":
            right = rng.randrange(len(shown))
            said = rng.choice(("zh", "en")) if rng.random() < 0.2 else lang
            question, answer = REPEAT[said].format(right + 1), passages[right][1]
        else:
            answer = answer_from(rng, item, passages[right][1])
        asked = prompt.messages(question, passages, lang)
        return Example(task, asked, prompt.target(answer, right + 1), passages, right + 1)


def answer_from(rng: random.Random, item: Item, text: str) -> str:
    """A short answer in 85 of 100 draws, else the first sentence or the whole passage: the manner is for tuning."""
    if rng.random() < 0.85:
        return short_answer(item, text)
    return text if rng.random() < 0.4 else sentences(text)[0].strip()


@dataclass(frozen=True, slots=True)
class Size:
    """How large real prompts are."""

    passages: int
    characters: int

    @classmethod
    def at(cls, progress: float) -> Size:
        """The size at `progress`, 0 at the start of training and 1 at its end."""
        return cls(4, 450 if progress > 0.35 else 250 if progress > 0.2 else 130)


@dataclass(frozen=True, slots=True)
class Level:
    """A step of the curriculum of choosing: prompts of random tokens, and the accuracy that ends it."""

    blocks: int  # most passages
    title: int  # longest title, in tokens
    text: int  # longest text, in tokens
    changed: float  # share of questions that are not the whole title in order
    declined: float  # share of questions that no title matches
    shared: float  # share of wrong titles that hold a token of the right one
    enough: float  # share of right choices, over the last 300


CHOOSING_SHARE = 0.33  # of all tokens: real prompts of every task begin here at the latest
PEAK_RATE = 6e-4
PLANTED_RATE = 0.03  # what the rate is multiplied by where copying was planted
LEVELS = (
    Level(2, 4, 3, changed=0.0, declined=0.0, shared=0.0, enough=0.93),
    Level(3, 6, 4, changed=0.3, declined=0.1, shared=0.2, enough=0.93),
    Level(4, 8, 8, changed=0.6, declined=0.25, shared=0.5, enough=0.85),
    Level(4, 12, 24, changed=0.7, declined=0.25, shared=0.5, enough=0.85),
)
WINDOW = 300  # choices that a level is judged by
STEP_TOKENS = 4096  # half as many while levels grow


# Rows: token ids, with how much predicting each of them counts.


CHOICE = 4.0  # how much the first token of an answer counts: it says which passage


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence. `weights[i]`: how much predicting `ids[i]` counts, 0 = not at all."""

    task: str
    ids: list[int]
    weights: list[float]


def random_tokens(rng: random.Random, count: int) -> list[int]:
    """`count` ordinary tokens."""
    return [rng.randrange(20, VOCABULARY - len(MARKERS) - 3) for _ in range(count)]


def random_row(rng: random.Random, longest: int) -> Row:
    """A random text of 8 to `longest` tokens, a gap, and the text again, which counts.

    Four in ten have few distinct tokens, so that one token of context misleads and several are needed.
    """
    length = rng.randint(8, longest)
    text = random_tokens(rng, length)
    if rng.random() < 0.4:
        text = [rng.choice(text[: max(4, length // 3)]) for _ in range(length)]
    gap = random_tokens(rng, rng.randint(0, 200))
    return Row("random", text + gap + text, [0.0] * (length + len(gap) + 1) + [1.0] * (length - 1))


def example_row(example: Example, tokenizer: PreTrainedTokenizerFast) -> Row:
    """An example's tokens: the answer counts, its first token four times, the question's second statement 0.3."""
    asked = tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(asked)["input_ids"])
    answer = list(tokenizer(f"{example.answer}<|end|>")["input_ids"])
    weights = [0.0] * len(ids) + [CHOICE] + [1.0] * (len(answer) - 1)
    if example.passages:
        again = tokenizer(example.messages[1]["content"].rsplit("\n\n", 1)[1])["input_ids"]
        for place in range(len(ids) - 2 - len(again) + 3, len(ids) - 2):
            weights[place] = 0.3
    return Row(example.task, ids + answer, weights)


@dataclass(frozen=True, slots=True)
class Frame:
    """The token ids around a prompt's parts in one language, so that random tokens fill its real shape."""

    head: list[int]
    gap: list[int]
    line: list[int]
    ask: list[int]
    tail: list[int]
    decline: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, lang: str) -> Frame:
        """Read the frame off the real template."""
        ask = prompt.QUESTION[lang]
        head = f"<|system|>{prompt.SYSTEM[lang]}<|end|><|user|>{ask}"
        parts = (head, "\n\n", "\n", ask, "<|end|><|assistant|>", prompt.DECLINE[lang])
        return cls(*(list(tokenizer(part)["input_ids"]) for part in parts))


def random_question(rng: random.Random, titles: Sequence[list[int]], right: int | None, level: Level) -> list[int]:
    """The right title, its tokens often thinned, mixed and moved; or, with none right, one that matches no title."""
    if right is None:
        question = random_tokens(rng, rng.randint(2, 7))
        if rng.random() < 0.4:
            question[rng.randrange(len(question))] = rng.choice(rng.choice(titles))
        return question
    question = list(titles[right])
    if rng.random() < level.changed:
        kept = max(1, round(len(question) * rng.uniform(0.4, 1)))
        question = rng.sample(question, kept) + random_tokens(rng, rng.randint(0, 3))
        rng.shuffle(question)
    return question


def marker_row(rng: random.Random, frame: Frame, level: Level) -> Row:
    """A prompt in its real shape, of random tokens: choose the title that is asked for, copy its text."""
    count = rng.randint(2, level.blocks)
    titles = [random_tokens(rng, rng.randint(2, level.title)) for _ in range(count)]
    texts = [random_tokens(rng, rng.randint(1, level.text)) for _ in range(count)]
    right = rng.randrange(count)
    for number, title in enumerate(titles):
        if number != right and rng.random() < level.shared:
            title[rng.randrange(len(title))] = rng.choice(titles[right])
    declined = rng.random() < level.declined
    question = random_question(rng, titles, None if declined else right, level)
    ids = frame.head + question
    for number in range(count):
        ids = ids + frame.gap + titles[number] + frame.line + [marker_id(number + 1), *texts[number]]
    ids = ids + frame.gap + frame.ask + question + frame.tail
    answer = frame.decline if declined else [marker_id(right + 1), *texts[right]]
    answer = [*answer, SPECIAL.index("<|end|>")]
    return Row("marker", ids + answer, [0.0] * len(ids) + [CHOICE] + [1.0] * (len(answer) - 1))


def marker_id(number: int) -> int:
    """The token id of `[number]`: the markers are the last of the vocabulary."""
    return VOCABULARY - len(MARKERS) + number - 1


class RowMaker:
    """Draws rows as the progress of training, 0 to 1, and the level of choosing want them."""

    def __init__(self, library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
        self.library, self.tokenizer = library, tokenizer
        self.frames = [Frame.of(tokenizer, lang) for lang in ("zh", "en")]

    def row(self, rng: random.Random, progress: float, level: int) -> Row:
        """One row; while levels grow most are random prompts, with some real ones that have an answer."""
        growing, size = level < len(LEVELS), Size.at(progress)
        if growing and rng.random() < 0.08:
            return random_row(rng, 60)
        if rng.random() < (0.8 if growing else 0.3):
            return marker_row(rng, rng.choice(self.frames), LEVELS[min(level, len(LEVELS) - 1)])
        if growing:
            return self.real(rng, "ask" if rng.random() < 0.6 else "repeat", size)
        if rng.random() < max(0.06, 0.3 - 2 * progress):
            return random_row(rng, 120)
        return self.real(rng, rng.choices(list(TASKS), list(TASKS.values()))[0], size)

    def real(self, rng: random.Random, task: str, size: Size) -> Row:
        """A real prompt of a task, drawn until it is no longer than 640 tokens."""
        while True:
            example = self.library.example(rng, task, self.library.draw(rng), size)
            row = example_row(example, self.tokenizer)
            if len(row.ids) <= 640:
                return row

    def step(self, rng: random.Random, progress: float, level: int) -> list[Row]:
        """The rows of one step."""
        rows: list[Row] = []
        wanted = STEP_TOKENS // 2 if level < len(LEVELS) else STEP_TOKENS
        while sum(len(row.ids) for row in rows) < wanted:
            rows.append(self.row(rng, progress, level))
        return rows


def batches(rows: Iterable[Row], tokens: int = 2048) -> list[list[Row]]:
    """Rows of like length together, at most `tokens` a batch with padding."""
    made: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if not made or (len(made[-1]) + 1) * len(row.ids) > tokens:
            made.append([])
        made[-1].append(row)
    return made


# The model.


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A fresh model of the bundled size, with copying planted in its first two layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    plant_induction(model, seed)
    return model


def plant_induction(model: LlamaForCausalLM, seed: int) -> None:
    """Start from weights that already copy: "what followed these three tokens last time?".

    Layer 0, heads 0 to 2, look one to three tokens back: coordinate 0 of every embedding is the same
    constant, from which query and key make a fixed vector each, so that under rotary embedding the score
    depends on the distance alone. Layer 1 looks for the place preceded by the tokens that end the text so
    far, by random codes in the coordinates that rotary embedding hardly turns, and brings its token. Each
    of the three tokens has coordinates of its own: sharing them let unlike tokens pass for like ones. From
    random weights the same took most of what two CPU cores can do.
    Source: Olsson et al. 2022, "Mechanistic view"; Su et al. 2021, "RoFormer", section 3.2.2.
    """
    import torch

    config: Any = model.config
    hidden, size, spread = config.hidden_size, config.head_dim, 0.06
    generator = torch.Generator().manual_seed(seed)
    turns = config.rope_parameters["rope_theta"] ** (-torch.arange(size // 2) / (size / 2))
    slow = torch.nonzero(turns < 1 / 300).flatten()  # radians per token
    slow = torch.cat([slow, slow + size // 2])
    slow = slow[torch.randperm(len(slow), generator=generator)]
    counts = [int(0.4 * len(slow)), int(0.35 * len(slow))]
    places = torch.split(slow, [*counts, len(slow) - sum(counts)])
    longest = len(places[0])
    with torch.no_grad():
        for layer in model.model.layers:  # let the planted part speak first
            layer.self_attn.o_proj.weight.mul_(0.1)
            layer.mlp.down_proj.weight.mul_(0.1)
        table = model.model.embed_tokens.weight
        table.normal_(0, 1, generator=generator)
        table[:, 0] = 0
        table.mul_(spread * math.sqrt(hidden - 1) / table.norm(dim=1, keepdim=True))
        table[:, 0] = 4 * spread
        constant = 4 / math.sqrt((hidden - 1 + 16) / hidden)  # coordinate 0 after the norm
        basis = torch.zeros(hidden - 1, hidden)  # nothing but the position heads reads coordinate 0
        basis[:, 1:] = torch.linalg.qr(torch.randn(hidden - 1, hidden - 1, generator=generator))[0]
        codes = [basis[longest * n : longest * (n + 1)] for n in range(4)]  # of this token, and of those before it
        plant_look_back(model.model.layers[0].self_attn, turns, codes, constant, 3 * spread)
        attention = model.model.layers[1].self_attn
        for head in range(config.num_attention_heads):
            rows = slice(head * size, (head + 1) * size)
            query, key, brought = (torch.zeros(size, hidden) for _ in range(3))
            for place, strength, wanted, offered in zip(places, (4, 2, 2), codes, codes[1:], strict=False):
                query[place] = strength * 2**0.25 * wanted[: len(place)]
                key[place] = strength * 2**0.25 * offered[: len(place)]
            part = basis[head * hidden // 4 : (head + 1) * hidden // 4]
            brought[: len(part)] = part
            attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
            attention.v_proj.weight[rows] = brought
            attention.o_proj.weight[:, rows] = 4 * spread * brought.T


def plant_look_back(attention: Any, turns: Any, codes: Sequence[Any], constant: float, strength: float) -> None:
    """Heads 0, 1, 2 of layer 0 write the code of the token one, two, three places back into `codes[1:]`."""
    import torch

    half, count = len(turns), len(codes[0])
    fast = torch.arange(0, 16, 2)
    sharp = math.sqrt(200 * math.sqrt(2 * half) / 8 / len(fast)) / constant
    for head, written in enumerate(codes[1:]):
        rows, turn = slice(head * 2 * half, (head + 1) * 2 * half), (head + 1) * turns[fast]
        query, key = torch.zeros(2 * half), torch.zeros(2 * half)
        query[fast] = sharp
        key[fast] = sharp * torch.cos(turn)
        key[half + fast] = sharp * torch.sin(turn)
        for projection, vector in ((attention.q_proj, query), (attention.k_proj, key)):
            projection.weight[rows] = 0
            projection.weight[rows, 0] = vector
        attention.v_proj.weight[rows] = 0
        attention.v_proj.weight[rows.start : rows.start + count] = codes[0]
        attention.o_proj.weight[:, rows] = 0
        attention.o_proj.weight[:, rows.start : rows.start + count] = strength * written.T


# Training.


@dataclass(slots=True)
class State:
    """Where training stands; with the tensors, all that a resumed run needs."""

    level: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    choices: list[float] = field(default_factory=list)  # the last random prompts: 1 = rightly chosen


def learning_rate(step: int, progress: float) -> float:
    """A share of the peak: warm-up over 30 steps, then 1, then linear to a fiftieth from 45 % on."""
    return min(1.0, (step + 1) / 30, max(0.02, (1 - progress) / 0.55))


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the model made of a batch. The last three hold one entry for each token that counts, row by row."""

    ids: torch.Tensor  # int64 [batch, seq]
    weights: torch.Tensor  # float32 [batch, seq]
    middle: torch.Tensor  # [batch, seq, hidden], after the third layer
    logits: torch.Tensor  # float32 [counted, vocabulary]
    labels: torch.Tensor  # int64 [counted]
    kept: torch.Tensor  # float32 [counted]: the weights


def is_planted(name: str) -> bool:
    """Whether a parameter holds the planted circuit: embeddings and the first two layers' attention."""
    return "embed" in name or ".0.self_attn" in name or ".1.self_attn" in name


class Trainer:
    """Model, probe, optimizer and curriculum, in a folder that a stopped run goes on from.

    The rows of a step come from seed, step and level: a resumed run sees what it would have seen.
    The probe is a linear reading of the third layer at each passage's number, taught
    to tell whether that passage is the right one; it is left out of the exported model.
    """

    def __init__(self, maker: RowMaker, work: Path, seed: int, tokens: int) -> None:
        import torch

        self.maker, self.work, self.seed, self.tokens = maker, work, seed, tokens
        self.model = build_model(maker.tokenizer, seed)
        self.probe = torch.nn.Linear(self.model.config.hidden_size, 1)
        self.state = State()
        self.optimizer = self.new_optimizer()
        if (work / "state.json").exists():
            self.load()

    @property
    def progress(self) -> float:
        """0 at the start of training, 1 at its end."""
        return self.state.tokens / self.tokens

    @property
    def done(self) -> bool:
        """Whether training is over."""
        return self.state.tokens >= self.tokens

    def new_optimizer(self) -> torch.optim.AdamW:
        """AdamW in three groups: planted parameters, all others, the probe."""
        import torch

        named = list(self.model.named_parameters())
        groups = [
            {"params": [p for n, p in named if is_planted(n)], "scale": PLANTED_RATE},
            {"params": [p for n, p in named if not is_planted(n)], "scale": 1.0},
            {"params": list(self.probe.parameters()), "scale": 1.0},
        ]
        return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every trained tensor with its name in the checkpoint."""
        for part, module in (("model", self.model), ("probe", self.probe)):
            for name, parameter in module.named_parameters():
                yield f"{part}/{name}", parameter

    def save(self) -> None:
        """Write the checkpoint: tensors first, then `state.json`, which names them."""
        import torch
        from safetensors.torch import save_file

        self.work.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach() for name, tensor in self.named_tensors()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in slots.items()}
        name = f"tokens-{self.state.tokens}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, self.work / name)
        record = {"checkpoint": name, "seed": self.seed, "total": self.tokens, **asdict(self.state)}
        aside = self.work / "state.json.aside"
        aside.write_text(json.dumps(record, indent=1) + "\n")
        aside.replace(self.work / "state.json")
        for old in self.work.glob("tokens-*.safetensors"):
            if old.name != name:
                old.unlink()

    def load(self) -> None:
        """Go on from the checkpoint in the work folder."""
        import torch
        from safetensors.torch import load_file

        saved = json.loads((self.work / "state.json").read_text())
        tensors = load_file(self.work / saved.pop("checkpoint"))
        if (saved.pop("seed"), saved.pop("total")) != (self.seed, self.tokens):
            raise SystemExit(f"{self.work} was made with other --seed or --tokens: give another --work folder")
        self.state = State(**saved)
        with torch.no_grad():
            for name, tensor in self.named_tensors():
                tensor.copy_(tensors[name])
        slots: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, slot = key.split("/")
                slots[int(index)][slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": dict(slots)})

    def predict(self, rows: Sequence[Row]) -> Predicted:
        """Run the model over rows of like length."""
        import torch

        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows])
        weights = torch.tensor([row.weights + [0.0] * (longest - len(row.ids)) for row in rows])
        counted = weights[:, 1:] > 0
        with torch.autocast("cpu", torch.bfloat16):
            out = self.model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            logits = self.model.lm_head(out.last_hidden_state[:, :-1][counted])
        labels, kept = ids[:, 1:][counted], weights[:, 1:][counted]
        return Predicted(ids, weights, out.hidden_states[3], logits.float(), labels, kept)

    def probe_loss(self, rows: Sequence[Row], seen: Predicted) -> torch.Tensor:
        """How ill the probe tells the right passage's number from the others, in nats; 0 where nothing is asked."""
        import torch
        from torch.nn import functional

        first = (seen.weights == CHOICE).float().argmax(1)
        right = seen.ids[torch.arange(len(rows)), first]
        asked = torch.tensor([row.task in ("ask", "absent", "marker") for row in rows])
        numbers = (seen.ids >= marker_id(1)) & (torch.arange(seen.ids.shape[1])[None] < first[:, None])
        numbers &= asked[:, None]
        if not bool(numbers.any()):
            return torch.zeros(())
        found = self.probe(seen.middle[numbers].float()).squeeze(-1)
        truth = (seen.ids == right[:, None])[numbers].float()
        return functional.binary_cross_entropy_with_logits(found, truth, pos_weight=torch.tensor(2.0))

    def train_step(self) -> float:
        """One optimizer step. Returns the weighted loss in nats."""
        import torch
        from torch.nn import functional

        rng = random.Random(f"{self.seed}/{self.state.step}/{self.state.level}")
        rows = self.maker.step(rng, self.progress, self.state.level)
        total, weight = 0.0, sum(sum(row.weights[1:]) for row in rows)
        for batch in batches(rows):
            seen = self.predict(batch)
            each = functional.cross_entropy(seen.logits, seen.labels, reduction="none")
            loss = (each * seen.kept).sum() / weight
            total += loss.item()
            loss = loss + self.probe_loss(batch, seen) * len(batch) / len(rows)
            self.note_choices(batch, seen)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        share = learning_rate(self.state.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * share * group["scale"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.advance(sum(len(row.ids) for row in rows))
        return total

    def note_choices(self, rows: Sequence[Row], seen: Predicted) -> None:
        """Keep, for each random prompt, whether the first token of its answer is foreseen."""
        right = (seen.logits.argmax(-1) == seen.labels)[seen.kept == CHOICE]
        opened = [row.task for row in rows if CHOICE in row.weights]
        marked = [float(hit) for task, hit in zip(opened, right, strict=True) if task == "marker"]
        self.state.choices = (self.state.choices + marked)[-WINDOW:]

    def advance(self, tokens: int) -> None:
        """Count a step; go to the next level when this one is mastered, to real prompts at the latest when due."""
        state = self.state
        state.step += 1
        state.tokens += tokens
        if state.level < len(LEVELS):
            mastered = sum(state.choices) > LEVELS[state.level].enough * WINDOW
            if self.progress > CHOOSING_SHARE:
                state.level = len(LEVELS)
            elif mastered:
                state.level, state.choices = state.level + 1, []

    def run(self, minutes: float = math.inf, every: int = 300) -> None:
        """Train to the end or for `minutes`; save and evaluate every `every` steps, save at the end."""
        began, before, steps = time.monotonic(), self.state.seconds, 0
        while not self.done and time.monotonic() - began < 60 * minutes:
            loss = self.train_step()
            steps += 1
            self.state.seconds = before + time.monotonic() - began
            if steps % 10 == 0:
                state, chosen = self.state, self.state.choices
                at = f"{state.seconds:.0f} s, step {state.step}, level {state.level}"
                rate = state.tokens / state.seconds
                hits = sum(chosen) / max(1, len(chosen))
                print(f"{at}: loss {loss:.3f}, chosen {hits:.2f}, {rate:.0f} tok/s", flush=True)
            if steps % every == 0:
                self.save()
                print(json.dumps(self.evaluate(60)), flush=True)
        self.save()

    def evaluate(self, count: int, characters: int = 450) -> dict[str, dict[str, float]]:
        """Per task, on held-out items: shares of right first tokens, right tokens (teacher-forced), exact answers."""
        import torch

        figures: dict[str, dict[str, float]] = {}
        size = Size(4, characters)
        library = self.maker.library
        for task in ("ask", "absent", "repeat"):
            rng = random.Random(5)
            examples = [library.example(rng, task, item, size) for item in library.held[:count]]
            rows = [answer_only(example_row(example, self.maker.tokenizer)) for example in examples]
            rows = [row for row in rows if len(row.ids) <= self.model.config.max_position_embeddings]
            right: list[torch.Tensor] = []
            with torch.no_grad():
                for row in rows:
                    seen = self.predict([row])
                    right.append((seen.logits.argmax(-1) == seen.labels).float())
            figures[task] = {
                "first": sum(float(each[0]) for each in right) / len(right),
                "token": float(torch.cat(right).mean()),
                "exact": sum(float(each.min()) for each in right) / len(right),
            }
        return figures


def answer_only(row: Row) -> Row:
    """The row with nothing counted but the answer."""
    start = row.ids.index(SPECIAL.index("<|assistant|>"))
    return Row(row.task, row.ids, [float(place > start) for place in range(len(row.ids))])


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in bfloat16 (to be read as float32) and the tokenizer, aside, then rename into place.

    A `README.md` already in `out` is kept.
    """
    import shutil

    from transformers import GenerationConfig

    aside = out.with_name(f".{out.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.bfloat16().save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    changes = {
        "config.json": ("dtype", "float32"),
        "tokenizer_config.json": ("tokenizer_class", "PreTrainedTokenizerFast"),
    }
    for name, (key, value) in changes.items():
        record = json.loads((aside / name).read_text()) | {key: value}
        (aside / name).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    if (out / "README.md").exists():
        shutil.copy(out / "README.md", aside / "README.md")
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, train, export."""
    import torch
    from transformers import PreTrainedTokenizerFast

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data folder, laid out as its README says")
    parser.add_argument("--work", type=Path, required=True, help="folder for the tokenizer and the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=4_700_000, help="tokens of the whole training")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; run again to go on")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if not (given.work / "tokenizer").exists():
        train_tokenizer(tokenizer_texts(given.data)).save_pretrained(given.work / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(given.work / "tokenizer")
    maker = RowMaker(Library(load_items(given.data, given.seed)), tokenizer)
    trainer = Trainer(maker, given.work, given.seed, given.tokens)
    trainer.run(given.minutes)
    if trainer.done:
        print(json.dumps(trainer.evaluate(300)), flush=True)
        export(trainer.model, tokenizer, given.out)


if __name__ == "__main__":
    main()

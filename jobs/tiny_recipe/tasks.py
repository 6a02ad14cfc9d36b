"""Tasks: what is asked about an item, and the answer."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ragray import prompt
from tiny_recipe.corpus import HAN, Item, sentences

_CLAUSE = re.compile(r"[^，。；,;.!?！？：:]+[，。；,;.!?！？：:]?")
_WORD = re.compile(r"[\u4e00-\u9fff]|[A-Za-z0-9_.\-]+|[^\s]")
_LONG_WORD = re.compile(r"[A-Za-z0-9_.\-]{4,}")

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
QUOTE = {"zh": "完整引用：{}", "en": "Quote in full: {}"}
TASKS = {"ask": 0.56, "quote": 0.25, "absent": 0.17, "closed": 0.02}


def title_keys(title: str) -> set[str]:
    """What titles are compared by: longer words, and pairs of Chinese characters."""
    signs = HAN.findall(title)
    pairs = {a + b for a, b in pairwise(signs)}
    return {word.lower() for word in _LONG_WORD.findall(title)} | pairs


def chunks(rng: random.Random, text: str) -> list[str]:
    """The words of `text`; Chinese in random pieces of two to four characters."""
    pieces: list[str] = []
    room = 0
    for word in _WORD.findall(text):
        if room and HAN.match(word):
            pieces[-1] += word
            room -= 1
        else:
            pieces.append(word)
            room = rng.choice((1, 1, 1, 2, 3)) if HAN.match(word) else 0
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
    """The known span, or the first clauses: about 5 to 10 Chinese characters, 13 to 26 others."""
    if item.span and item.span in text:
        return item.span
    limit = 10 if item.lang == "zh" else 26
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
        if task == "quote":
            said = rng.choice(("zh", "en")) if rng.random() < 0.2 else lang
            question, answer = QUOTE[said].format(question), passages[right][1]
        else:
            answer = answer_from(rng, item, passages[right][1])
        asked = prompt.messages(question, passages, lang)
        return Example(task, asked, prompt.target(answer, right + 1), passages, right + 1)


def answer_from(rng: random.Random, item: Item, text: str) -> str:
    """A short answer in 19 of 20 draws, else the first sentence or the whole passage: the manner is for tuning."""
    if rng.random() < 0.95:
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

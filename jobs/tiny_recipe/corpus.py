"""Texts to learn from: cleaned, and cut into items of a passage and the questions that people asked about it."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragray import prompt
from ragray.schema import stable_digest


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


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


HAN = re.compile(r"[\u4e00-\u9fff]")
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
    return "zh" if len(HAN.findall(text)) * 3 > len(text) else "en"


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
    return len(line) >= (25 if HAN.search(line) else 60) and line.count("|") <= 3 and signs <= 0.08 * len(line)


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

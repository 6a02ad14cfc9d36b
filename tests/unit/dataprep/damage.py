"""Damaged inputs from a seed: what breaks readers in practice, and what an adversary would send.

Each is a sound file of one text format, spoiled in one to three of these ways: cut off, bits flipped, bytes of another
encoding put in, strange Unicode put in, a piece of another format put in, lines repeated or swapped, packed and cut.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".md", ".html")
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "gb18030", "big5hkscs", "utf-16", "utf-16-le", "cp1252")

_PAIRS = (
    ("How do I install it?", "Run `pip install` and wait.\nThen restart."),
    ("怎样安装？", "用命令安装它，然后重新启动。"),
    ("如何重置密碼？", "請在設定頁面按下「重設」。"),
    ('What is "quoted", really?', 'A field with "quotes", commas and\ttabs.'),
    ("Où est le café ?", "Près du château, à côté de la forêt."),
    ("What does it cost?", "| plan | price |\n| free | 0 |"),
    ("Is 1 < 2 & 3 > 2?", "Yes: <b>always</b>, see `a < b`."),
)
_STRANGE = (
    "\x00", "\x1a", "\x85", "\u2028", "\u2029", "\ufeff", "\u200b", "\u202e", "\U000e0041", "\ufffd", "\uffff",
    "\U0010ffff", "e" + "\u0301" * 300, "\ufdfa" * 40, "🏳️‍🌈" * 20, "\\ud800", "\\u0000", "NaN", "Infinity", "1e999",
    "9" * 5000, "[" * 3000, '{"a":' * 1500, '"', '""', "\r", "\r\n", "\n\n\n", "```\n", "<!--", "<pre>", "</td>", "# ",
    "Q: ", "A: ", "问：", "<dt>", "<" * 500, "&#0;", "&#xD800;", "{{{x}}}", " " * 2000, "\t" * 50, "#" * 3000, "\\",
)  # fmt: skip


@dataclass(frozen=True)
class Damaged:
    """A damaged file: what to call it, what is in it, and what was done to it."""

    name: str
    content: bytes
    story: tuple[str, ...]


def damaged_inputs(count: int, seed: int) -> Iterator[Damaged]:
    """`count` inputs, the same for the same seed, over all formats in turn."""
    for n in range(count):
        rng = random.Random(f"{seed}-{n}")
        ending = ENDINGS[n % len(ENDINGS)]
        encoding = rng.choice(ENCODINGS)
        content = _sound(ending, rng).encode(encoding, "replace")
        story = [encoding]
        for _ in range(rng.randint(1, 3)):
            how = rng.choice(_WAYS)
            content = how(content, rng)
            story.append(how.__name__.strip("_"))
        packing = rng.choice(("", "", "", ".gz", ".zst"))
        if packing:
            content = _packed(content, packing, rng)
            story.append(packing)
        yield Damaged(f"in{n:04d}{ending}{packing}", content, tuple(story))


def _sound(ending: str, rng: random.Random) -> str:
    pairs = [rng.choice(_PAIRS) for _ in range(rng.choice((1, 3, 20, 60)))]
    records = [{"question": q, "answer": a, "n": n} for n, (q, a) in enumerate(pairs)]
    if ending == ".jsonl":
        return "".join(json.dumps(record, ensure_ascii=rng.random() < 0.3) + "\n" for record in records)
    if ending == ".json":
        return json.dumps(records, ensure_ascii=False, indent=rng.choice((None, 1)))
    if ending in (".csv", ".tsv"):
        text = io.StringIO()
        writer = csv.writer(
            text, delimiter="," if ending == ".csv" else "\t", lineterminator=rng.choice(("\n", "\r\n"))
        )
        writer.writerows([("question", "answer"), *pairs])
        return text.getvalue()
    if ending == ".txt":
        return "".join(f"Q: {q}\nA: {a}\n\n" if n % 2 else f"问：{q}\n答：{a}\n" for n, (q, a) in enumerate(pairs))
    if ending == ".md":
        return "# FAQ\n\n" + "".join(f"## {q}\n\n{a}\n\n" for q, a in pairs)
    body = "".join(
        f"<h2>{q}</h2><p>{a}</p>\n" if n % 3 else f"<dl><dt>{q}<dd>{a}</dl>" for n, (q, a) in enumerate(pairs)
    )
    return f"<html><body><h1>FAQ</h1>{body}</body></html>"


def _truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def _flipped(content: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(rng.choice((1, 5, 50)) if content else 0):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _mixed_encodings(content: bytes, rng: random.Random) -> bytes:
    question, answer = rng.choice(_PAIRS)
    return _inserted(content, f"{question},{answer}".encode(rng.choice(ENCODINGS), "replace"), rng)


def _strange_unicode(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        content = _inserted(content, rng.choice(_STRANGE).encode("utf-8", "surrogatepass"), rng)
    return content


def _spliced(content: bytes, rng: random.Random) -> bytes:
    other = _sound(rng.choice(ENDINGS), rng).encode()
    return _inserted(content, other[: rng.randint(0, len(other))], rng)


def _shuffled_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines + lines[: rng.randint(0, 3)])


def _noise(content: bytes, rng: random.Random) -> bytes:
    return _inserted(content, rng.randbytes(rng.choice((1, 16, 500))), rng)


def _inserted(content: bytes, piece: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + piece + content[at:]


def _packed(content: bytes, packing: str, rng: random.Random) -> bytes:
    packed = gzip.compress(content, mtime=0) if packing == ".gz" else pa.compress(content, "zstd", asbytes=True)
    spoil = rng.choice((None, None, _truncated, _flipped, _noise))
    return spoil(packed, rng) if spoil else packed


_WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _truncated, _flipped, _mixed_encodings, _strange_unicode, _spliced, _shuffled_lines, _noise,
)  # fmt: skip

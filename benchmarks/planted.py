"""Planted near-duplicates and planted leaks, whose truth is known.

In: real pairs (`--data`) or synthetic ones. Out, `pairs`: texts of which each `copy` was made from its `base` by
swapping, inserting and dropping words (Han characters in Chinese) until their Jaccard similarity was down at a
level; the true similarity is recorded, by two definitions. Out, `leaks`: train and test records, and which test
record was made from which train record, and how. The same seed gives the same files.

  python benchmarks/planted.py pairs --data FOLDER --per-level 200 --out pairs.parquet
  python benchmarks/planted.py leaks --data FOLDER --train 2000 --out FOLDER
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from texts import HAN, Pair, base_pairs, write_rows

LEVELS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
LANGUAGES = ("zh", "en")
LEAK_KINDS = ("exact", "near", "reordered", "same_answer")

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_TOKEN = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+[+#]*")
_WIDTH = 3
_GRAM = 5
_TOLERANCE = 0.02  # of a planted similarity around its level
_FEWEST_TOKENS = 40  # of a base text: of fewer, a single change costs more than the tolerance
_FEWEST_QUESTION_TOKENS = 6


@dataclass(frozen=True)
class Planted:
    """A copy with its base, and how alike they truly are."""

    base_id: str
    copy_id: str
    lang: str
    level: float  # the similarity that was aimed at
    jaccard: float  # of the shingles of three tokens
    jaccard_chars: float  # of the character 5-grams
    edits: int  # changes made
    base: str
    copy: str


@dataclass(frozen=True)
class Leak:
    """A test record that says what a train record says."""

    test_id: str
    train_id: str
    kind: str  # of LEAK_KINDS
    jaccard: float  # of the two questions, shingles of three tokens
    same_answer: bool


def token_shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of three tokens; a token is a Han character or a word without regard to case.

    Written apart from ragray's own, which it is to check.
    """
    tokens = _TOKEN.findall(text.lower())
    return frozenset(tuple(tokens[i : i + _WIDTH]) for i in range(max(1, len(tokens) - _WIDTH + 1)))


def char_grams(text: str) -> frozenset[str]:
    """The character 5-grams; a shorter text is its own only gram."""
    return frozenset(text[i : i + _GRAM] for i in range(max(1, len(text) - _GRAM + 1)))


def jaccard(left: frozenset[object], right: frozenset[object]) -> float:
    """|A and B| / |A or B|."""
    return len(left & right) / len(left | right)


def language_of(text: str) -> str:
    """ "zh" where there is a Han character, else "en"."""
    return "zh" if HAN.search(text) else "en"


def parts_of(text: str) -> list[str]:
    """What edits work on: characters of a Chinese text, words of another."""
    return list(text) if language_of(text) == "zh" else text.split()


def text_of(parts: Sequence[str], lang: str) -> str:
    """The text of parts, the inverse of `parts_of` but for the width of spaces."""
    return ("" if lang == "zh" else " ").join(parts)


def edit_once(parts: list[str], vocabulary: Sequence[str], chance: Random) -> None:
    """Swap, insert or drop one part, in place."""
    place = chance.randrange(len(parts))
    kind = chance.choice(("swap", "insert", "drop"))
    if kind == "drop" and len(parts) > 1:
        del parts[place]
    else:
        parts[place : place + (kind == "swap")] = [chance.choice(vocabulary)]


def edited_to(text: str, level: float, vocabulary: Sequence[str], chance: Random) -> tuple[str, float, int] | None:
    """A copy that is as like `text` as `level`, as (copy, similarity, edits); None where one change was too much."""
    lang, shingles = language_of(text), token_shingles(text)
    parts = parts_of(text)
    for edits in range(1, len(parts)):
        edit_once(parts, vocabulary, chance)
        copy = text_of(parts, lang)
        similarity = jaccard(shingles, token_shingles(copy))
        if similarity < level - _TOLERANCE:
            return None
        if similarity <= level + _TOLERANCE / 2:
            return copy, similarity, edits
    return None


def plant_pairs(pairs: Sequence[Pair], per_level: int, seed: int) -> Iterator[Planted]:
    """`per_level` copies for each language and level, each of a base text of its own."""
    chance = Random(f"planted {seed}")
    texts = list(dict.fromkeys(f"{question}\n{answer}" for question, answer in pairs))
    for lang in LANGUAGES:
        bases = [text for text in texts if language_of(text) == lang and len(_TOKEN.findall(text)) >= _FEWEST_TOKENS]
        chance.shuffle(bases)
        vocabulary = [part for text in bases[:3000] for part in parts_of(text) if _TOKEN.fullmatch(part)]
        waiting = iter(bases)
        for level in LEVELS:
            yield from _plant_level(waiting, lang, level, per_level, vocabulary, chance)


def _plant_level(
    bases: Iterator[str], lang: str, level: float, count: int, vocabulary: Sequence[str], chance: Random
) -> Iterator[Planted]:
    made = 0
    while made < count:
        base = next(bases, None)
        if base is None:
            raise SystemExit(f"not enough {lang} texts for level {level}: lower --per-level, or give more by --data")
        found = edited_to(base, level, vocabulary, chance)
        if found is None:
            continue
        copy, similarity, edits = found
        name = f"{lang}-{round(level * 100)}-{made:05d}"
        chars = jaccard(char_grams(base), char_grams(copy))
        yield Planted(f"{name}-base", f"{name}-copy", lang, level, similarity, chars, edits, base, copy)
        made += 1


def plant_leaks(
    pairs: Sequence[Pair], train: int, per_kind: int, seed: int
) -> tuple[list[dict[str, object]], list[dict[str, object]], list[Leak]]:
    """Train records, test records, and the leaks among them; the other half of the test records leaks nothing known.

    exact: the question again, in other letter case. near: one word changed. reordered: the same words in another
    order. same_answer: another question with the answer of a train record. All but the last have new answers.
    """
    chance = Random(f"leaks {seed}")
    distinct = [pair for pair in _distinct(pairs) if len(_TOKEN.findall(pair[0])) >= _FEWEST_QUESTION_TOKENS]
    chance.shuffle(distinct)
    wanted = train + 2 * per_kind * len(LEAK_KINDS)
    if len(distinct) < wanted:
        raise SystemExit(f"{wanted:,} distinct pairs are needed, there are {len(distinct):,}: lower --train")
    train_rows = [_row("train", n, *pair) for n, pair in enumerate(distinct[:train])]
    fresh = iter(distinct[train:wanted])
    test_rows: list[dict[str, object]] = []
    leaks: list[Leak] = []
    for kind in LEAK_KINDS:
        vocabulary = {lang: _vocabulary(distinct[:2000], lang) for lang in LANGUAGES}
        for of_train in chance.sample(range(train), per_kind):
            question, answer = _leaking(kind, distinct[of_train], next(fresh), vocabulary, chance)
            similarity = jaccard(token_shingles(question), token_shingles(distinct[of_train][0]))
            same = answer == distinct[of_train][1]
            test_rows.append(_row("test", len(test_rows), question, answer))
            leaks.append(Leak(str(test_rows[-1]["id"]), str(train_rows[of_train]["id"]), kind, similarity, same))
    test_rows += [_row("test", len(test_rows) + n, *pair) for n, pair in enumerate(fresh)]
    return train_rows, test_rows, leaks


def _distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of which no two share a question or an answer."""
    questions: set[str] = set()
    answers: set[str] = set()
    kept = []
    for question, answer in pairs:
        if question.lower() not in questions and answer.lower() not in answers:
            kept.append((question, answer))
        questions.add(question.lower())
        answers.add(answer.lower())
    return kept


def _vocabulary(pairs: Sequence[Pair], lang: str) -> list[str]:
    questions = [question for question, _ in pairs if language_of(question) == lang]
    return [part for question in questions for part in parts_of(question) if _TOKEN.fullmatch(part)] or ["x"]


def _leaking(kind: str, leaked: Pair, fresh: Pair, vocabulary: dict[str, list[str]], chance: Random) -> Pair:
    """The test pair that leaks `leaked`; `fresh` gives what must not come from it."""
    question, answer = leaked
    if kind == "same_answer":
        return fresh[0], answer
    if kind == "exact":
        return question.swapcase(), fresh[1]
    lang, parts = language_of(question), parts_of(question)
    if kind == "near":
        place = chance.choice([n for n, part in enumerate(parts) if _TOKEN.search(part)])
        parts[place] = chance.choice([word for word in vocabulary[lang] if word != parts[place]])
    else:
        cut = chance.randrange(1, len(parts)) if len(parts) > 1 else 0
        parts = parts[cut:] + parts[:cut]
    return text_of(parts, lang), fresh[1]


def _row(split: str, number: int, question: str, answer: str) -> dict[str, object]:
    return {"id": f"{split}-{number:06d}", "question": question, "answer": answer, "split": split}


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("pairs", "leaks"))
    parser.add_argument("--data", type=Path, help="folder with *.jsonl.gz of question-answer records; else synthetic")
    parser.add_argument("--out", type=Path, required=True, help="pairs: .parquet or .jsonl file; leaks: a folder")
    parser.add_argument("--per-level", type=int, default=100, help="pairs: for each language and level")
    parser.add_argument("--train", type=int, default=2000, help="leaks: train records")
    parser.add_argument("--per-kind", type=int, default=100, help="leaks: of each kind; as many test records leak none")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    base = base_pairs(args.data, args.seed)
    if args.what == "pairs":
        planted = [asdict(pair) for pair in plant_pairs(base, args.per_level, args.seed)]
        write_rows(planted, args.out)
        print(f"{len(planted):,} pairs in {args.out}")
        return
    train, test, leaks = plant_leaks(base, args.train, args.per_kind, args.seed)
    for name, rows in (("train", train), ("test", test), ("leaks", [asdict(leak) for leak in leaks])):
        write_rows(rows, args.out / f"{name}.jsonl")
    print(f"{len(train):,} train, {len(test):,} test records, {len(leaks):,} leaks in {args.out}")


if __name__ == "__main__":
    main()

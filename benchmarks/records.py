"""Question-answer records as they come in practice, for the speed benchmarks.

In: real pairs (`--data`), or synthetic ones. Out: as many records as wanted: a tenth exact copies of earlier ones, a
tenth near copies (one word changed), the rest a real pair with some foreign words put in, so that it is new.
Four in a hundred hold HTML, three full-width letters, two mojibake with invisible characters. The same seed
gives the same records. With `--short`, questions and answers are cut before words are put in: about 60 and 130
characters. Copies are of 100,000 earlier ones, chosen at random, so that memory does not grow with the count.

  python benchmarks/records.py --data FOLDER --count 100000 --out records.parquet
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

from texts import HAN, Pair, base_pairs, write_rows

_REMEMBERED = 100_000
_SHORT_QUESTION, _SHORT_ANSWER = 40, 60  # characters
_SOME_HAN = "的一是不了人我在有他这"
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


class Generator:
    """Draws records one after another; what it drew before is what it copies."""

    def __init__(self, pairs: list[Pair], seed: int) -> None:
        self.chance = Random(seed)
        self.chinese = [pair for pair in pairs if HAN.search(pair[0])]
        self.english = [pair for pair in pairs if not HAN.search(pair[0])]
        self.words = [word for _, answer in self.english[:5000] for word in answer.split()[:30]]
        self.characters = [char for _, answer in self.chinese[:3000] for char in answer[:60]] or list(_SOME_HAN)
        self.drawn: list[Pair] = []

    def draw(self) -> Pair:
        """The next record."""
        share = self.chance.random()
        pair = _soiled(*self._clean_pair(share), share)
        if len(self.drawn) < _REMEMBERED:
            self.drawn.append(pair)
        else:
            self.drawn[self.chance.randrange(_REMEMBERED)] = pair
        return pair

    def _clean_pair(self, share: float) -> Pair:
        if share < 0.10 and self.drawn:
            return self.chance.choice(self.drawn)
        if share < 0.20 and self.drawn:
            return self._near_copy(*self.chance.choice(self.drawn))
        if self.chinese and self.chance.random() < 0.35:
            return self._new_chinese(*self.chance.choice(self.chinese))
        return self._new_english(*self.chance.choice(self.english))

    def _near_copy(self, question: str, answer: str) -> Pair:
        words = answer.split()
        if len(words) <= 6:
            return question, answer + self.chance.choice(self.characters)
        words[self.chance.randrange(len(words))] = self.chance.choice(self.words)
        return question, " ".join(words)

    def _new_chinese(self, question: str, answer: str) -> Pair:
        foreign = "".join(self.chance.sample(self.characters, 14))
        place = self.chance.randrange(max(1, len(answer)))
        return question + foreign[:6], answer[:place] + foreign + answer[place:]

    def _new_english(self, question: str, answer: str) -> Pair:
        foreign = self.chance.sample(self.words, 10)
        words = answer.split()
        place = self.chance.randrange(max(1, len(words)))
        return f"{question[:-1]} {' '.join(foreign[:4])}?", " ".join(words[:place] + foreign + words[place:])


def _soiled(question: str, answer: str, share: float) -> Pair:
    """The pair as a careless export would hold it, for a share of nine in a hundred."""
    if share > 0.96:
        opened = answer.replace(". ", ".</p><br/>\n<b>", 1)
        return question, f"<p>{opened}</b>&nbsp;&amp; more</p>"
    if share > 0.93:
        return question.translate(_FULL_WIDTH), answer
    if share > 0.91:
        return question, answer.replace("'", "\u00e2\u20ac\u2122") + "\u200b  \t "
    return question, answer


def make_records(pairs: list[Pair], count: int, seed: int) -> Iterator[dict[str, object]]:
    """`count` records with the keys id (int), question and answer."""
    generator = Generator(pairs, seed)
    for number in range(count):
        question, answer = generator.draw()
        yield {"id": number, "question": question, "answer": answer}


def main() -> None:
    """Write the records that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with *.jsonl.gz of question-answer records; else synthetic")
    parser.add_argument("--count", type=int, default=100_000, help="records")
    parser.add_argument("--short", action="store_true", help="short questions and answers")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help=".parquet or .jsonl")
    args = parser.parse_args()
    pairs = base_pairs(args.data, args.seed)
    if args.short:
        pairs = [(question[:_SHORT_QUESTION], answer[:_SHORT_ANSWER]) for question, answer in pairs]
    write_rows(make_records(pairs, args.count, args.seed), args.out)
    print(f"{args.count:,} records in {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""How often the semantic cache gives a wrong answer, and how often a right one, on labelled questions held apart.

In: a folder with en_stackfaq_rephrasings, en_covid_question_similarity, en_banking77_train.intents and zh_pawsx_dev
(gzipped JSONL; text1, text2, label, group, or text and intent). Out: a Markdown table. Each collection is split in two
by the digest of its group (thread, pair, question); the threshold is fitted on the one part, rates are of the other.

  cache   false hits: the cache holds the questions of all other groups, so that any hit is false;
          right hits: it holds all questions but the one that is asked, and the nearest one is of its group
  pairs   labelled pairs: of those that mean different things, which would share an answer; of those that mean the same

Intervals are of Clopper and Pearson, two-sided, 95 %. One run in this process, not a speed benchmark.

  python benchmarks/semantic_cache.py --data FOLDER
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness import publish
from scipy.stats import binomtest

from ragray.config import RetrievalConfig
from ragray.retrieval.agreement import Reading
from ragray.retrieval.false_hits import LEAST, measure, threshold
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.similar import PastQuestions, Wording, similarity, wording_of
from ragray.retrieval.writing import build_index
from ragray.schema import Passage, stable_digest

SEED = 17
BUDGETS = (0.01, 0.05)
FLOOR = 0.3  # of similarities that are looked for


@dataclass
class Part:
    """Half of a collection: questions with what stands for their answer, and labelled pairs."""

    questions: list[tuple[str, str]] = field(default_factory=list)
    same: list[tuple[str, str]] = field(default_factory=list)
    different: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Scored:
    """Similarities. Without the agreement, they are cosines alone."""

    false: Sequence[float]  # of each question to its nearest, with no right one in the cache
    right: Sequence[float]  # of each question to its nearest, all others in the cache; 0 where that is a wrong one
    different: Sequence[float]  # of labelled pairs
    same: Sequence[float]

    @property
    def negatives(self) -> list[float]:
        """All that must not be hit."""
        return [*self.false, *self.different]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def collections(folder: Path) -> dict[str, tuple[str, tuple[Part, Part]]]:
    """(language, its two parts) of each collection."""
    return {
        "stackfaq": ("en", stackfaq(folder / "en_stackfaq_rephrasings.jsonl.gz")),
        "covid": ("en", pairs(folder / "en_covid_question_similarity.jsonl.gz")),
        "banking77": ("en", banking(folder / "en_banking77_train.intents.jsonl.gz")),
        "pawsx": ("zh", pairs(folder / "zh_pawsx_dev.jsonl.gz")),
    }


def half(group: object) -> int:
    """0: fitted on; 1: measured."""
    return stable_digest(SEED, "half", str(group)) % 2


def stackfaq(path: Path) -> tuple[Part, Part]:
    """Threads: a rephrasing is asked, the cache holds the other threads' rephrasings and questions."""
    parts, seen = (Part(), Part()), set[str]()
    for row in read_lines(path):
        part, group = parts[half(row["group"])], str(row["group"])
        part.same.append((row["text1"], row["text2"]))
        part.questions.append((row["text2"], group))
        if row["text1"] not in seen:
            seen.add(row["text1"])
            part.questions.append((row["text1"], group))
    return parts


def pairs(path: Path) -> tuple[Part, Part]:
    """Labelled pairs. Questions of different pairs may mean the same: no cache is filled with them."""
    parts = (Part(), Part())
    for row in read_lines(path):
        one, other = row["text1"].strip(), row["text2"].strip()
        if min(len(one), len(other)) < 5 or one == other:
            continue  # 16 rows of PAWS-X hold `NS` or nothing; equal texts are labelled as different, too
        part = parts[half(row["id"])]
        (part.same if row["label"] == 1 else part.different).append((one, other))
    return parts


def banking(path: Path) -> tuple[Part, Part]:
    """Intents: a question is asked while the cache holds those of all intents."""
    parts = (Part(), Part())
    for row in read_lines(path):
        parts[half(row["id"])].questions.append((row["text"], row["intent"]))
    for part in parts:
        by_intent: dict[str, str] = {}
        for text, intent in part.questions:  # each question with the one before it of the same intent
            if intent in by_intent:
                part.same.append((by_intent[intent], text))
            by_intent[intent] = text
    return parts


def texts_of(parts: Sequence[Part]) -> Iterator[str]:
    """All questions of a collection."""
    for part in parts:
        yield from (text for text, _ in part.questions)
        yield from (text for pair in (*part.same, *part.different) for text in pair)


def index_of(texts: Sequence[str], lang: str, folder: Path) -> HybridIndex:
    """An index of questions, for its analyzer and term weights."""
    passages = [Passage(str(n), text, text, lang, "pairs", "faq") for n, text in enumerate(dict.fromkeys(texts))]
    build_index(passages, RetrievalConfig(), folder)
    return HybridIndex.open(folder)


def score(index: HybridIndex, part: Part, agreeing: bool) -> Scored:
    """All similarities of one part."""

    @cache
    def worded(text: str) -> Wording:
        wording = wording_of(index, text)
        return wording if agreeing else replace(wording, reading=Reading((), ()))

    def of_pairs(pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [similarity(worded(one), worded(other)) for one, other in pairs]

    questions = [(worded(text), answer) for text, answer in part.questions]
    return Scored(measure(questions, []).others, right_hits(questions), of_pairs(part.different), of_pairs(part.same))


def right_hits(questions: Sequence[tuple[Wording, str]]) -> list[float]:
    """Of each question the similarity of the nearest other one, if that has the same answer, else 0."""
    past = PastQuestions()
    for place, (wording, _) in enumerate(questions):
        past.put(str(place), wording)
    scores = []
    for place, (wording, answer) in enumerate(questions):
        nearest = past.nearest(wording, FLOOR, frozenset({str(place)}))
        is_right = nearest is not None and questions[int(nearest.key)][1] == answer
        scores.append(nearest.similarity if nearest is not None and is_right else 0.0)
    return scores


def rate(scores: Sequence[float], limit: float | None) -> str:
    """The share that reaches a limit, with its interval."""
    if not scores:
        return ""
    hits = 0 if limit is None else sum(value >= limit for value in scores)
    interval = binomtest(hits, len(scores)).proportion_ci(method="exact")
    return f"{hits / len(scores):.2%} ({hits:,} of {len(scores):,}; {interval.low:.2%} to {interval.high:.2%})"


def rows_of(scored: Mapping[str, tuple[str, Scored, Scored]], by: str, budget: float, least: bool = False) -> list[str]:
    """A row for each collection, at the threshold that its language needs on the fitted halves.

    Args:
        scored: (language, fitted half, held half) of each collection.
        by: what hits.
        budget: highest share of false hits.
        least: whether no threshold goes below `LEAST`, as in service.
    """
    rows = []
    for name, (lang, _, held) in scored.items():
        negatives = [value for other, fitted, _ in scored.values() if other == lang for value in fitted.negatives]
        limit = threshold(negatives, budget)
        limit = None if limit is None or limit > 1.0 else max(limit, LEAST[lang] if least else 0.0)
        shown = "none: off" if limit is None else f"{limit:.3f}"
        rates = (rate(scores, limit) for scores in (held.false, held.right, held.different, held.same))
        rows.append(f"| {name} ({lang}) | {by} | {budget:.0%} | {shown} | {' | '.join(rates)} |")
    return rows


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the four collections")
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args()
    scored: dict[bool, dict[str, tuple[str, Scored, Scored]]] = {True: {}, False: {}}
    for name, (lang, parts) in collections(args.data).items():
        with tempfile.TemporaryDirectory() as folder:
            index = index_of(list(texts_of(parts)), lang, Path(folder))
            for agreeing, of_kind in scored.items():
                of_kind[name] = (lang, score(index, parts[0], agreeing), score(index, parts[1], agreeing))
    rows = rows_of(scored[True], "both, as in service", BUDGETS[0], least=True)
    rows += [row for budget in BUDGETS for row in rows_of(scored[True], "agreement and cosine", budget)]
    rows += rows_of(scored[False], "cosine alone", BUDGETS[0])
    setting = f"halves by digest; thresholds from the one half, rates of the other; LEAST = {LEAST}"
    columns = ("collection", "hit by", "budget", "threshold", "false hits, cache", "right hits, cache",
               "hits, pairs that differ", "hits, pairs that mean the same")  # fmt: skip
    publish("semantic_cache", setting, columns, rows, not args.no_record)


if __name__ == "__main__":
    main()

"""Planted leaks: what the audit of a split finds, and how many of the pairs ragray's own split would tear apart.

In: the folder that `planted.py leaks` wrote. Out, for each kind of leak: pairs planted, pairs whose questions are above
the threshold (by sets of shingles in plain Python, apart from the compiled code), and how many of these the audit
finds. An audit looks at questions: of `same_answer`, whose questions have nothing in common, only the split is judged.
Not a speed benchmark: one run in this process.

  python benchmarks/leaks.py --data FOLDER
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness import publish
from planted import LEAK_KINDS, jaccard

from ragray.config_data import SplitConfig
from ragray.dataprep.language import HAN
from ragray.dataprep.leakage import audit_split
from ragray.dataprep.shingles import Texts
from ragray.dataprep.split import split_records
from ragray.dataprep.tokens import columns_of, text_hashes
from ragray.schema import Lang, QARecord

Row = Mapping[str, str]
_HAN = re.compile(f"[{HAN}]")


def question_grams(text: str) -> frozenset[str]:
    """Two letters of a Chinese question in a row, four of another, spaces as one: ragray's shingles of questions."""
    size = 2 if _HAN.search(text) else 4
    spaced = re.sub(r"[\W_]+", " ", text.lower()).strip()
    letters = spaced.replace(" ", "") if size == 2 else spaced
    return frozenset(letters[n : n + size] for n in range(max(1, len(letters) - size + 1)))


def audited(train: Sequence[Row], test: Sequence[Row], settings: SplitConfig) -> set[str]:
    """The ids of test records that the audit calls leaked."""
    columns = columns_of([row["question"] for row in (*test, *train)])
    numbers = np.arange(len(test) + len(train))
    found = audit_split(Texts([columns]), text_hashes(columns[0]), numbers[: len(test)], numbers[len(test) :], settings)
    return {test[n]["id"] for n in np.flatnonzero(found.leaked)}


def torn(rows: Sequence[Row], leaks: Sequence[Row], settings: SplitConfig) -> set[tuple[str, str]]:
    """The planted pairs that ragray's own split of all records puts into different splits."""
    records = [
        QARecord(
            row["id"], row["question"], row["answer"], "zh" if _HAN.search(row["question"]) else "en", "planted", n
        )
        for n, row in enumerate(rows, 1)
    ]
    split = {made.id: made.split for made in split_records(records, settings, 17, None)}
    pairs = ((leak["test_id"], leak["train_id"]) for leak in leaks)
    return {pair for pair in pairs if split[pair[0]] != split[pair[1]]}


def lines(folder: Path, settings: SplitConfig) -> list[str]:
    """A table row for each kind, and one for the test records of which no leak is known."""
    train, test, leaks = (_rows(folder / f"{name}.jsonl") for name in ("train", "test", "leaks"))
    question = {row["id"]: row["question"] for row in (*train, *test)}
    found, apart = audited(train, test, settings), torn([*train, *test], leaks, settings)
    made = []
    for kind in LEAK_KINDS:
        pairs = [(leak["test_id"], leak["train_id"]) for leak in leaks if leak["kind"] == kind]
        above = [
            pair for pair in pairs
            if jaccard(*(question_grams(question[id_]) for id_ in pair)) >= settings.question_threshold
        ]  # fmt: skip
        of_above, in_all = (sum(pair[0] in found for pair in listed) for listed in (above, pairs))
        made.append(f"| {kind} | {len(pairs)} | {len(above)} | {of_above} | {in_all} | {len(apart & set(pairs))} |")
    known = {leak["test_id"] for leak in leaks}
    others = [row["id"] for row in test if row["id"] not in known]
    return [*made, f"| none known | {len(others)} | - | - | {len(found & set(others))} | - |"]


def _lang(text: str) -> Lang:
    return "zh" if _HAN.search(text) else "en"


def _rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of planted.py")
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args()
    settings = SplitConfig()
    setting = f"question_threshold {settings.question_threshold}, leak_cosine {settings.leak_cosine}"
    columns = ("leak", "planted", "above the threshold", "of these found", "found", "torn by the split")
    publish("leaks", setting, columns, lines(args.data, settings), not args.no_record)


if __name__ == "__main__":
    main()

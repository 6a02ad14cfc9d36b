"""False negatives among mined hard negatives, without and with each part of the guard.

In: a folder with corpus.jsonl.gz {id, title, text}, queries.jsonl.gz {id, text} and qrels.tsv (query-id, corpus-id,
score) that judges several documents relevant for a query, such as StackFAQ. For each query ONE of its relevant
documents, chosen by digest, is known as the answer; the others are answers that the miner does not know of: each
that it lists is a false negative. Out: a Markdown table. Two corpora are mined: as it is, and the answers without
their titles, where nothing but the text of an answer tells that it is one. One run in this process, not a speed
benchmark.

  python benchmarks/negatives.py --data FOLDER
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import publish

from ragray.config import RetrievalConfig
from ragray.config_data import GuardConfig, SplitConfig
from ragray.dataprep.split import split_records
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.mining import Miner
from ragray.retrieval.writing import build_index
from ragray.schema import Passage, QARecord, stable_digest

SEED = 17
OPEN = GuardConfig(first_rank=1, last_rank=100, margin=0.0, max_likeness=1.0, covering=1.0)
DEFAULT = GuardConfig()
Judged = Mapping[str, set[str]]


def guards() -> dict[str, GuardConfig]:
    """The guards that are compared; the known answer itself is never listed."""
    changes: dict[str, dict[str, float]] = {
        "none": {},
        "containment": {"covering": DEFAULT.covering},
        "margin": {"margin": DEFAULT.margin},
        "margin 0.2": {"margin": 0.2},
        "rank window from 11": {"first_rank": 11},
        "likeness to the answer": {"max_likeness": DEFAULT.max_likeness},
    }
    return {**{name: OPEN.model_copy(update=change) for name, change in changes.items()}, "all (default)": DEFAULT}


def read_lines(path: Path) -> list[dict[str, str]]:
    """The objects of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_judgements(path: Path) -> Judged:
    """The relevant documents of each query."""
    judged: dict[str, set[str]] = defaultdict(set)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if float(row["score"]) > 0:
                judged[row["query-id"]].add(row["corpus-id"])
    return judged


class Mine:
    """One corpus with its queries, ready to be mined under several guards."""

    def __init__(self, corpus: Sequence[Mapping[str, str]], queries: Sequence[Mapping[str, str]], judged: Judged):
        self._corpus, self._judged = {document["id"]: document for document in corpus}, judged
        self._asked = [(q["id"], q["text"], self._known(q["id"])) for q in queries if judged.get(q["id"])]

    def _known(self, query_id: str) -> str:
        relevant = sorted(self._judged[query_id])
        return relevant[stable_digest(SEED, query_id) % len(relevant)]

    def groups(self) -> dict[str, str]:
        """The groups that `prepare` makes: same answer, or questions that are nearly the same."""
        records = [QARecord(d["id"], d["title"], d["text"], "en", "corpus", 1) for d in self._corpus.values()]
        return {record.id: record.group for record in split_records(records, SplitConfig(), SEED, None)}

    def index(self, folder: Path, titles: bool) -> HybridIndex:
        """The corpus as an index, with or without its titles."""
        passages = [
            Passage(d["id"], d["title"] if titles else "", d["text"], "en", "corpus", "faq")
            for d in self._corpus.values()
        ]
        build_index(passages, RetrievalConfig(), folder)
        return HybridIndex.open(folder)

    def rows(self, index: HybridIndex, corpus: str, count: int) -> list[str]:
        """A table row for each guard."""
        rows = [self._row(index, f"{corpus} | {name}", guard, count, {}) for name, guard in guards().items()]
        return [*rows, self._row(index, f"{corpus} | all, and prepare's groups", DEFAULT, count, self.groups())]

    def _row(self, index: HybridIndex, name: str, guard: GuardConfig, count: int, groups: Mapping[str, str]) -> str:
        """Listed negatives, and how many of them are judged relevant."""
        # a query bears the id of its known answer, as a record does
        records = [
            QARecord(known, text, self._corpus[known]["text"], "en", "corpus", 1, groups.get(known, ""))
            for _, text, known in self._asked
        ]
        mined = Miner(index, groups, guard, SEED).mine(records, count)
        by_query = [(query, row.negative_ids) for (query, *_), row in zip(self._asked, mined.rows, strict=True)]
        listed = [(query, doc) for query, docs in by_query for doc in docs]
        false = sum(doc in self._judged[query] for query, doc in listed)
        full = sum(len(docs) == count for _, docs in by_query) / len(by_query)
        refused = ", ".join(f"{reason.partition('.')[2]} {n:,}" for reason, n in mined.refused.most_common())
        return (
            f"| {name} | {false / max(1, len(listed)):.2%} ({false:,} of {len(listed):,}) "
            f"| {len(listed) / len(by_query):.2f} | {full:.1%} | {refused} |"
        )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--count", type=int, default=4, help="hard negatives wanted for each query")
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args()
    queries, judged = read_lines(args.data / "queries.jsonl.gz"), read_judgements(args.data / "qrels.tsv")
    mine, rows = Mine(read_lines(args.data / "corpus.jsonl.gz"), queries, judged), []
    for name, titles in (("as it is", True), ("answers alone", False)):
        with tempfile.TemporaryDirectory() as folder:
            rows += mine.rows(mine.index(Path(folder), titles), name, args.count)
    setting = f"{args.data.name}, {args.count} hard negatives wanted; default guard: {DEFAULT!r}"
    columns = ("corpus", "guard", "false negatives", "listed for a query", "queries with all", "refused")
    publish("negatives", setting, columns, rows, not args.no_record)


if __name__ == "__main__":
    main()

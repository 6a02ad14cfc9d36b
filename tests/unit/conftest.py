"""A test collection whose figures can be computed by hand, in the folder layout of BEIR."""

import json
from pathlib import Path

import pytest

DOCUMENTS = (
    {"_id": "a", "title": "", "text": "zebra zebra zebra"},
    {"_id": "b", "text": "zebra lion tiger"},
    {"_id": "c", "title": None, "text": "tiger"},
    {"_id": "d", "title": "Lions", "text": "of the savanna", "metadata": {"url": "http://d"}},
)
QUERIES = (
    {"_id": "q2", "text": "zebras", "metadata": {}},
    {"_id": "q1", "text": "lion"},
    {"_id": "unjudged", "text": "tiger"},
)
# zebras: b is relevant by 2, a by 1, c is not found, z is not there; lion: d, whose title has it, before b
QRELS = "query-id\tcorpus-id\tscore\nq2\tb\t2\nq2\ta\t1\nq2\tc\t1\nq2\tz\t1\nq1\tb\t1\nq1\td\t0\nq9\ta\t1\n"


def json_lines(entries) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(json_lines(DOCUMENTS), encoding="utf-8")
    (folder / "queries.jsonl").write_text(json_lines(QUERIES), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(QRELS, encoding="utf-8")
    return folder

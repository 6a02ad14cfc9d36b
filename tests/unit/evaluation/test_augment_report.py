"""The report of augmentation: variants by method, refusals, scores of negatives."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragray.dataprep.negatives import NEGATIVES
from ragray.evaluation.augment_report import _read_scores, write_augment_report
from ragray.evaluation.data_charts import draw_scores
from ragray.schema import QARecord, table_of

COUNTS = {
    "variants": 3,
    "negatives": 3,
    "examples": 5,
    "refused.unchanged": 2,
    "refused.other_group": 7,
    "negatives_refused.margin": 4,
}
METRICS = {"variant_methods": {"typo": 2, "synonyms": 2}}


def variant(n: int, parent: str, method: str, question: str) -> QARecord:
    return QARecord(f"{parent}~{n}", question, "a", "zh", "s", 1, "g", "train", parent, method)


VARIANTS = [
    variant(1, "r1", "typo", "怎洋退货"), variant(2, "r1", "typo+synonyms", "怎洋退物"),
    variant(1, "r2", "synonyms", "<b>how</b>"),
]  # fmt: skip


def mined(query_id: str, positive: float | None, *negatives: tuple[str, float]) -> dict:
    return {
        "query_id": query_id, "question": "q", "positive_id": query_id, "negative_ids": ["x"] * len(negatives),
        "negative_scores": [score for _, score in negatives], "negative_kinds": [kind for kind, _ in negatives],
        "positive_score": positive,
    }  # fmt: skip


NEGATIVE_ROWS = [
    mined("r1", 0.8, ("hard", 0.51), ("random", 0.0)),
    mined("r2", 1.0, ("hard", 0.31)),
    mined("r3", None),
    mined("r4", 0.9, ("hard", 0.51)),
]


@pytest.fixture
def folder(tmp_path):
    pq.write_table(table_of(QARecord, VARIANTS), tmp_path / "variants.parquet")
    asked = {"example_id": ["r1", "r1~1", "r1~2"], "question": ["怎样退货", "怎洋退货", "怎洋退物"]}
    pq.write_table(pa.table(asked), tmp_path / "examples.parquet")
    rows = pa.Table.from_pylist(NEGATIVE_ROWS, schema=NEGATIVES)
    pq.write_table(rows, tmp_path / "negatives.parquet", row_group_size=2)
    return tmp_path


def test_each_method_has_its_first_variants_beside_their_parents(folder):
    write_augment_report(folder, "shop", COUNTS, METRICS)
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "| synonyms | 2 | r1 | 怎样退货 | 怎洋退物 | typo+synonyms |" in markdown
    assert r"|  |  | r2 | - | \<b\>how\</b\> | synonyms |" in markdown  # its parent is no example
    assert "| typo | 2 | r1 | 怎样退货 | 怎洋退货 | typo |" in markdown


def test_refusals_stand_by_reason(folder):
    write_augment_report(folder, "shop", COUNTS, METRICS)
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "| other\\_group | 7 |\n| unchanged | 2 |" in markdown
    assert "**3** (9 refused)" in markdown
    assert "| Reason | Negatives |\n| --- | --- |\n| margin | 4 |" in markdown


def test_scores_are_counted_by_kind_over_all_row_groups(folder):
    scores = _read_scores(folder / "negatives.parquet")
    assert (scores.low, scores.high) == (0.0, 1.0)
    bins = {name: {n: c for n, c in enumerate(counts) if c} for name, counts in scores.histograms.items()}
    assert bins == {"positive": {16: 1, 18: 1, 19: 1}, "hard": {6: 1, 10: 2}, "random": {0: 1}}
    assert scores.of("hard") == (3, pytest.approx(1.33 / 3))
    assert scores.of("positive") == (3, pytest.approx(0.9))


def test_negatives_stand_by_kind(folder):
    write_augment_report(folder, "shop", COUNTS, METRICS)
    assert (
        "| positive | 3 | 0.900 |\n| hard | 3 | 0.443 |\n| random | 1 | 0.000 |" in (folder / "report.md").read_text()
    )


def test_scores_of_zero_alone_can_be_drawn(folder):
    rows = pa.Table.from_pylist([mined("r1", 0.0, ("random", 0.0))], schema=NEGATIVES)
    pq.write_table(rows, folder / "negatives.parquet")
    scores = _read_scores(folder / "negatives.parquet")
    assert scores.low < scores.high
    assert "<svg" in draw_scores(scores.histograms, scores.low, scores.high)


def test_without_negatives_there_is_no_chart_of_them(folder):
    (folder / "negatives.parquet").unlink()
    write_augment_report(folder, "shop", COUNTS, METRICS)
    assert {path.name for path in (folder / "charts").iterdir()} == {"methods.svg", "refused.svg"}
    assert "No negatives were mined." in (folder / "report.html").read_text()


def test_without_variants_there_is_a_report(folder):
    pq.write_table(table_of(QARecord, []), folder / "variants.parquet")
    pq.write_table(NEGATIVES.empty_table(), folder / "negatives.parquet")
    write_augment_report(folder, "shop", {"variants": 0, "negatives": 0, "examples": 5}, {"variant_methods": {}})
    assert "No variants were made." in (folder / "report.md").read_text()
    assert list((folder / "charts").iterdir()) == []


def test_equal_tables_give_equal_bytes(folder):
    write_augment_report(folder, "shop", COUNTS, METRICS)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_augment_report(folder, "shop", dict(reversed(COUNTS.items())), METRICS)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first

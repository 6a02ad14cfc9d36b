"""The tables of an evaluation artifact, beside the report.

In: figures, predictions and rankings. Out: `metrics.json`, `predictions.parquet`, `robustness.parquet`,
`judgements.parquet` and, below `retrieval/`, rankings and judgements in TREC's formats and `queries.parquet`, each
query's value of each metric.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ragray.evaluation.judge import Judgement, judgements_table
from ragray.evaluation.predictions import Prediction, predictions_table
from ragray.evaluation.retrieval import Qrels, trec_qrels, trec_run
from ragray.evaluation.robustness import robustness_table
from ragray.evaluation.summary import Summary

AS_WRITTEN = ""  # in the column `asked`: the questions as they stand; else a kind of rewording
QUERIES = pa.schema(
    [
        ("query_id", pa.string()),
        ("asked", pa.string()),
        ("retriever", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)
RetrieverValues = Mapping[str, Mapping[str, Mapping[str, float]]]  # retriever -> metric -> query -> value


@dataclass(frozen=True)
class Results:
    """What is written."""

    summary: Summary
    predictions: Sequence[Prediction]
    qrels: Qrels
    rankings: Mapping[str, Mapping[str, Sequence[str]]]  # retriever -> query -> documents, best first
    values: Mapping[str, RetrieverValues]  # how it was asked, see `AS_WRITTEN` -> values
    reworded: Sequence[Prediction] = ()  # with the kind for a cell
    methods: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (query, kind) -> method
    judgements: Sequence[Judgement] | None = None  # None: no judge is set


def write_results(folder: Path, results: Results) -> None:
    """Write all tables below `folder`."""
    write_text(folder / "metrics.json", json_text(results.summary.tree()))
    _write_table(predictions_table(results.predictions), folder / "predictions.parquet")
    _write_table(robustness_table(results.reworded, results.methods), folder / "robustness.parquet")
    write_text(folder / "retrieval" / "qrels.txt", trec_qrels(results.qrels))
    for name, ranking in results.rankings.items():
        write_text(folder / "retrieval" / f"{name}.run", trec_run(ranking, name))
    _write_table(_queries_table(results.values), folder / "retrieval" / "queries.parquet")
    if results.judgements is not None:
        _write_table(judgements_table(results.judgements), folder / "judgements.parquet")


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def json_text(tree: Any) -> str:
    """JSON with sorted keys and a line end."""
    return json.dumps(tree, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _queries_table(values: Mapping[str, RetrieverValues]) -> pa.Table:
    rows = [
        (query_id, asked, retriever, metric, value)
        for asked, by_retriever in values.items()
        for retriever, by_metric in by_retriever.items()
        for metric, by_query in by_metric.items()
        for query_id, value in by_query.items()
    ]
    return pa.Table.from_pylist([dict(zip(QUERIES.names, row, strict=True)) for row in sorted(rows)], schema=QUERIES)


def _write_table(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")

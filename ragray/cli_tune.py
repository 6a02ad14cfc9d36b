"""The command `ragray tune`: search the retriever's settings on a test collection with judgements.

In: a folder as BEIR lays it out. Out: a folder with the report, the figures and the settings as a part of a run's file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ragray.config_loading import load_retrieval
from ragray.errors import ConfigError


def tune(
    folder: Annotated[
        Path, typer.Argument(help="Holds corpus.jsonl, queries.jsonl and qrels as BEIR has them, compressed or not.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the report and the settings.")],
    queries: Annotated[Path | None, typer.Option(help="Other queries: JSONL, or id, tab, text.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgements to tune on: BEIR's columns or TREC's.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the queries; each is held out once.")] = 5,
    metric: Annotated[str, typer.Option(help="What is to be high: ndcg@10, recall@10, recall@100, mrr@10, map.")] = (
        "ndcg@10"
    ),
    prior: Annotated[
        list[str],
        typer.Option(help="Learn a prior of passages by title, head (of the title) or source; repeatable; or none."),
    ] = ["title", "head", "source"],  # noqa: B006
    prior_separator: Annotated[
        str | None, typer.Option(help="Ends the head of a title: a regular expression; by default number, colon, >, -.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Start from the retriever's settings in this YAML file.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="A.B=C", help="Override one field; repeatable.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document and no progress.")] = False,
) -> None:
    """Search the retriever's settings on a test collection, cross-validated, and write a report."""
    from ragray.distributed.tune import tune_remotely
    from ragray.evaluation.collections import read_collection
    from ragray.evaluation.tuning import check_start
    from ragray.evaluation.tuning_report import prior_lines, tuning_tree, verdict, write_tuning
    from ragray.evaluation.tuning_values import check_metric
    from ragray.retrieval.prior import SEPARATOR, check_groupings, check_separator
    from ragray.terminal import collection_lines, err
    from ragray.terminal import out as screen

    settings = load_retrieval(config, set_ or ())
    check_metric(metric)
    check_start(settings)
    groupings, separator = check_groupings(prior), check_separator(prior_separator or SEPARATOR)
    _check_writable(out)
    collection = read_collection(folder, queries, qrels)

    def report(line: str) -> None:
        if not json_:
            err.print(f"{line} ...", style="dim", markup=False)

    tuning = tune_remotely(collection, settings, folds, metric, report, groupings, separator)
    lines = collection_lines(collection)
    out.mkdir(parents=True, exist_ok=True)
    described = f"{'; '.join(lines)}."
    write_tuning(out, tuning, collection.queries, metric, described)
    if json_:
        typer.echo(json.dumps(tuning_tree(tuning, metric), ensure_ascii=False))
        return
    lines.append(f"{metric} on held-out queries: {tuning.held_out.mean():.4f}, untuned {tuning.before.mean():.4f}")
    lines += [verdict(tuning), *prior_lines(tuning)]
    for line in [*lines, f"report: {out / 'report.html'}", f"settings: {out / 'tuned.yaml'}"]:
        screen.print(line, markup=False, soft_wrap=True)


def _check_writable(folder: Path) -> None:
    """See that the files can be written and none is written over, before the work.

    Raises:
        ConfigError: it is a file, a folder that holds something, or cannot be made.
    """
    fix = "name a new or empty folder"
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"--out {folder}: is a file, or holds files already", fix)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"--out {folder}: no folder can be made in {nearest}", fix)

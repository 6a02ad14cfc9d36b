"""What a person sees while stages run, and the tables at the end.

In: stages' beginnings, lines and outcomes. Out: text on the terminal; plain lines where there is none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.tree import Tree

if TYPE_CHECKING:
    from ragray.artifact import Artifact, Store
    from ragray.distributed.stage import Outcome, Stage
    from ragray.engine.assistant import Answer
    from ragray.evaluation.collections import Collection
    from ragray.evaluation.search_quality import SearchQuality
    from ragray.retrieval.index import Hit, HybridIndex
    from ragray.retrieval.postings import QueryTerms

out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 140)

_RETRIEVERS = {"tfidf": "TF-IDF", "bm25": "BM25", "hybrid": "hybrid"}


class StageDisplay:
    """Shows which stage runs, what it says, and what it ended with."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self._quiet = quiet
        self._total = total
        self._console = err
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}"),
            console=err,
            transient=True,
            disable=quiet or not err.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=total, line="")
        self._inner = self._progress.add_task("", total=None, line="", visible=False)
        self._shown = 0.0

    @contextmanager
    def live(self) -> Iterator[StageDisplay]:
        """Draw while the block runs."""
        with self._progress:
            yield self

    def expect(self, more: int) -> None:
        """So many more stages will run than were known before."""
        self._total += more
        self._progress.update(self._task, total=self._total)

    def started(self, stage: Stage) -> None:
        """A stage begins."""
        self._progress.update(self._task, description=stage.shown, line="")
        self._progress.update(self._inner, visible=False)
        self._say(f"{stage.shown} ...", only_plain=True)

    def report(self, line: str) -> None:
        """A running stage says something; without a terminal at most a line each 5 seconds is printed."""
        inner = self._progress.tasks[self._inner].visible
        self._progress.update(self._inner if inner else self._task, line=escape(line)[: max(20, err.width - 60)])
        now = time.monotonic()
        if now - self._shown >= 5:
            self._shown = now
            self._say(f"    {escape(line)}", only_plain=True)

    def progress(self, done: int, total: int) -> None:
        """A running stage counts what it does: a bar below that of the stages."""
        self._progress.update(self._task, line="")
        self._progress.update(self._inner, description="  steps", completed=done, total=total, visible=True)

    def warn(self, line: str) -> None:
        """A running stage says something that must not be overlooked, also where nothing else is shown."""
        self._progress.console.print(f"[yellow]{escape(line)}[/]")

    def finished(self, outcome: Outcome) -> None:
        """A stage ended, or was up to date."""
        self._progress.update(self._inner, visible=False)
        self._progress.advance(self._task)
        state = "unchanged" if outcome.skipped else f"{outcome.seconds:.1f} s"
        line = f"[green]done[/] {outcome.stage.shown}: {state}, {escape(outcome.stage.headline(outcome.artifact))}"
        self._say(line)
        if outcome.stage.name == "prepare":
            self._say(f"     {escape(accounting(outcome.artifact))}")

    def _say(self, line: str, only_plain: bool = False) -> None:
        if self._quiet or (only_plain and err.is_terminal):
            return
        self._progress.console.print(line)


def accounting(prepared: Artifact) -> str:
    """One line per source: rows in = records + rejected + duplicates."""
    sources: Mapping[str, Mapping[str, int]] = prepared.manifest.metrics.get("sources", {})
    lines = [
        f"{name}: {c['rows_in']} rows = {c['records']} records + {c['rejected']} rejected"
        f" + {c['duplicates']} duplicates"
        for name, c in sources.items()
    ]
    return "\n     ".join(lines)


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """The closing table: stage, seconds, what it counts, artifact folder."""
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("result", overflow="fold", ratio=1)
    table.add_column("artifact", overflow="fold")
    for outcome in outcomes:
        seconds = outcome.artifact.manifest.timings_s["total"]
        shown = f"{seconds:.1f} (kept)" if outcome.skipped else f"{seconds:.1f}"
        headline = escape(outcome.stage.headline(outcome.artifact))
        table.add_row(outcome.stage.shown, shown, headline, escape(outcome.artifact.uri))
    return table


def answer_panel(question: str, answer: Answer) -> Panel:
    """A question, its answer, the passages it cites and the time each part took."""
    lines = [escape(answer.text)]
    for citation in answer.citations:
        lines.append(f"[dim]  \\[{citation.number}] {escape(citation.title)} ({escape(citation.doc_id)})[/]")
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in answer.timings_ms.items())
    declined = f", declined by {answer.declined_by}" if answer.declined else ""
    lines.append(f"[dim]{times}; confidence {answer.probability:.2f}{declined}[/]")
    return Panel("\n".join(lines), title=escape(question), title_align="left")


def search_lines(index: HybridIndex, query: str, hits: Sequence[Hit], explain: bool, as_json: bool) -> list[str]:
    """The hits of a query as plain lines, or as one JSON document."""
    told = _asked_again(index, query) if explain else {}
    terms = index.query_terms(query) if explain else None
    trees = [_hit_tree(index, hit, terms, told) for hit in hits]
    if as_json:
        return [json.dumps(trees, ensure_ascii=False)]
    again = ", ".join(f"{term} {count:.2f}" for term, count in told.get("asked_again", {}).items())
    lines = [f"asked again with: {again or 'nothing'}"] if told else []
    for hit, tree in zip(hits, trees, strict=True):
        lines += _hit_lines(hit, tree, index.settings.prior is not None)
    return lines if hits else [*lines, "nothing found"]


def _asked_again(index: HybridIndex, query: str) -> dict[str, Any]:
    """What the query is asked again with; nothing where there is no feedback."""
    if index.settings.feedback is None:
        return {}
    from ragray.retrieval.feedback import terms_of

    return {"asked_again": terms_of(index, query)}


def _hit_tree(index: HybridIndex, hit: Hit, terms: QueryTerms | None, told: Mapping[str, Any]) -> dict[str, Any]:
    """A hit with its passage and, where the query's terms are given, why it was found."""
    passage = index.passage(hit.doc_id)
    tree = {**asdict(hit), "title": passage.title, "text": passage.text, **told}
    if terms is not None:
        tree["terms"] = [asdict(contribution) for contribution in index.contributions(terms, hit.doc_id)]
        if index.prior is not None:
            counts = index.prior.counts(passage.title, passage.source)
            tree["prior_group"] = dict(zip(("group", "relevant", "passages"), counts, strict=True))
    return tree


def _hit_lines(hit: Hit, tree: Mapping[str, Any], with_prior: bool) -> list[str]:
    parts = [
        f"   fused {hit.score:.4f}" + (f" (of it the prior {hit.prior:.4f})" if with_prior else ""),
        f"BM25 rank {hit.bm25_rank or '-'} score {hit.bm25_score:.3f}",
        f"TF-IDF rank {hit.tfidf_rank or '-'} score {hit.tfidf_score:.3f}",
    ]
    if hit.dense_score is not None:
        parts.append(f"embeddings rank {hit.dense_rank or '-'} cosine {hit.dense_score:.3f}")
    if hit.rerank_score is not None:
        parts.append(f"reranker {hit.rerank_score:.3f}")
    lines = [f"{hit.rank}. {tree['title'] or tree['text'][:60]}  ({hit.doc_id})\n{', '.join(parts)}"]
    if group := tree.get("prior_group"):
        lines.append(
            f"     prior: {group['relevant']:,} judgements of relevance for the {group['passages']:,} passages"
            f" of {group['group']!r}"
        )
    return lines + [f"     {c['term']}: BM25 {c['bm25']:.3f}, TF-IDF {c['tfidf']:.3f}" for c in tree.get("terms", ())]


def collection_lines(collection: Collection) -> list[str]:
    """What was read, and a line for all that took no part or cannot be found."""
    unjudged = collection.queries_read - len(collection.queries)
    judged = f"{len(collection.queries):,} judged queries"
    lines = [
        f"{len(collection.documents):,} documents, {judged} of {collection.queries_file},"
        f" {collection.judgements_read:,} judgements of {collection.qrels_file}"
    ]
    remarks = {
        "queries without judgements: left out": unjudged,
        "judgements of queries that are not there: left out": collection.of_unknown_queries,
        "judgements of documents that are not there: they count as not found": collection.of_unknown_documents,
        "judged queries without a relevant document: each scores 0": collection.without_relevant,
    }
    return lines + [f"{count:,} {remark}" for remark, count in remarks.items() if count]


def quality_table(quality: SearchQuality) -> Table:
    """The means of each retriever, a column for each metric."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("retriever", no_wrap=True)
    for metric in next(iter(quality.metrics.values())):
        table.add_column(metric, justify="right", no_wrap=True)
    for retriever, means in quality.metrics.items():
        table.add_row(_RETRIEVERS[retriever], *(f"{mean:.4f}" for mean in means.values()))
    return table


def speed_table(quality: SearchQuality) -> Table:
    """Queries a second and latencies of single queries."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("search", no_wrap=True)
    for column in ("queries/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, speed in (("TF-IDF and BM25, made together", quality.lists), ("hybrid", quality.hybrid)):
        table.add_row(name, f"{speed.queries_per_s:,.0f}", f"{speed.p50_ms:.2f}", f"{speed.p99_ms:.2f}")
    return table


def lineage_tree(artifact: Artifact) -> Tree:
    """An artifact and, below it, its inputs back to the source files."""
    from ragray.artifact import Store

    root = artifact.uri.removesuffix(f"/{artifact.manifest.kind}/{artifact.manifest.key[:16]}")
    store = Store(root)
    tree = Tree(_node(artifact.manifest.kind, artifact.uri, artifact.digest))
    _grow(tree, artifact, store)
    return tree


def _grow(tree: Tree, artifact: Artifact, store: Store) -> None:
    for name, source in artifact.manifest.inputs.items():
        branch = tree.add(_node(name, source.uri, source.digest))
        if source.kind != "file":
            _grow(branch, store.open(source.uri), store)


def _node(name: str, uri: str, digest: str) -> str:
    return f"[bold]{escape(name)}[/] {escape(uri)} [dim]{digest[:16]}[/]"

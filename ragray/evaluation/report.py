"""What the report says.

In: a `Document`: figures, predictions, passages and manifests. Out: the tables, examples and sentences that
both forms of the report share. No times are in it: equal runs give equal reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragray.evaluation.predictions import Prediction
from ragray.evaluation.report_parts import Versions, judge_section, robustness_section, versions_section
from ragray.evaluation.sections import Rows, Section, Tile, bounds, number
from ragray.evaluation.significance import Interval
from ragray.evaluation.summary import CELLS, MAIN_CELL, OUTCOMES, SERVED_CELL, Summary, outcome, worst
from ragray.manifest import Manifest
from ragray.schema import Passage

WORST = 9  # examples shown
_LANGUAGES = {"zh": "Chinese", "en": "English", "other": "other"}
_RETRIEVERS = {"hybrid": "Hybrid", "bm25": "BM25", "tfidf": "TF-IDF"}
_METRIC_NAMES = {
    "exact_match": "Exact match",
    "f1": "Token F1",
    "cmrc_f1": "CMRC F1",
    "rouge_l": "ROUGE-L",
    "bleu": "Sentence BLEU",
    "chrf": "Sentence chrF",
    "declined_unanswerable": "Unanswerable declined",
    "declined_answerable": "Answerable declined",
    "decline_precision": "Decline precision",
    "citation_precision": "Citation precision",
    "citation_recall": "Citation recall",
    "groundedness": "Groundedness",
    "support_precision": "Support precision",
    "support_recall": "Support recall",
    "mrr@10": "MRR@10",
    "ndcg@10": "nDCG@10",
    "map": "MAP",
}
_ANSWERS = ("exact_match", "f1", "cmrc_f1", "rouge_l", "bleu", "chrf")
_DECLINES = ("declined_unanswerable", "declined_answerable", "decline_precision")
_CITATIONS = ("citation_precision", "citation_recall")
_SUPPORT = ("groundedness", "support_precision", "support_recall")


@dataclass(frozen=True, slots=True)
class Answerer:
    """What generated a cell's answers."""

    kind: str
    device: str
    weights: str
    model: str
    digest: str


@dataclass(frozen=True)
class Document:
    """All that a report is made from."""

    name: str  # of the run
    summary: Summary
    predictions: tuple[Prediction, ...]
    passages: Mapping[str, Passage]  # by doc_id
    answerers: Mapping[str, Answerer]  # by cell
    manifests: Mapping[str, Manifest]  # of the artifacts that were evaluated, by stage
    settings: Mapping[str, Any]  # of the evaluation itself
    versions: Versions


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage as an example lists it."""

    number: int
    passage: Passage
    right: bool
    cited: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A bad answer with everything that led to it."""

    prediction: Prediction
    reason: str
    passages: tuple[ShownPassage, ...]


def metric_name(metric: str) -> str:
    """How tables call a metric."""
    return _METRIC_NAMES.get(metric, metric.capitalize())


def lead(document: Document) -> list[Tile]:
    """The figures that a reader wants first: name, value, and what to hold it against."""
    summary = document.summary
    main = summary.cells[MAIN_CELL]
    base = summary.cells["base_retrieval"]
    engine = summary.cells["engine_retrieval"]
    found = [
        ("Token F1", main["f1"], f"base model {number(base['f1'])}"),
        ("Token F1 of the engine", engine["f1"], f"tuned model {number(main['f1'])}"),
        ("Unanswerable declined", main["declined_unanswerable"], f"of {summary.unanswerable} questions"),
        ("Answerable declined", main["declined_answerable"], f"of {summary.answerable} questions"),
        ("Hybrid recall@5", summary.retrieval["hybrid"]["recall@5"], _against(summary, "recall@5")),
        ("Citation precision", main["citation_precision"], f"base model {number(base['citation_precision'])}"),
        ("Groundedness", main["groundedness"], f"base model {number(base['groundedness'])}"),
    ]
    return [(name, number(value), f"{bounds(value)} {note}".strip()) for name, value, note in found]


def sections(document: Document) -> list[Section]:
    """The tables of the report, in order."""
    summary = document.summary
    robustness = robustness_section(summary.robustness, _METRIC_NAMES, CELLS[SERVED_CELL])
    return [
        _answers(summary),
        _declines(summary),
        _support(summary),
        _languages(summary),
        _corpus(summary),
        _retrieval(summary),
        _comparisons(summary),
        *([robustness] if summary.robustness else []),
        *([judge_section(summary.judge, CELLS[summary.judge.cell])] if summary.judge else []),
        _outcomes(summary),
        versions_section(document.versions, document.manifests),
        _answerers(document),
        _lineage(document),
    ]


def examples(document: Document) -> list[Example]:
    """The worst answers of the main cell."""
    found = []
    for prediction in worst(document.predictions, MAIN_CELL, WORST):
        reason = OUTCOMES[outcome(prediction)] if prediction.answerable else "answered although nothing answers it"
        passages = tuple(
            ShownPassage(n, document.passages[d], d in prediction.right, d in prediction.cited)
            for n, d in enumerate(prediction.shown, 1)
        )
        found.append(Example(prediction, reason, passages))
    return found


def configurations(document: Document) -> dict[str, str]:
    """Stage -> the settings that it was made with, as JSON."""
    trees = {stage: manifest.config for stage, manifest in sorted(document.manifests.items())}
    trees["evaluate"] = dict(document.settings)
    return {stage: json.dumps(tree, ensure_ascii=False, indent=2, sort_keys=True) for stage, tree in trees.items()}


def introduction(document: Document) -> str:
    """One paragraph: what was asked, of what."""
    summary = document.summary
    size = document.manifests["index"].counts["documents"]
    return (
        f"{summary.answerable + summary.unanswerable} held-out questions: {summary.answerable} that the corpus "
        f"answers, {summary.unanswerable} that it does not. The index holds {size} passages. Figures are means over "
        'questions, in brackets the 95 % bootstrap interval; "-" means that no question counts.'
    )


def plain(value: float | None) -> str:
    """A single value with two decimals, or "-"."""
    return "-" if value is None else f"{value:.2f}"


def _against(summary: Summary, metric: str) -> str:
    return ", ".join(f"{_RETRIEVERS[r]} {number(summary.retrieval[r][metric])}" for r in ("bm25", "tfidf"))


def _answers(summary: Summary) -> Section:
    rows: Rows = tuple(
        (CELLS[cell], *(by_metric[m] for m in _ANSWERS), str(by_metric["f1"].n))
        for cell, by_metric in summary.cells.items()
    )
    note = (
        "Answerable questions only; a declined one scores 0. CMRC F1 is for Chinese readers' tables: the longest run "
        "in common. Sentence BLEU and chrF are from 0 to 100, means over single answers."
    )
    return Section("Answers", note, ("Cell", *map(metric_name, _ANSWERS), "Questions"), rows, "answers")


def _declines(summary: Summary) -> Section:
    rows: Rows = tuple(
        (
            CELLS[cell],
            *(by_metric[m] for m in (*_DECLINES, *_CITATIONS)),
            _split(summary.declines[cell], "retrieval"),
            _split(summary.declines[cell], "model"),
        )
        for cell, by_metric in summary.cells.items()
    )
    note = (
        "All cells with retrieval share one retrieval and one confidence gate, so they differ in the model alone. The "
        "last columns count who declined, the gate or the model: unanswerable (rightly) + answerable (wrongly)."
    )
    header = ("Cell", *map(metric_name, (*_DECLINES, *_CITATIONS)), "By the gate", "By the model")
    return Section("Declines and citations", note, header, rows, "declines")


def _support(summary: Summary) -> Section:
    rows: Rows = tuple(
        (CELLS[cell], *(by_metric[m] for m in _SUPPORT), str(by_metric["groundedness"].n))
        for cell, by_metric in summary.cells.items()
        if not cell.endswith("closed_book")
    )
    note = (
        "All answered questions, also those that nothing answers. Groundedness is the share of an answer's words and "
        "pairs of Chinese characters that stand in the passages it cites; precision counts citations, recall "
        "statements. The test is of words, not of meaning."
    )
    return Section("Support by the cited passages", note, ("Cell", *map(metric_name, _SUPPORT), "Answers"), rows)


def _corpus(summary: Summary) -> Section:
    rows: Rows = tuple(
        (CELLS[cell], _LANGUAGES.get(lang, lang), f"{s.bleu:.2f}", f"{s.chrf:.2f}", str(s.n), s.bleu_signature)
        for cell, by_lang in summary.corpus.items()
        for lang, s in by_lang.items()
    )
    note = (
        "sacrebleu over all answers in one language together, 0 to 100; a declined question is an empty answer. These "
        "are the figures to hold against published ones, not the means of single answers."
    )
    header = ("Cell", "Language", "BLEU", "chrF", "Questions", "Signature of BLEU")
    return Section("BLEU and chrF of all answers", note, header, rows)


def _split(declines: Mapping[str, int], who: str) -> str:
    return f"{declines[f'unanswerable_by_{who}']} + {declines[f'answerable_by_{who}']}"


def _languages(summary: Summary) -> Section:
    languages = sorted({lang for by_lang in summary.languages.values() for lang in by_lang})
    rows: Rows = tuple(
        (CELLS[cell], *(by_lang[lang] for lang in languages)) for cell, by_lang in summary.languages.items()
    )
    header = ("Cell", *(_LANGUAGES.get(lang, lang) for lang in languages))
    return Section("Token F1 by language", "Answerable questions only.", header, rows)


def _retrieval(summary: Summary) -> Section:
    metrics = tuple(summary.retrieval["hybrid"])
    rows: Rows = tuple((label, *(summary.retrieval[r][m] for m in metrics)) for r, label in _RETRIEVERS.items())
    note = (
        "Relevant are the records that the question names, and records with the same answer text. recall@k is the "
        "share of them among the first k, success@k whether there is any."
    )
    return Section("Retrieval", note, ("Retriever", *map(metric_name, metrics)), rows, "retrieval")


def _comparisons(summary: Summary) -> Section:
    names = {**CELLS, **_RETRIEVERS}
    rows: Rows = tuple(
        (
            names[c.first],
            names[c.second],
            metric_name(c.metric),
            Interval(c.difference.mean, c.difference.low, c.difference.high, c.difference.n),
            f"{c.difference.p_value:.4f}",
        )
        for c in summary.comparisons
    )
    note = "The same questions, paired: difference of the means, and p of a two-sided randomization test."
    return Section("Comparisons", note, ("First", "Second", "Metric", "First - second", "p"), rows)


def _outcomes(summary: Summary) -> Section:
    total = max(sum(summary.outcomes.values()), 1)
    rows: Rows = tuple(
        (OUTCOMES[name], str(count), f"{100 * count / total:.0f} %") for name, count in summary.outcomes.items()
    )
    note = f'What became of each answerable question in the cell "{CELLS[MAIN_CELL]}".'
    return Section("Where answers are lost", note, ("Outcome", "Questions", "Share"), rows)


def _answerers(document: Document) -> Section:
    rows: Rows = tuple(
        (CELLS[cell], a.model, a.kind, a.device, a.weights, a.digest[:16]) for cell, a in document.answerers.items()
    )
    header = ("Cell", "Model", "Engine", "Device", "Weights", "Digest")
    return Section("What answered", "", header, rows)


def _lineage(document: Document) -> Section:
    rows: Rows = tuple(
        (
            stage,
            manifest.digest[:16],
            ", ".join(f"{name} {source.digest[:12]}" for name, source in sorted(manifest.inputs.items())),
            f"{manifest.ragray_version}, code {manifest.code[:12]}",
        )
        for stage, manifest in document.manifests.items()
    )
    note = "Each artifact by the digest of its content, and what it was made from."
    return Section("Lineage", note, ("Artifact", "Digest", "Made from", "ragray"), rows)

"""What a search for settings found, for people and for programs.

In: a `Tuning`. Out: `report.html`, `report.md` with `charts/*.svg`, `tune.json`, `tuned.yaml`, the settings as a
part of a run's file, and `prior.json`, where a learned prior is among them. No times are in them: equal searches give
equal bytes, but for the path of `prior.json` in `tuned.yaml`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ragray.config import PriorConfig, RetrievalConfig
from ragray.evaluation.sections import Report, Rows, Section, Tile, write_report
from ragray.evaluation.significance import CONFIDENCE
from ragray.evaluation.tuning import SIGNIFICANT, PriorChoice, Tuning
from ragray.evaluation.tuning_charts import draw_heat_map, draw_wins_and_losses

CHARTS = {
    "heat_map": "Mean of the metric by BM25 alone for each k1 and b, with the chosen analyzer",
    "wins_and_losses": "Queries whose value changed, from the greatest win to the greatest loss",
}
_PRIOR = "prior.json"
_EXAMPLES = 5  # of queries that won, and of those that lost
_FUSIONS = 12  # listed


def write_tuning(folder: Path, tuning: Tuning, queries: Mapping[str, str], metric: str, described: str) -> None:
    """Write all files of a search.

    Args:
        folder: where to.
        tuning: what was found.
        queries: id -> text.
        metric: its name.
        described: the collection, in a sentence.
    """
    write_report(folder, _report(tuning, queries, metric, described))
    tree = tuning_tree(tuning, metric)
    (folder / "tune.json").write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "tuned.yaml").write_text(fragment(tuning, metric, folder / _PRIOR), encoding="utf-8")
    if tuning.prior is not None:
        (folder / _PRIOR).write_text(tuning.prior.to_json(), encoding="utf-8")


def verdict(tuning: Tuning) -> str:
    """What to do, and why."""
    gap = tuning.difference
    measured = f"{gap.mean:+.4f} on held-out queries, p = {gap.p_value:.4f}"
    if tuning.better:
        return f"Use the tuned settings: {measured}."
    return f"Keep the settings as they were: tuned ones are not significantly better ({measured})."


def searched(settings: RetrievalConfig) -> dict[str, Any]:
    """The fields that a search sets, below `retrieval`; of the fusion those that its method reads."""
    constant = "rrf_k" if settings.fusion == "rrf" else "fusion_normalization"
    tree = settings.model_dump()
    return {
        "analyzer": {name: tree["analyzer"][name] for name in ("chinese", "stem", "stop_words")},
        "title_weight": settings.title_weight,
        "bm25": {"k1": settings.bm25.k1, "b": settings.bm25.b},
        "fusion": settings.fusion,
        "fusion_weights": tree["fusion_weights"],
        constant: tree[constant],
    }


def prior_tree(tuning: Tuning, file: Path = Path(_PRIOR)) -> dict[str, Any]:
    """The chosen prior, below `retrieval`; nothing where there is none.

    Args:
        tuning: what was found.
        file: where the prior is written to.
    """
    if tuning.prior is None or tuning.prior_choice is None:
        return {}
    chosen = PriorConfig(file=str(file), sha256=tuning.prior.sha256, weight=tuning.prior_choice.weight)
    return {"prior": chosen.model_dump()}


def fragment(tuning: Tuning, metric: str, prior: Path = Path(_PRIOR)) -> str:
    """The chosen settings in YAML, to be put into a run's file.

    Args:
        tuning: what was found.
        metric: its name.
        prior: where a learned prior is written to.
    """
    gap = tuning.difference
    lines = [
        f"# By `ragray tune` on {gap.n} queries. {metric} on held-out queries: {tuning.held_out.mean():.4f}, before",
        f"# {tuning.before.mean():.4f}. {verdict(tuning)}",
    ]
    lines += [f"# {line}" for line in prior_lines(tuning)]
    tree = {"retrieval": searched(tuning.chosen) | prior_tree(tuning, prior)}
    return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False)


def prior_lines(tuning: Tuning) -> list[str]:
    """What a learned prior adds, and what it is; nothing where none was tried or chosen."""
    if len(tuning.priors) < 2:
        return []
    gap = tuning.prior_difference
    added = f"{gap.mean:+.4f} on held-out queries, p = {gap.p_value:.4f}"
    if tuning.prior_choice is None:
        return [f"No learned prior was chosen; those that folds chose add {added}."]
    return [
        f"The learned prior ({_prior_in_words(tuning.prior_choice)}) adds {added}.",
        "It favours what was judged relevant before: leave it out where users ask about other things than the judges.",
    ]


def tuning_tree(tuning: Tuning, metric: str) -> dict[str, Any]:
    """All that was found, as JSON has it."""
    return {
        "metric": metric,
        "better": tuning.better,
        "verdict": verdict(tuning),
        "untuned": searched(tuning.untuned),
        "tuned": searched(tuning.chosen) | prior_tree(tuning),
        "held_out_mean": float(tuning.held_out.mean()),
        "untuned_mean": float(tuning.before.mean()),
        "tuned_mean_where_chosen": tuning.chosen_mean,
        "difference": asdict(tuning.difference),
        "folds": [
            {
                "queries": fold.queries,
                "chosen": searched(fold.chosen),
                "prior": _choice(fold.prior),
                "tuned": fold.tuned,
                "untuned": fold.untuned,
            }
            for fold in tuning.folds
        ],
        "terms": [{"settings": _terms(settings), "mean": mean} for settings, mean in tuning.terms],
        "titles": [{"title_weight": settings.title_weight, "mean": mean} for settings, mean in tuning.titles],
        "fusions": [{"settings": searched(settings), "mean": mean} for settings, mean in tuning.fusions],
        "priors": [{"prior": _choice(choice), "mean": mean} for choice, mean in tuning.priors],
        "prior_difference": asdict(tuning.prior_difference),
        "queries": {
            query: {"tuned": tuned, "untuned": untuned}
            for query, tuned, untuned in zip(
                tuning.queries, tuning.held_out.tolist(), tuning.before.tolist(), strict=True
            )
        },
    }


def _report(tuning: Tuning, queries: Mapping[str, str], metric: str, described: str) -> Report:
    gaps = (tuning.held_out - tuning.before).tolist()
    charts = {
        "heat_map": draw_heat_map(_grid(tuning), _place(tuning.chosen), _place(tuning.untuned)),
        "wins_and_losses": draw_wins_and_losses(gaps, metric),
    }
    return Report(
        title="Settings of the retriever, tuned",
        introduction=f"{verdict(tuning)} {described} The metric is {metric}. Figures of tuned settings are of queries "
        f"that took no part in choosing them, {len(tuning.folds)} folds; in brackets the {CONFIDENCE:.0%} interval.",
        tiles=_tiles(tuning, gaps, metric),
        sections=(
            _settings(tuning), _folds(tuning), _terms_and_bm25(tuning), _analyzers(tuning), _titles(tuning),
            _fusions(tuning), *_priors(tuning), _changes(tuning, gaps, queries),
        ),
        charts=charts,
        described=CHARTS,
    )  # fmt: skip


def _tiles(tuning: Tuning, gaps: Sequence[float], metric: str) -> tuple[Tile, ...]:
    gap = tuning.difference
    signs = Counter(int(np.sign(gap)) for gap in gaps)
    return (
        (f"{metric}, tuned", f"{tuning.held_out.mean():.4f}", "on held-out queries"),
        (f"{metric}, untuned", f"{tuning.before.mean():.4f}", "on the same queries"),
        ("Difference", f"{gap.mean:+.4f}", f"[{gap.low:+.4f}, {gap.high:+.4f}]"),
        ("p", f"{gap.p_value:.4f}", f"paired randomization test; below {SIGNIFICANT} is significant"),
        ("Queries", f"{signs[1]} better", f"{signs[-1]} worse, {signs[0]} as before"),
    )


def _settings(tuning: Tuning) -> Section:
    before, after = _dotted(tuning.untuned, None), _dotted(tuning.chosen, tuning.prior_choice)
    in_folds = [_dotted(fold.chosen, fold.prior) for fold in tuning.folds]
    rows: Rows = tuple(
        (
            f"retrieval.{name}",
            before.get(name, "-"),
            after.get(name, "-"),
            f"{sum(chosen.get(name) == after.get(name) for chosen in in_folds)} of {len(in_folds)}",
        )
        for name in sorted({*before, *after})
    )
    note = (
        "Tuned: chosen on all queries, as in tuned.yaml. The last column counts the folds without which the same was "
        "chosen; where they differ, the queries do not tell these values apart."
    )
    return Section("Settings", note, ("Setting", "Untuned", "Tuned", "Also chosen in folds"), rows)


def _folds(tuning: Tuning) -> Section:
    rows: Rows = tuple(
        (
            str(number), str(fold.queries), f"{fold.tuned:.4f}", f"{fold.untuned:.4f}",
            f"{fold.tuned - fold.untuned:+.4f}",
            f"{_in_words(fold.chosen)}; {_prior_in_words(fold.prior)}",
        )
        for number, fold in enumerate(tuning.folds, 1)
    )  # fmt: skip
    note = "Settings were chosen on the other folds, then measured on this one. Each query is in one fold."
    header = ("Fold", "Queries", "Tuned", "Untuned", "Difference", "Chosen without it")
    return Section("Cross-validation", note, header, rows)


def _terms_and_bm25(tuning: Tuning) -> Section:
    note = (
        f"Means over all queries by BM25 alone, with the chosen analyzer ({_analyzer_in_words(tuning.chosen)}). "
        "Neighbours that hardly differ say that the choice between them hardly matters."
    )
    return Section("k1 and b", note, (), (), "heat_map")


def _analyzers(tuning: Tuning) -> Section:
    best: dict[str, tuple[RetrievalConfig, float]] = {}
    for settings, mean in tuning.terms:
        words = _analyzer_in_words(settings)
        if words not in best or mean > best[words][1]:
            best[words] = settings, mean
    ordered = sorted(best.items(), key=lambda item: -item[1][1])
    rows: Rows = tuple((words, f"{s.bm25.k1:g}", f"{s.bm25.b:g}", f"{mean:.4f}") for words, (s, mean) in ordered)
    note = "Each way to make terms with its best k1 and b, by BM25 alone, over all queries."
    return Section("Analyzers", note, ("Analyzer", "k1", "b", "Mean"), rows)


def _titles(tuning: Tuning) -> Section:
    rows: Rows = tuple((str(settings.title_weight), f"{mean:.4f}") for settings, mean in tuning.titles)
    note = "How often each term of a title counts, by BM25 alone, over all queries, with the chosen analyzer, k1 and b."
    return Section("Weight of titles", note, ("Weight", "Mean"), rows)


def _fusions(tuning: Tuning) -> Section:
    untuned, *rest = tuning.fusions
    ordered = sorted(rest, key=lambda item: -item[1])[:_FUSIONS]
    rows: Rows = tuple(
        (name, _fusion_in_words(settings), f"{mean:.4f}")
        for name, (settings, mean) in [("untuned", untuned), *((str(n), one) for n, one in enumerate(ordered, 1))]
    )
    note = f"The best {len(ordered)} of {len(rest)}, over all queries, with the chosen analyzer, k1, b and weight."
    return Section("Fusions", note, ("Rank", "Fusion", "Mean"), rows)


def _priors(tuning: Tuning) -> tuple[Section, ...]:
    """What was tried as a prior, if any was."""
    if len(tuning.priors) < 2:
        return ()
    none, *rest = tuning.priors
    ordered = [none, *sorted(rest, key=lambda item: -item[1])]
    rows: Rows = tuple((_prior_in_words(choice), f"{mean:.4f}") for choice, mean in ordered)
    note = (
        f"{' '.join(prior_lines(tuning))} Means over all queries, with the chosen settings; the prior of a query was "
        "learned without its fold. A prior is made of judgements alone: it says what is asked for often, in this "
        "corpus, by those who judged."
    )
    return (Section("Learned prior", note, ("Prior", "Mean"), rows),)


def _choice(choice: PriorChoice | None) -> dict[str, Any] | None:
    return None if choice is None else asdict(choice)


def _prior_in_words(choice: PriorChoice | None) -> str:
    return "no prior" if choice is None else f"prior by {choice.group}, weight {choice.weight:g}"


def _changes(tuning: Tuning, gaps: Sequence[float], queries: Mapping[str, str]) -> Section:
    order = sorted(range(len(gaps)), key=lambda place: (-gaps[place], place))
    shown = [place for place in order[:_EXAMPLES] if gaps[place] > 0]
    shown += [place for place in order[-_EXAMPLES:] if gaps[place] < 0]
    rows: Rows = tuple(
        (
            tuning.queries[place], queries[tuning.queries[place]], f"{tuning.before[place]:.4f}",
            f"{tuning.held_out[place]:.4f}", f"{gaps[place]:+.4f}",
        )
        for place in shown
    )  # fmt: skip
    note = "Held-out queries: the greatest wins and losses. The values of all are in tune.json."
    return Section("Wins and losses", note, ("Id", "Query", "Untuned", "Tuned", "Change"), rows, "wins_and_losses")


def _grid(tuning: Tuning) -> dict[tuple[float, float], float]:
    """(k1, b) -> mean by BM25 alone, with the chosen analyzer."""
    return {_place(settings): mean for settings, mean in tuning.terms if settings.analyzer == tuning.chosen.analyzer}


def _place(settings: RetrievalConfig) -> tuple[float, float]:
    return settings.bm25.k1, settings.bm25.b


def _terms(settings: RetrievalConfig) -> dict[str, Any]:
    return {name: value for name, value in searched(settings).items() if name in ("analyzer", "bm25")}


def _dotted(settings: RetrievalConfig, prior: PriorChoice | None) -> dict[str, str]:
    """`bm25.k1` -> its value, of all fields that a search sets."""
    found = {} if prior is None else {"prior.weight": f"{prior.weight:g} (by {prior.group})"}
    for name, value in searched(settings).items():
        parts = {f"{name}.{part}": one for part, one in value.items()} if isinstance(value, dict) else {name: value}
        found |= {dotted: json.dumps(one) if isinstance(one, bool) else str(one) for dotted, one in parts.items()}
    return found


def _in_words(settings: RetrievalConfig) -> str:
    bm25 = f"k1 {settings.bm25.k1:g}, b {settings.bm25.b:g}, titles {settings.title_weight}"
    return f"{_analyzer_in_words(settings)}; {bm25}; {_fusion_in_words(settings)}"


def _analyzer_in_words(settings: RetrievalConfig) -> str:
    analyzer = settings.analyzer
    stem = "stems" if analyzer.stem else "no stems"
    return f"Chinese {analyzer.chinese}, {stem}, {'without' if analyzer.stop_words else 'with'} stop words"


def _fusion_in_words(settings: RetrievalConfig) -> str:
    weights = settings.fusion_weights
    if not weights.tfidf or not weights.bm25:
        return "BM25 alone" if weights.bm25 else "TF-IDF alone"
    how = f"rrf, k {settings.rrf_k}" if settings.fusion == "rrf" else f"convex, {settings.fusion_normalization}"
    return f"{how}, BM25 {weights.bm25:g} to TF-IDF {weights.tfidf:g}"

"""The report of stage prepare: what became of every row, shown so that a person can judge it.

In: the tables that prepare wrote, with its counts and metrics. Out: `report.md`, `charts/*.svg` and `report.html`.
Equal tables give equal bytes. Tables are read by columns and row groups; the first rows are the examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ragray.dataprep.minhash import Banding
from ragray.evaluation.data_charts import draw_banding, draw_before_after, draw_funnel, draw_leakage
from ragray.evaluation.samples import count_values, first_rows, visible, visible_pair
from ragray.evaluation.sections import Report, Rows, Section, Tile, write_report

EXAMPLES = 3  # of each reason and of each cleaning step
LARGEST = 5  # clusters of duplicates that are listed
MEMBERS = 5  # duplicates listed of each
SOURCES = 40  # listed; the rest are one row
REASONS = 14  # bars of the funnel; the rest are one bar

CHARTS = {
    "funnel": "Rows that came in, those that were rejected by reason, duplicates, and the records of each split",
    "lengths": "Questions and answers by number of characters, before and after cleaning",
    "languages": "Texts by language, before and after cleaning",
    "banding": "Probability that a pair of texts is compared, by its similarity",
    "leakage": "Test questions by the similarity of the nearest training question",
}
_SPLITS = ("train", "valid", "test")
_WHEN = ("before", "after")
_LANGUAGES = {
    "zh-Hans": "Chinese, simplified", "zh-Hant": "Chinese, traditional", "zh": "Chinese", "en": "English",
}  # fmt: skip


def write_data_report(folder: Path, name: str, counts: Mapping[str, int], metrics: Mapping[str, Any]) -> None:
    """Write the report of a prepare artifact.

    Args:
        folder: holds `records`, `rejected`, `duplicates` and `leakage` (.parquet), and takes the report.
        name: of the run.
        counts: rows_in, records, rejected, duplicates, train, valid, test, passages, questions, rejected.<reason>.
        metrics: sources, steps, step_examples, leakage, banding, lengths and languages, as stage prepare records them.
    """
    data = _Prepared(folder, counts, metrics)
    write_report(
        folder,
        Report(
            title=f"Data of {name}",
            introduction=_introduction(data),
            tiles=_tiles(data),
            sections=(
                _funnel(data), _rejected(data), _sources(data), _cleaning(data), _lengths(data), _languages(data),
                _duplicates(data), _clusters(data), _leakage(data), _pairs(data), _splits(data),
            ),
            charts=_charts(data),
            described=CHARTS,
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class _Prepared:
    """What prepare wrote and counted."""

    folder: Path
    counts: Mapping[str, int]
    metrics: Mapping[str, Any]

    @cached_property
    def reasons(self) -> dict[str, int]:
        """Rejected rows by reason, the most frequent first."""
        found = {key.partition(".")[2]: n for key, n in self.counts.items() if key.startswith("rejected.") and n}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @cached_property
    def methods(self) -> dict[str, int]:
        """Duplicates by the way in which they were found."""
        found = count_values(self.folder / "duplicates.parquet", ["method"])
        return {method: count for (method,), count in sorted(found.items())}

    @cached_property
    def clusters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Kept ids of the largest clusters with their duplicates; and how many clusters have each range of sizes.

        Of clusters of one size, those that come first in the file are listed.
        """
        kept = pq.read_table(self.folder / "duplicates.parquet", columns=["duplicate_of"]).column(0)
        found = pc.value_counts(kept)
        sizes = np.asarray(found.field("counts"), np.int64)
        largest = np.argsort(-sizes, kind="stable")[:LARGEST]
        ids = found.field("values").take(pa.array(largest)).to_pylist()
        by_size: Counter[str] = Counter()
        for size, clusters in zip(*(part.tolist() for part in np.unique(sizes + 1, return_counts=True)), strict=True):
            by_size[_size_range(size)] += clusters
        return dict(zip(ids, sizes[largest].tolist(), strict=True)), dict(by_size)

    @property
    def banding(self) -> Banding:
        """How MinHash signatures were cut."""
        return Banding(self.metrics["banding"]["bands"], self.metrics["banding"]["rows"])


def _introduction(data: _Prepared) -> str:
    counts = data.counts
    return (
        f"{counts['rows_in']:,} rows = {counts['records']:,} records + {counts['rejected']:,} rejected + "
        f"{counts['duplicates']:,} duplicates. Documents gave {counts['passages']:,} passages; "
        f"{counts['questions']:,} questions are held out for evaluation. Examples are the first rows in source order; "
        "long texts are cut, and characters that could not be seen are written as code points."
    )


def _tiles(data: _Prepared) -> tuple[Tile, ...]:
    counts, leakage = data.counts, data.metrics["leakage"]
    rows = counts["rows_in"]
    most = next(iter(data.reasons), "none")
    return (
        ("Records", f"{counts['records']:,}", f"{_share(counts['records'], rows)} of {rows:,} rows"),
        ("Rejected", f"{counts['rejected']:,}", f"{_share(counts['rejected'], rows)} of rows; most often {most}"),
        ("Duplicates", f"{counts['duplicates']:,}", f"{_share(counts['duplicates'], rows)} of rows"),
        ("Leaked test questions", f"{leakage['leaked']:,}", f"of {leakage['tests']:,} tests"),
    )


def _charts(data: _Prepared) -> dict[str, str]:
    metrics = data.metrics
    bins = range(_bins(metrics["lengths"]))
    lengths = {
        f"{name}s": tuple([*metrics["lengths"][f"{name}_{when}"], *[0] * len(bins)][: len(bins)] for when in _WHEN)
        for name in ("question", "answer")
    }
    names = _language_names(metrics["languages"])
    languages = tuple([metrics["languages"][when].get(name, 0) for name in names] for when in _WHEN)
    leakage = metrics["leakage"]
    limits = {"jaccard": leakage["threshold"], "cosine": leakage["cosine_threshold"]}
    return {
        "funnel": draw_funnel(_steps(data, REASONS)),
        "lengths": draw_before_after(lengths, [_bin_name(n) for n in bins]),
        "languages": draw_before_after({"": languages}, names),
        "banding": draw_banding(data.banding, metrics["banding"]["threshold"]),
        "leakage": draw_leakage(leakage["histogram"], limits),
    }


def _steps(data: _Prepared, reasons: int) -> list[tuple[str, int, str]]:
    """What rows go through, in order; reasons beyond the most frequent are one step."""
    counts = data.counts
    out = list(data.reasons.items())
    if len(out) > reasons:
        out = [*out[:reasons], (f"{len(out) - reasons} other reasons", sum(n for _, n in out[reasons:]))]
    return [
        ("rows in", counts["rows_in"], "in"),
        *((f"rejected: {reason}", count, "out") for reason, count in out),
        *((f"duplicates: {method}", count, "out") for method, count in data.methods.items()),
        ("records", counts["records"], "kept"),
        *((split, counts[split], "split") for split in _SPLITS),
    ]


def _funnel(data: _Prepared) -> Section:
    steps = _steps(data, len(data.reasons))
    rows: Rows = tuple((label, f"{n:,}", _share(n, data.counts["rows_in"])) for label, n, _ in steps)
    note = "Rows in = records + rejected + duplicates; records = train + valid + test."
    return Section("What became of each row", note, ("Step", "Rows", "Share"), rows, "funnel")


def _rejected(data: _Prepared) -> Section:
    wanted = {reason: [reason] for reason in data.reasons}
    columns = ("source", "line", "text", "detail")
    found = first_rows(data.folder / "rejected.parquet", "reason", wanted, EXAMPLES, columns)
    rows: Rows = tuple(
        (
            "" if n else reason, "" if n else f"{data.reasons[reason]:,}", _place(row), visible(row["text"]),
            visible(row["detail"]),
        )
        for reason, examples in found.items()
        for n, row in enumerate(examples)
    )  # fmt: skip
    note = "The first rows of each reason." if rows else "No row was rejected."
    return Section("Rejected rows", note, ("Reason", "Rows", "Where", "Text", "Why"), rows)


def _sources(data: _Prepared) -> Section:
    names = ("rows_in", "records", "rejected", "duplicates")
    ordered = sorted(data.metrics["sources"].items(), key=lambda item: (-item[1]["rows_in"], item[0]))
    listed = [(visible(source), *(counts[n] for n in names)) for source, counts in ordered[:SOURCES]]
    if rest := ordered[SOURCES:]:
        listed.append((f"{len(rest):,} others", *(sum(counts[n] for _, counts in rest) for n in names)))
    rows: Rows = tuple((source, *(f"{n:,}" for n in numbers)) for source, *numbers in listed)
    note = "Files by rows, the largest first."
    return Section("Sources", note, ("Source", "Rows in", "Records", "Rejected", "Duplicates"), rows)


def _cleaning(data: _Prepared) -> Section:
    examples = data.metrics["step_examples"]
    rows: list[tuple[str, ...]] = []
    for step, changed in sorted(data.metrics["steps"].items(), key=lambda item: (-item[1], item[0])):
        pairs = [visible_pair(*pair) for pair in examples.get(step, ())][:EXAMPLES] or [("-", "-")]
        rows += [("" if n else step, "" if n else f"{changed:,}", *pair) for n, pair in enumerate(pairs)]
    note = "Rows that each step changed, with its first changes." if rows else "No step changed a row."
    return Section("Cleaning", note, ("Step", "Rows changed", "Before", "After"), tuple(rows))


def _lengths(data: _Prepared) -> Section:
    lengths = data.metrics["lengths"]
    columns = [lengths[f"{name}_{when}"] for name in ("question", "answer") for when in _WHEN]
    rows: Rows = tuple(
        (_bin_name(n), *(f"{column[n]:,}" if n < len(column) else "0" for column in columns))
        for n in range(_bins(lengths))
    )
    header = ("Characters", "Questions before", "after", "Answers before", "after")
    return Section("Lengths", "Texts by number of characters, before and after cleaning.", header, rows, "lengths")


def _languages(data: _Prepared) -> Section:
    found = data.metrics["languages"]
    rows: Rows = tuple(
        (_LANGUAGES.get(name, name), *(f"{found[when].get(name, 0):,}" for when in _WHEN))
        for name in _language_names(found)
    )
    note = "Before: all rows that were read. After: the records that were kept."
    return Section("Languages", note, ("Language", "Before", "After"), rows, "languages")


def _duplicates(data: _Prepared) -> Section:
    banding, threshold = data.banding, data.metrics["banding"]["threshold"]
    rows: Rows = tuple((size, f"{count:,}") for size, count in data.clusters[1].items())
    note = (
        f"MinHash signatures are cut into {banding.bands} bands of {banding.rows} values. A pair at the threshold of "
        f"{threshold:g} is compared with a probability of {banding.probability(threshold):.1%}, and counts as a "
        "duplicate only if its true Jaccard similarity reaches the threshold. A cluster is one kept record and its "
        "duplicates."
    )
    return Section("Duplicates", note, ("Texts in a cluster", "Clusters"), rows, "banding")


def _clusters(data: _Prepared) -> Section:
    ids = data.clusters[0]
    wanted = {kept: [kept] for kept in ids}
    kept_rows = first_rows(data.folder / "records.parquet", "id", wanted, 1, ("source", "line", "question"))
    path = data.folder / "duplicates.parquet"
    told = [name for name in pq.read_schema(path).names if name != "duplicate_of"]
    members = first_rows(path, "duplicate_of", wanted, MEMBERS, told)
    rows: list[tuple[str, ...]] = []
    for n, (kept, count) in enumerate(ids.items(), 1):
        row = next(iter(kept_rows[kept]), None)
        rows.append((f"{n}: {count + 1:,} texts", "kept", visible(kept), *_told(row)))
        rows += [("", _found(member), visible(member["id"]), *_told(member)) for member in members[kept]]
        if count > len(members[kept]):
            rows.append(("", f"and {count - len(members[kept]):,} more", "", "", ""))
    note = "The clusters with the most duplicates, with the kept record first." if rows else "No duplicates were found."
    return Section("Largest clusters", note, ("Cluster", "Which", "Id", "Where", "Question"), tuple(rows))


def _leakage(data: _Prepared) -> Section:
    leakage = data.metrics["leakage"]
    columns = leakage["histogram"].values()
    all_shown = leakage["sampled"] == leakage["tests"]
    sampled = f"All {leakage['tests']:,}" if all_shown else f"{leakage['sampled']:,} of the {leakage['tests']:,}"
    bins = max(map(len, columns))
    rows: Rows = tuple(
        (f"{n / bins:.1f} to {(n + 1) / bins:.1f}", *(f"{column[n]:,}" for column in columns)) for n in range(bins)
    )
    note = (
        f"{sampled} test questions by the nearest training question. Of all, {leakage['leaked']:,} "
        f"({leakage['leaked_share']:.2%}) are leaks: equal, with a Jaccard similarity of at least "
        f"{leakage['threshold']:g}, or with a TF-IDF cosine of at least {leakage['cosine_threshold']:g}."
    )
    return Section("Leakage", note, ("Similarity", *(n.capitalize() for n in leakage["histogram"])), rows, "leakage")


def _pairs(data: _Prepared) -> Section:
    pairs = pq.read_table(data.folder / "leakage.parquet").to_pylist()
    rows: Rows = tuple(
        (
            f"{row['jaccard']:.3f}", f"{row['cosine']:.3f}", "yes" if row["leaked"] else "no",
            visible(row["test_id"]), visible(row["test_question"]),
            visible(row["train_id"]), visible(row["train_question"]),
        )
        for row in pairs
    )  # fmt: skip
    note = "Test questions beside the training question nearest to each, the nearest first."
    header = ("Jaccard", "Cosine", "Leak", "Test", "Question", "Train", "Question")
    return Section("Nearest pairs", note if rows else "No test question is near a training question.", header, rows)


def _splits(data: _Prepared) -> Section:
    found = count_values(data.folder / "records.parquet", ["lang", "script", "split"])
    languages: dict[str, Counter[str]] = {}
    for (lang, script, split), count in sorted(found.items()):
        languages.setdefault(f"{lang}-{script}".rstrip("-"), Counter())[split] += count
    languages["all"] = sum(languages.values(), Counter())
    rows: Rows = tuple(
        (_LANGUAGES.get(name, name), *(f"{by[s]:,} ({_share(by[s], by.total())})" for s in _SPLITS), f"{by.total():,}")
        for name, by in languages.items()
    )
    note = "Records of each language, and how they were divided."
    return Section("Splits by language", note, ("Language", *(s.capitalize() for s in _SPLITS), "Records"), rows)


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _place(row: Mapping[str, Any]) -> str:
    return f"{visible(row['source'])}:{row['line']}"


def _told(row: Mapping[str, Any] | None) -> tuple[str, str]:
    """Where a row stood, and its question where the table holds it."""
    return ("-", "-") if row is None else (_place(row), visible(row.get("question") or "-"))


def _found(duplicate: Mapping[str, Any]) -> str:
    return f"{duplicate['method']} {duplicate['similarity']:.2f}"


def _language_names(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """All languages, those with known names first."""
    names = {name for when in _WHEN for name in found[when]}
    return [name for name in _LANGUAGES if name in names] + sorted(names - _LANGUAGES.keys())


def _bins(lengths: Mapping[str, Sequence[int]]) -> int:
    """How many bins of lengths hold anything, and at least one."""
    return max((n for counts in lengths.values() for n, count in enumerate(counts, 1) if count), default=1)


def _bin_name(n: int) -> str:
    """The lengths in bin n: 2^n up to 2^(n+1) - 1."""
    return f"{1 << n}-{(2 << n) - 1}" if n else "0-1"


def _size_range(size: int) -> str:
    """The sizes that are counted together: up to 4 each alone, then up to the next power of two."""
    if size <= 4:
        return str(size)
    high = 1 << (size - 1).bit_length()
    return f"{high // 2 + 1:,} to {high:,}"

"""A learned prior of documents: how often passages of a kind were judged right before, whatever is asked.

In: passages, a rule that puts them into groups, and which of them were judged relevant. Out: a `Prior`, a file that it
is written to, a share from 0 to 1 for each passage, and `reranked`, which adds it to the scores of what the lists
found. It knows popularity alone: it helps where future questions are like the judged ones, and hurts where not.

    rate(group) = (relevant + smoothing * mean rate) / (passages + smoothing)
    share(group) = (log rate - lowest log rate) / (highest log rate - lowest log rate)

Sources: Kraaij, Westerveld and Hiemstra 2002, "The Importance of Prior Probabilities for Entry Page Search" (relevant
ones of a kind / all of the kind; smoothed here, because groups are small); Craswell, Robertson, Zaragoza and Taylor
2005, "Relevance Weighting for Query Independent Evidence" (added with a weight, not multiplied).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ragray.config import PriorConfig
from ragray.errors import ConfigError, DataError
from ragray.retrieval.fusion import Floats, Fused
from ragray.retrieval.segment import Segment

Grouping = Literal["title", "head", "source"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
SMOOTHING = 1.0  # passages of the mean rate that each group is given
SEPARATOR = r" [>/|–—-] |[:：]|\d|第[\d〇零一二三四五六七八九十百千万两]"  # ends the head of a title
PRIOR = "prior"  # name of the files in an index: .json, .npy
FORMAT_VERSION = 1
_FIX = "let `ragray tune` write it again, and use its tuned.yaml"

Shares = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prior:
    """How often passages of each group were judged relevant."""

    group: Grouping  # see `group_of`
    separator: str  # of `head`, a regular expression
    groups: Mapping[str, tuple[int, int]]  # group -> (its judgements of relevance, its passages)
    smoothing: float = SMOOTHING

    def shares(self, groups: Iterable[str]) -> Shares:
        """What counts for passages of these groups: float32 [groups], 0 for the lowest rate, 1 for the highest.

        A group that was not there when the prior was learned has the mean rate. Where all rates are equal, all are 0.
        """
        relevant, passages = (sum(counts) for counts in zip(*self.groups.values(), strict=True))
        mean = relevant / passages
        if not relevant:
            return np.zeros(sum(1 for _ in groups), np.float32)
        smoothed = {
            name: float(np.log((right + self.smoothing * mean) / (all_of + self.smoothing)))
            for name, (right, all_of) in self.groups.items()
        }
        unknown = float(np.log(mean))
        low, high = min(smoothed.values()), max(smoothed.values())
        logs = np.array([smoothed.get(name, unknown) for name in groups])
        return ((logs - low) / (high - low) if high > low else np.zeros(len(logs))).astype(np.float32)

    def group_of(self, title: str, source: str) -> str:
        """The group of a passage: its title, its title up to the first separator, or its source file.

        A title that begins with a separator, or holds none, is its own head.
        """
        if self.group == "source":
            return source
        if self.group == "head" and (found := re.search(self.separator, title)) and found.start() > 0:
            return title[: found.start()].strip()
        return title

    def counts(self, title: str, source: str) -> tuple[str, int, int]:
        """(the group of a passage, its judgements of relevance, its passages); zeros for a group that is not known."""
        group = self.group_of(title, source)
        return (group, *self.groups.get(group, (0, 0)))

    def to_json(self) -> str:
        """The text of its file; equal priors give equal text."""
        tree = {
            "format_version": FORMAT_VERSION,
            "group": self.group,
            "separator": self.separator,
            "smoothing": self.smoothing,
        }
        groups = (
            f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(of)}" for name, of in sorted(self.groups.items())
        )
        rows = ",\n ".join(groups)
        return f'{json.dumps(tree, ensure_ascii=False)[:-1]}, "groups": {{{rows}}}}}\n'

    @property
    def sha256(self) -> str:
        """Of its file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def learn(
    passages: Sequence[tuple[str, str]], relevant: Iterable[int], group: Grouping, separator: str = SEPARATOR
) -> Prior:
    """A prior of judgements.

    Args:
        passages: title and source of each.
        relevant: places of those that were judged relevant, as often as they were.
        group: what passages have in common that count together.
        separator: a regular expression: where the head of a title ends, for `head`.
    """
    empty = Prior(group, separator, {})
    groups = [empty.group_of(title, source) for title, source in passages]
    right = Counter(groups[place] for place in relevant)
    return Prior(group, separator, {name: (right[name], count) for name, count in Counter(groups).items()})


def check_groupings(names: Sequence[str]) -> tuple[Grouping, ...]:
    """Groupings by their names; none for the only name `none`.

    Raises:
        ConfigError: there is no such grouping.
    """
    if list(names) == ["none"]:
        return ()
    if unknown := [name for name in names if name not in GROUPINGS]:
        raise ConfigError(f"--prior {unknown[0]}: no such grouping", f"write {', '.join(GROUPINGS)}, or none alone")
    return tuple(group for group in GROUPINGS if group in names)


def check_separator(separator: str) -> str:
    """A regular expression that can be searched for.

    Raises:
        ConfigError: it is none.
    """
    try:
        re.compile(separator)
    except re.error as error:
        raise ConfigError(f"--prior-separator {separator}: not a regular expression: {error}", "correct it") from None
    return separator


def read_prior(settings: PriorConfig) -> Prior:
    """The prior that settings name.

    Raises:
        DataError: the file is missing, is none, or is another than the settings say.
    """
    path = Path(settings.file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"retrieval.prior.file: {path} cannot be read: {error}", _FIX) from None
    if (found := hashlib.sha256(content).hexdigest()) != settings.sha256:
        raise DataError(
            f"{path}: another prior than retrieval.prior.sha256 says",
            f"if this file is meant, write retrieval.prior.sha256: {found}",
        )
    return parse_prior(content, str(path))


def kept_prior(folder: Path) -> Prior:
    """The prior that an index was built with.

    Raises:
        DataError: its file is damaged.
    """
    path = folder / f"{PRIOR}.json"
    return parse_prior(path.read_bytes(), str(path))


def parse_prior(content: bytes, where: str) -> Prior:
    """The prior that a file holds.

    Raises:
        DataError: it is none.
    """
    try:
        tree: dict[str, Any] = json.loads(content)
        if tree["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {tree['format_version']}, this ragray reads {FORMAT_VERSION}")
        re.compile(tree["separator"])
        groups = {str(name): (int(right), int(count)) for name, (right, count) in tree["groups"].items()}
        prior = Prior(tree["group"], tree["separator"], groups, float(tree["smoothing"]))
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise DataError(f"{where}: not a prior: {error}", _FIX) from None
    positive = all(right >= 0 and count > 0 for right, count in groups.values())
    if prior.group not in GROUPINGS or not groups or not positive or not prior.smoothing > 0:
        raise DataError(f"{where}: not a prior: its group, counts or smoothing cannot be", _FIX)
    return prior


def write_shares(prior: Prior, segments: Sequence[Segment], folder: Path) -> None:
    """Write what a prior gives to each document of an index, `prior.npy`, and the prior itself, `prior.json`."""
    groups: list[str] = []
    for segment in segments:
        table = pq.read_table(segment.folder / "passages.parquet", columns=["title", "source"])
        columns = (table.column(name).to_pylist() for name in ("title", "source"))
        groups += itertools.starmap(prior.group_of, zip(*columns, strict=True))
    np.save(folder / f"{PRIOR}.npy", prior.shares(groups))
    (folder / f"{PRIOR}.json").write_text(prior.to_json(), encoding="utf-8")


def reranked(fused: Fused, shares: Shares, weight: float) -> tuple[Fused, Floats]:
    """The documents of a fused list by score + weight * (first - last fused score) * share, best first.

    The distance of the fused scores makes a weight mean the same for every fusion: at 1 the most favoured group gains
    as much as the first document is ahead of the last. Nothing is found that the lists did not hold.

    Args:
        fused: best first, all that the lists hold.
        shares: float32 [all documents of the index].
        weight: of the prior, at least 0.

    Returns:
        the list with the new scores, and the prior's part of each score, float64 [found].
    """
    if not len(fused.documents):
        return fused, np.empty(0)
    parts = weight * (fused.scores[0] - fused.scores[-1]) * shares[fused.documents].astype(np.float64)
    scores = fused.scores + parts
    order = np.lexsort((fused.documents, -scores))
    return fused._replace(scores=scores).at(order), parts[order]

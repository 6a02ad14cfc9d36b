"""What the lists of a query found together, with the exact scores of every document in each of them.

In: a corpus, queries and their lists. Out: `Found` of each query, which `fuse` makes one list of. A document that lies
beyond the end of a list is scored for it: the postings give its scores by the words, its vector that of the embeddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from ragray.retrieval.corpus import Corpus
from ragray.retrieval.dense import LEAST, Near
from ragray.retrieval.fusion import Found, Ranked, united
from ragray.retrieval.postings import Queries

_WORDS = slice(2)  # rows of the lists by BM25 and by cosine


def found_each(
    corpus: Corpus, queries: Queries, lists: Iterable[tuple[Ranked, Ranked]], near: Iterable[Near] | None = None
) -> list[Found]:
    """What the lists of each query found.

    Args:
        corpus: that was searched.
        queries: that the lists are of.
        lists: by BM25 and by cosine, of each query.
        near: what embeddings find, of each query.
    """
    nearest: Iterable[Near | None] = itertools.repeat(None, len(queries)) if near is None else near
    floors = queries.floors.tolist()
    found = [_united(*one) for one in zip(lists, floors, nearest, strict=True)]
    lacking = [(one.ranks[_WORDS] == 0).any(axis=0) for one in found]
    missing = [one.documents[where] for one, where in zip(found, lacking, strict=True)]
    for one, where, scores in zip(found, lacking, corpus.scores_of_each(queries, missing), strict=True):
        one.scores[_WORDS, where] = scores
    return found


def _united(lists: Sequence[Ranked], floor: float, near: Near | None) -> Found:
    """The documents of all lists; by words, only the scores that the lists hold."""
    if near is None:
        return united(lists, (floor, 0.0))
    found = united((*lists, near.best), (floor, 0.0, LEAST))
    found.scores[2] = near.cosines[found.documents]
    return found

"""Training examples in the very form in which the assistant will be asked.

In: questions with the records that answer them, and the index that serving uses. Out: examples: a question, the
passages in real serving order, the answer with its number; some without the right passage, which decline, some without
any, some with passages in random order.

Source: Zhang et al. 2024, "RAFT: Adapting Language Model to Domain Specific RAG", section 3, arXiv:2403.10131: the
right passage among distractors in a share P of the examples, and absent in the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from ragray import prompt
from ragray.config_data import AugmentConfig
from ragray.dataprep.negatives import Negatives, answers_too
from ragray.retrieval.index import HybridIndex
from ragray.schema import Passage, QARecord, stable_digest

_SPARE_HITS = 8  # searched beyond what is shown, for those that turn out to be answers

_SHOWN = pa.struct({"doc_id": pa.string(), "title": pa.string(), "text": pa.string()})
EXAMPLES = pa.schema(
    {
        "example_id": pa.string(),
        "split": pa.string(),
        "question": pa.string(),
        "lang": pa.string(),
        "closed_book": pa.bool_(),
        "passages": pa.list_(_SHOWN),
        "number": pa.int64(),
        "answer": pa.string(),
        "negative": pa.string(),
        "negative_number": pa.int64(),
    }
)


@dataclass(frozen=True, slots=True)
class Example:
    """A row of examples.parquet. `number` is the cited passage from 1; 0: declines, or closed book.

    `negative` is a wrong answer, the text of a hard negative of the question's record, and `negative_number` the
    passage that shows it, 0 where none does; None and 0 where no hard negative was mined.
    """

    example_id: str
    split: str
    question: str
    lang: str
    closed_book: bool
    passages: list[dict[str, str]]
    number: int
    answer: str
    negative: str | None = None
    negative_number: int = 0


@dataclass(frozen=True)
class Composer:
    """Makes an example of a question and what the index found for it."""

    settings: AugmentConfig
    seed: int
    passage_count: int
    passage_chars: int
    titles_withheld: bool  # test questions will be asked of passages without their titles

    def kind(self, example_id: str) -> str:
        """What the example teaches: "absent" (to decline), "closed_book", or "present"."""
        drawn = self._draw("kind", example_id)
        if drawn < self.settings.absent_share:
            return "absent"
        return "closed_book" if drawn < self.settings.absent_share + self.settings.closed_book_share else "present"

    def compose(self, query: QARecord, record: QARecord, found: Sequence[Passage]) -> Example:
        """The example of one query.

        Args:
            query: the record itself, or a variant of it.
            record: the record that answers.
            found: passages in serving order; without any that answers, where the kind is "absent".
        """
        kind = self.kind(query.id)
        if kind == "closed_book":
            return self._example(query, [], 0, self._cut(record.answer), closed_book=True)
        if kind == "absent":
            decline = prompt.DECLINE[prompt.template_language(record.lang)]
            shown = self._ordered(query.id, found[: self.passage_count])
            return self._example(query, [self._shown(passage) for passage in shown], 0, decline)
        gold = Passage(record.id, self._title(query, record), record.answer, record.lang, record.source, "faq")
        listed = [gold if passage.doc_id == record.id else passage for passage in found[: self.passage_count]]
        if gold not in listed:
            listed = [*listed[: self.passage_count - 1], gold]
        shown = self._ordered(query.id, listed)
        passages = [self._shown(passage) for passage in shown]
        return self._example(query, passages, shown.index(gold) + 1, self._cut(record.answer))

    def _title(self, query: QARecord, record: QARecord) -> str:
        """The title of the right passage: its question, but hidden in half of the examples where tests hide it."""
        hidden = self.titles_withheld and self._draw("title", query.id) < 0.5
        return "" if hidden else record.question

    def _ordered(self, example_id: str, passages: Sequence[Passage]) -> list[Passage]:
        if self._draw("shuffle", example_id) >= self.settings.shuffled_share:
            return list(passages)
        return sorted(passages, key=lambda p: stable_digest(self.seed, "order", example_id, p.doc_id))

    def _shown(self, passage: Passage) -> dict[str, str]:
        return {"doc_id": passage.doc_id, "title": passage.title, "text": self._cut(passage.text)}

    def _cut(self, text: str) -> str:
        return prompt.cut(text, self.passage_chars)

    def _draw(self, what: str, example_id: str) -> float:
        """A number from 0 up to 1 that depends on the seed and the example alone."""
        return stable_digest(self.seed, what, example_id) / 2**64

    def _example(
        self, query: QARecord, passages: list[dict[str, str]], number: int, answer: str, closed_book: bool = False
    ) -> Example:
        return Example(query.id, query.split, query.question, query.lang, closed_book, passages, number, answer)

    def with_negative(self, example: Example, hard: Sequence[Passage]) -> Example:
        """The example with a wrong answer: of the hard negatives, the first that it shows, else the first.

        In an example that declines, only a passage that it shows would be answered from.
        """
        shown = [passage["doc_id"] for passage in example.passages]
        declines = not example.closed_book and example.number == 0
        for passage in hard:
            if passage.doc_id in shown:
                return replace(
                    example, negative=self._cut(passage.text), negative_number=shown.index(passage.doc_id) + 1
                )
        return replace(example, negative=self._cut(hard[0].text)) if hard and not declines else example


def hard_negatives(mined: Iterable[Negatives]) -> dict[str, list[str]]:
    """The ids of the hard negatives of each record that has some, hardest first."""
    found = {row.query_id: [n for n, kind in zip(row.negative_ids, row.negative_kinds, strict=True) if kind == "hard"]
             for row in mined}  # fmt: skip
    return {query_id: ids for query_id, ids in found.items() if ids}


def compose_examples(
    index: HybridIndex,
    pairs: Sequence[tuple[QARecord, QARecord]],
    members: Mapping[str, Sequence[str]],
    composer: Composer,
    hard: Mapping[str, Sequence[str]],
) -> list[Example]:
    """An example for each (query, record that answers it).

    Args:
        index: what serving searches.
        pairs: queries and the records that answer them.
        members: the record ids of each group.
        composer: makes the examples.
        hard: the hard negatives of each record that has some.
    """
    absent = [composer.kind(query.id) == "absent" for query, _ in pairs]
    hits = index.search_batch(
        [query.question for query, _ in pairs],
        composer.passage_count + _SPARE_HITS,
        [members[record.group] if hide else () for (_, record), hide in zip(pairs, absent, strict=True)],
    )
    examples = []
    for (query, record), hide, found in zip(pairs, absent, hits, strict=True):
        passages = [index.passage(hit.doc_id) for hit in found]
        if hide:
            passages = [passage for passage in passages if not answers_too(passage, record)]
        example = composer.compose(query, record, passages)
        examples.append(composer.with_negative(example, [index.passage(doc_id) for doc_id in hard.get(record.id, ())]))
    return examples

"""From a question to an answer with its citations: the one path of evaluation, demo and API.

In: an index, a confidence model and an engine. Out: `Retrieved` (what the model is shown, and how likely
it answers), prompts as token ids, and `Answer`s. A question that retrieval declines never reaches the
engine.

An answer's text carries its citation as a trailing mark: the model's `[2] text` becomes `text [2]`. Numbers
that were not shown are dropped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ragray import prompt
from ragray.dataprep.language import detect_language
from ragray.engine.protocol import Completion, Engine, SamplingParams
from ragray.train import examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.index import Hit, HybridIndex

MAX_PASSAGES = 9  # passages are numbered by one digit
CONFIDENCE_HITS = 10  # that the confidence model looks at, as many as it was fitted on

_LEADING = re.compile(r"^\s*\[(\d{1,2})\]")
_MARK = re.compile(r"(?:\s+|(?<![A-Za-z0-9_\])]))\[(\d{1,2})\]")  # not the index of a variable, as in rows[1]
_TRAILING = re.compile(r"(?:\s*\[\d{1,2}\])+\s*$")


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage as it was shown to the model, with its place in each ranking (None: not in that one)."""

    number: int  # from 1, as in the prompt
    doc_id: str
    title: str
    text: str  # cut to retrieval.prompt_passage_chars
    source: str
    rank: int
    score: float  # fused
    prior: float  # the part of the score that a learned prior gave
    bm25_rank: int | None
    bm25_score: float
    tfidf_rank: int | None
    tfidf_score: float
    dense_rank: int | None = None  # of embeddings, where the index has them
    dense_score: float | None = None


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A question with the passages to answer it from, best first."""

    question: str
    lang: str
    citations: tuple[Citation, ...]
    probability: float  # that the passages answer the question
    answerable: bool  # False: declined before any generation
    retrieve_ms: float
    lineage: dict[str, str] = field(default_factory=dict)  # digests of what found them, when served


@dataclass(frozen=True, slots=True)
class Answer:
    """What the user gets."""

    text: str
    citations: tuple[Citation, ...]  # those that the answer rests on
    declined: bool
    declined_by: Literal["", "retrieval", "model"]
    probability: float
    prompt_tokens: int
    completion_tokens: int
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def plain_text(self) -> str:
        """The text without the trailing citation marks, for comparing with a reference."""
        return without_marks(self.text)


def without_marks(text: str) -> str:
    """An answer's text without the citation marks at its end."""
    return _TRAILING.sub("", text)


def retrieve(index: HybridIndex, confidence: Confidence | None, question: str, top_k: int | None = None) -> Retrieved:
    """Find the passages for one question.

    Args:
        index: the hybrid index.
        confidence: decides whether the passages answer; None: always when there are any.
        question: as the user wrote it.
        top_k: passages to show, 1 to 9; by default the index's `prompt_passages`.
    """
    started = time.perf_counter()
    shown = _checked(top_k or index.settings.prompt_passages)
    hits = index.search(question, max(shown, CONFIDENCE_HITS))
    return _retrieved(index, confidence, question, hits, shown, started)


def retrieve_batch(index: HybridIndex, confidence: Confidence | None, questions: Sequence[str]) -> list[Retrieved]:
    """Find the passages for many questions, in their order; `retrieve_ms` is the share of each."""
    started = time.perf_counter()
    shown = _checked(index.settings.prompt_passages)
    found = index.search_batch(questions, max(shown, CONFIDENCE_HITS))
    shared_s = (time.perf_counter() - started) / max(len(questions), 1)
    return [
        _retrieved(index, confidence, question, hits, shown, time.perf_counter() - shared_s)
        for question, hits in zip(questions, found, strict=True)
    ]


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, retrieved: Retrieved) -> list[int]:
    """The prompt that asks for an answer from the retrieved passages, as token ids.

    Where it would fill more than three quarters of what the model reads, the last passages are left out, as
    at training; the first one always stays.
    """
    passages = [(citation.title, citation.text) for citation in retrieved.citations]
    most = tokenizer.model_max_length - tokenizer.model_max_length // 4
    while True:
        ids = examples.prompt_tokens(tokenizer, prompt.messages(retrieved.question, passages, retrieved.lang))
        if len(ids) <= most or len(passages) <= 1:
            return ids
        passages.pop()


def closed_book_tokens(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """The prompt that asks without any passage, as token ids."""
    return examples.prompt_tokens(tokenizer, prompt.messages(question, None, detect_language(question)))


def compose(retrieved: Retrieved, completion: Completion | None) -> Answer:
    """The answer that a completion stands for; None means that retrieval declined the question."""
    if completion is None:
        return _answer(retrieved, None, _decline_sentence(retrieved), (), "retrieval")
    parsed = prompt.parse_answer(completion.text)
    if parsed.declined:
        return _answer(retrieved, completion, _decline_sentence(retrieved), (), "model")
    shown = {citation.number: citation for citation in retrieved.citations}
    cited = tuple(shown[number] for number in parsed.cited if number in shown)
    body = _MARK.sub(lambda mark: mark[0] if int(mark[1]) in shown else "", parsed.text)
    leading = _LEADING.match(completion.text)
    mark = f" [{leading[1]}]" if leading and int(leading[1]) in shown else ""
    return _answer(retrieved, completion, body + mark, cited, "")


class Assistant:
    """Answers questions from one index by one engine.

    Args:
        index: where passages come from.
        confidence: declines questions that the passages do not answer; None: never declines by itself.
        engine: generates the answers.
        params: how tokens are chosen, greedy by default.
    """

    def __init__(
        self,
        index: HybridIndex,
        confidence: Confidence | None,
        engine: Engine,
        params: SamplingParams | None = None,
    ) -> None:
        self.index = index
        self.confidence = confidence
        self.engine = engine
        self.params = params or SamplingParams(stop_repeats=True)

    def ask(self, question: str) -> Answer:
        """Answer one question."""
        return self._answer_all([retrieve(self.index, self.confidence, question)])[0]

    def ask_batch(self, questions: Sequence[str]) -> list[Answer]:
        """Answer many questions in one batch, in their order."""
        return self._answer_all(retrieve_batch(self.index, self.confidence, questions))

    def _answer_all(self, retrieved: Sequence[Retrieved]) -> list[Answer]:
        started = time.perf_counter()
        asked = [item for item in retrieved if item.answerable]
        prompts = [prompt_tokens(self.engine.tokenizer, item) for item in asked]
        completions = iter(self.engine.generate(prompts, self.params) if prompts else [])
        answers = [compose(item, next(completions) if item.answerable else None) for item in retrieved]
        generate_ms = (time.perf_counter() - started) * 1000 / max(len(asked), 1)
        for answer in answers:
            answer.timings_ms["generate"] = 0.0 if answer.declined_by == "retrieval" else generate_ms
        return answers


def _retrieved(
    index: HybridIndex,
    confidence: Confidence | None,
    question: str,
    hits: Sequence[Hit],
    shown: int,
    started: float,
) -> Retrieved:
    if confidence is None:
        probability, answerable = float(bool(hits)), bool(hits)
    else:
        probability = confidence.probability(index, question, hits) if hits else 0.0
        answerable = bool(hits) and probability >= confidence.threshold
    citations = tuple(_citation(index, number, hit) for number, hit in enumerate(hits[:shown], 1))
    return Retrieved(
        question=question,
        lang=detect_language(question),
        citations=citations,
        probability=probability,
        answerable=answerable,
        retrieve_ms=(time.perf_counter() - started) * 1000,
    )


def _citation(index: HybridIndex, number: int, hit: Hit) -> Citation:
    passage = index.passage(hit.doc_id)
    return Citation(
        number=number,
        doc_id=hit.doc_id,
        title=passage.title,
        text=prompt.cut(passage.text, index.settings.prompt_passage_chars),
        source=passage.source,
        rank=hit.rank,
        score=hit.score,
        prior=hit.prior,
        bm25_rank=hit.bm25_rank,
        bm25_score=hit.bm25_score,
        tfidf_rank=hit.tfidf_rank,
        tfidf_score=hit.tfidf_score,
        dense_rank=hit.dense_rank,
        dense_score=hit.dense_score,
    )


def _answer(
    retrieved: Retrieved,
    completion: Completion | None,
    text: str,
    cited: tuple[Citation, ...],
    declined_by: Literal["", "retrieval", "model"],
) -> Answer:
    return Answer(
        text=text,
        citations=cited,
        declined=bool(declined_by),
        declined_by=declined_by,
        probability=retrieved.probability,
        prompt_tokens=completion.prompt_tokens if completion else 0,
        completion_tokens=len(completion.token_ids) if completion else 0,
        timings_ms={"retrieve": retrieved.retrieve_ms},
    )


def _decline_sentence(retrieved: Retrieved) -> str:
    return prompt.DECLINE[prompt.template_language(retrieved.lang)]


def _checked(top_k: int) -> int:
    if not 1 <= top_k <= MAX_PASSAGES:
        raise ValueError(f"top_k must be 1 to {MAX_PASSAGES}, got {top_k}")
    return top_k

"""What a worker of the evaluation does: retrieve for all questions, or answer some with one model.

In: artifacts and questions. Out: `Found` and `CellAnswers`. No Ray here: these functions run the same
in a task on another machine and in a test.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragray.artifact import Artifact
from ragray.config import EngineConfig
from ragray.distributed.folder_task import local_folder
from ragray.evaluation.answers import Given
from ragray.evaluation.report import Answerer
from ragray.prompt import parse_answer
from ragray.schema import EvalQuestion

if TYPE_CHECKING:
    from ragray.engine.assistant import Retrieved
    from ragray.engine.protocol import Completion, Engine

RANKING_DEPTH = 100  # documents of each ranking that are judged


@dataclass(frozen=True, slots=True)
class Cell:
    """What one task needs to answer all questions with one model."""

    name: str
    kind: Literal["model", "engine"]  # a Hugging Face folder, or a built engine
    model: Artifact | str  # the artifact that holds it, or the base model's folder or hub id
    batch_size: int
    max_new_tokens: int
    engine: EngineConfig


@dataclass(frozen=True, slots=True)
class Found:
    """What retrieval found: for the prompts, and the rankings of each retriever."""

    retrieved: tuple[Retrieved, ...]  # in the questions' order
    rankings: dict[str, dict[str, list[str]]]  # retriever -> query -> documents, best first
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """One question answered."""

    given: Given
    declined_by: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class CellAnswers:
    """All questions answered in one cell, in their order, and how long that took."""

    answers: tuple[Answered, ...]
    answerer: Answerer
    load_seconds: float
    generate_seconds: float


def retrieve_all(index: Artifact, calibrate: Artifact, questions: Sequence[EvalQuestion]) -> Found:
    """Retrieve for every question: as the assistant does, and the rankings of each retriever."""
    from ragray.engine.assistant import retrieve_batch
    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.index import HybridIndex

    begin = time.perf_counter()
    opened = HybridIndex.open(local_folder(index))
    texts = [q.question for q in questions]
    retrieved = retrieve_batch(opened, Confidence.open(local_folder(calibrate)), texts)
    names = [q.query_id for q in questions]
    hybrid = [[hit.doc_id for hit in hits] for hits in opened.search_batch(texts, RANKING_DEPTH)]
    lists = list(opened.lists(texts, RANKING_DEPTH))  # the fused search sees fewer where fusion_depth is smaller
    rankings = {
        "hybrid": dict(zip(names, hybrid, strict=True)),
        "bm25": {name: opened.corpus.doc_ids(bm25[0].tolist()) for name, (bm25, _) in zip(names, lists, strict=True)},
        "tfidf": {name: opened.corpus.doc_ids(cos[0].tolist()) for name, (_, cos) in zip(names, lists, strict=True)},
    }
    return Found(tuple(retrieved), rankings, time.perf_counter() - begin)


def load(cell: Cell) -> Engine:
    """The cell's model, to be closed by the caller.

    Raises:
        EngineError: it cannot be loaded here.
    """
    from ragray.engine.runtime import load_engine
    from ragray.engine.transformers_runtime import load_model_folder
    from ragray.train.loading import model_folder

    if cell.kind == "engine":
        assert isinstance(cell.model, Artifact)
        return load_engine(local_folder(cell.model), cell.engine)
    folder = local_folder(cell.model) / "model" if isinstance(cell.model, Artifact) else model_folder(cell.model)
    return load_model_folder(folder, cell.batch_size, threads=1)


def answer_part(
    engine: Engine, max_new_tokens: int, questions: Sequence[EvalQuestion], retrieved: Sequence[Retrieved] | None
) -> list[Answered]:
    """Answer some questions together, deterministically; `retrieved=None` asks without retrieval."""
    if retrieved is None:
        return _closed_book(engine, max_new_tokens, questions)
    return _with_retrieval(engine, max_new_tokens, retrieved)


def _with_retrieval(engine: Engine, max_new_tokens: int, retrieved: Sequence[Retrieved]) -> list[Answered]:
    from ragray.engine.assistant import prompt_tokens
    from ragray.engine.protocol import SamplingParams

    prompts = [prompt_tokens(engine.tokenizer, r) for r in retrieved if r.answerable]
    completions = iter(
        engine.generate(prompts, SamplingParams(max_new_tokens=max_new_tokens, stop_repeats=True)) if prompts else []
    )
    return [_with_citations(r, next(completions) if r.answerable else None) for r in retrieved]


def _with_citations(retrieved: Retrieved, completion: Completion | None) -> Answered:
    from ragray.engine.assistant import compose

    answer = compose(retrieved, completion)
    cited = tuple(citation.doc_id for citation in answer.citations)
    given = Given(text=answer.text, declined=answer.declined, cited=cited)
    return _answered(given, answer.declined_by, completion)


def _closed_book(engine: Engine, max_new_tokens: int, questions: Sequence[EvalQuestion]) -> list[Answered]:
    from ragray.engine.assistant import closed_book_tokens
    from ragray.engine.protocol import SamplingParams

    prompts = [closed_book_tokens(engine.tokenizer, q.question) for q in questions]
    completions = engine.generate(prompts, SamplingParams(max_new_tokens=max_new_tokens, stop_repeats=True))
    answered = []
    for completion in completions:
        parsed = parse_answer(completion.text)
        given = Given(text=parsed.text, declined=parsed.declined, closed_book=True)
        answered.append(_answered(given, "model" if parsed.declined else "", completion))
    return answered


def _answered(given: Given, declined_by: str, completion: Completion | None) -> Answered:
    if completion is None:
        return Answered(given, declined_by, 0, 0, "")
    return Answered(given, declined_by, completion.prompt_tokens, len(completion.token_ids), completion.finish_reason)

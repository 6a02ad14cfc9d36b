"""What quantized models are calibrated on and asked, and how their answers are scored.

In: artifacts and test questions. Out: a `Trial`, whose token ids go to every method, and `Prediction`s. No Ray here:
these functions run the same in a task on another machine and in a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.distributed.folder_task import local_folder
from ragray.engine.quantize_protocol import HeldOut, Material, Reply
from ragray.errors import DataError
from ragray.evaluation.answers import Given, score
from ragray.evaluation.predictions import Prediction
from ragray.schema import EvalQuestion, stable_digest

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from ragray.engine.assistant import Retrieved


@dataclass(frozen=True)
class Trial:
    """The questions that every model is asked, with what retrieval found for them."""

    questions: tuple[EvalQuestion, ...]
    right: tuple[tuple[str, ...], ...]  # ids of the passages that answer each; none: nothing does
    retrieved: tuple[Retrieved, ...]
    material: Material  # its prompts are those of the retrieved questions that are answerable


def make_trial(
    inputs: Mapping[str, Artifact],
    questions: Sequence[EvalQuestion],
    right: Sequence[tuple[str, ...]],
    config: RunConfig,
) -> Trial:
    """Retrieve, and make the token ids of calibration, held-out prompts and questions.

    Args:
        inputs: index, calibrate, augment, merge.
        questions: to ask.
        right: ids of the passages that answer each.
        config: of the run.

    Raises:
        DataError: no test question has an answer.
    """
    from ragray.engine.assistant import prompt_tokens, retrieve_batch
    from ragray.engine.tokens import load_tokenizer
    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.index import HybridIndex

    tokenizer = load_tokenizer(local_folder(inputs["merge"]) / "model")
    index = HybridIndex.open(local_folder(inputs["index"]))
    confidence = Confidence.open(local_folder(inputs["calibrate"]))
    retrieved = retrieve_batch(index, confidence, [question.question for question in questions])
    material = Material(
        calibration=calibration_examples(local_folder(inputs["augment"]) / "examples.parquet", tokenizer, config),
        held_out=_held_out(questions, right, retrieved, tokenizer, config),
        prompts=tuple(tuple(prompt_tokens(tokenizer, each)) for each in retrieved if each.answerable),
    )
    return Trial(tuple(questions), tuple(right), tuple(retrieved), material)


def predictions_of(
    model: str, trial: Trial, answers: Sequence[Reply], tokenizer: PreTrainedTokenizerBase
) -> list[Prediction]:
    """A model's answers to all questions, scored; those that retrieval declined have no reply in `answers`."""
    replies = iter(answers)
    return [
        _prediction(model, question, right, retrieved, next(replies) if retrieved.answerable else None, tokenizer)
        for question, right, retrieved in zip(trial.questions, trial.right, trial.retrieved, strict=True)
    ]


def _prediction(
    model: str,
    question: EvalQuestion,
    right: tuple[str, ...],
    retrieved: Retrieved,
    reply: Reply | None,
    tokenizer: PreTrainedTokenizerBase,
) -> Prediction:
    from ragray.engine.assistant import compose
    from ragray.engine.protocol import Completion
    from ragray.engine.tokens import decode

    completion = None
    if reply is not None:
        completion = Completion(reply.token_ids, decode(tokenizer, reply.token_ids), reply.finish_reason, 0)
    answer = compose(retrieved, completion)
    given = Given(answer.text, answer.declined, tuple(citation.doc_id for citation in answer.citations))
    return Prediction(
        query_id=question.query_id,
        cell=model,
        lang=question.lang,
        question=question.question,
        references=question.answers,
        right=right,
        shown=tuple(citation.doc_id for citation in retrieved.citations),
        probability=retrieved.probability,
        text=given.text,
        cited=given.cited,
        declined_by=answer.declined_by,
        prompt_tokens=0,
        completion_tokens=answer.completion_tokens,
        finish_reason=reply.finish_reason if reply else "",
        scores=score(given, question.answers, right, question.lang),
    )


def calibration_examples(
    path: Path, tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> tuple[tuple[int, ...], ...]:
    """Training examples chosen by digest: prompt and answer as token ids, as the model was trained on them.

    Args:
        path: `examples.parquet` of stage augment.
        tokenizer: of the model.
        config: says how many, and how long they may be.
    """
    from ragray.train.examples import tokenize_rows

    table: pa.Table = pq.read_table(path, filters=pc.field("split") == "train")
    ids: list[str] = table["example_id"].to_pylist()
    drawn = sorted(range(len(ids)), key=lambda row: stable_digest("calibration", config.seed, ids[row]))
    rows = table.take(sorted(drawn[: config.quantize.calibration_examples]))
    made = tokenize_rows(rows, tokenizer, config.train.max_length, {"train": "none"})
    return tuple(each.example.token_ids for each in made if each.example is not None)


def _held_out(
    questions: Sequence[EvalQuestion],
    right: Sequence[tuple[str, ...]],
    retrieved: Sequence[Retrieved],
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
) -> tuple[HeldOut, ...]:
    """Questions with their passages and right answer; those whose right passage was found come first."""
    from ragray.train.examples import ExampleRow, fit

    made: list[tuple[bool, HeldOut]] = []
    for question, ids, found in zip(questions, right, retrieved, strict=True):
        if not ids or not question.answers:
            continue
        number = next((citation.number for citation in found.citations if citation.doc_id in ids), 0)
        passages = tuple((citation.title, citation.text) for citation in found.citations)
        row = ExampleRow(question.query_id, question.question, found.lang, question.answers[0], number, False, passages)
        example, _ = fit(row, tokenizer, config.train.max_length)
        if example is not None:
            made.append((number == 0, HeldOut(example.token_ids, example.answer_start)))
    if not made:
        raise DataError(
            f"quantize: none of {len(questions)} test questions has an answer that fits train.max_length",
            "name questions with answers in evaluate.questions, or raise train.max_length",
        )
    ordered = sorted(made, key=lambda each: each[0])  # stable: else in the questions' order
    return tuple(example for _, example in ordered[: config.quantize.held_out_prompts])

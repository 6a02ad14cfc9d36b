"""The validation of one checkpoint: its loss, and its answers to a sample of questions. No Ray here.

In: the base model, an adapter, examples.parquet. Out: the loss that the training loop itself would find, and answers
with their scores. The questions' passages are those of their examples: what the index found for them, in the order in
which serving would show them, except that the right passage takes the last place where it was not found, is left out
of some (which should be declined), and that some orders are shuffled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import nn

from ragray import prompt
from ragray.config_train import TrainConfig
from ragray.engine.protocol import Completion, EngineInfo, SamplingParams
from ragray.engine.tokens import stop_tokens
from ragray.engine.transformers_runtime import TransformersEngine
from ragray.errors import DataError
from ragray.evaluation.answers import Given, Scores, column, score
from ragray.schema import stable_digest
from ragray.train.examples import Example, ExampleRow, fit, read_examples
from ragray.train.hardware import precision_of
from ragray.train.loading import DTYPES, load_tokenizer
from ragray.train.lora import load_adapter, set_adapter, trainable
from ragray.train.losses import AnswerLoss
from ragray.train.packing import pack, share_out
from ragray.train.setup import build_model, check_files
from ragray.train.validations import SampleAnswer, Validation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ValidationTask:
    """What is to be validated, and on what: plain values, and paths that the validating process can read."""

    settings: TrainConfig  # ready, see `hardware.ready_settings`
    seed: int
    model_folder: str
    examples_file: str
    adapter_folder: str | None  # None: the base model alone
    step: int
    digest: str


def validate(task: ValidationTask) -> tuple[Validation, list[SampleAnswer]]:
    """Validate one adapter.

    Raises:
        DataError: there is no validation example.
        WorkError: a file is not there.
        EngineError: the base model cannot be loaded.
        ArtifactError: the adapter does not fit it.
    """
    begin = time.perf_counter()
    settings, folder = task.settings, Path(task.model_folder)
    check_files(task.model_folder, task.examples_file, *filter(None, [task.adapter_folder]))
    tokenizer = load_tokenizer(folder)
    examples = read_examples(Path(task.examples_file), "valid", tokenizer, settings.max_length).examples
    if not examples:
        raise DataError(f"{task.examples_file}: no validation example", "raise data.split.valid")
    model = adapted_model(task)
    answers = _answer(task, model, tokenizer) if settings.validation.generate else []
    loss = mean_loss(model, examples, settings)  # changes the model
    scores = [scored for _, scored in answers]
    result = Validation(
        step=task.step,
        adapter=task.digest,
        loss=loss,
        questions=len(answers),
        exact_match=_mean(column(scores, "exact_match")),
        f1=_mean(column(scores, "f1")),
        citation_recall=_mean(column(scores, "citation_recall")),
        declined_unanswerable=_mean(column(scores, "declined_unanswerable")),
        declined_answerable=_mean(column(scores, "declined_answerable")),
        seconds=time.perf_counter() - begin,
    )
    return result, [answer for answer, _ in answers]


def adapted_model(task: ValidationTask) -> nn.Module:
    """The base model with the adapter, as the training workers hold it, for evaluation."""
    settings = task.settings
    if not settings.validation.use_gpu:  # the workers' own attention may need their GPU
        settings = settings.model_copy(update={"attention": "sdpa"})
    model = build_model(Path(task.model_folder), settings, task.seed)
    if task.adapter_folder is not None:
        set_adapter(model, load_adapter(Path(task.adapter_folder)))
    for parameter in trainable(model).values():
        parameter.data = parameter.data.to(DTYPES[precision_of(settings)])
    return model.to("cuda" if settings.validation.use_gpu else "cpu").eval()


def mean_loss(model: nn.Module, examples: Sequence[Example], settings: TrainConfig) -> float:
    """The mean cross-entropy over the tokens of all answers, as the loop computes it; changes the model for it."""
    loss = AnswerLoss(model, whole_weights=True).eval()
    limit = max(settings.tokens_per_micro_batch, max(len(example) for example in examples))
    device = next(model.parameters()).device
    total = 0.0
    with torch.no_grad():
        for row in share_out([len(example) for example in examples], 1, limit)[0]:
            total += float(loss(pack([examples[i] for i in row]).to(device)))
    return total / sum(example.answer_tokens for example in examples)


def sample_rows(examples_file: Path, count: int, seed: int) -> list[ExampleRow]:
    """So many rows of the validation split, of those with passages; which ones depends on seed and ids alone."""
    table = pq.read_table(examples_file, filters=pc.field("split") == "valid")
    rows = [ExampleRow.of(row).without_negative() for row in table.to_pylist() if not row["closed_book"]]
    rows.sort(key=lambda row: (stable_digest("sample", seed, row.example_id), row.example_id))
    return sorted(rows[:count], key=lambda row: row.example_id)


def _answer(
    task: ValidationTask, model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[SampleAnswer, Scores]]:
    settings = task.settings
    rows = sample_rows(Path(task.examples_file), settings.validation.generate, task.seed)
    asked: list[tuple[ExampleRow, list[int]]] = []
    for row in rows:
        example, lost = fit(row, tokenizer, settings.max_length)
        if example is not None:
            asked.append((_shown(row, lost), list(example.token_ids[: example.answer_start])))
    completions = _generate(task, model, tokenizer, [ids for _, ids in asked])
    return [_scored(task.step, row, done.text) for (row, _), done in zip(asked, completions, strict=True)]


def _shown(row: ExampleRow, lost: int) -> ExampleRow:
    """The row as its prompt shows it: without the passages that it lost to fit."""
    for _ in range(lost):
        shorter = row.without_last_passage()
        assert shorter is not None
        row = shorter
    return row


def _generate(
    task: ValidationTask, model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]
) -> list[Completion]:
    """Greedy answers, by the engine that serves where nothing else runs; packed attention has no cache."""
    settings, folder = task.settings.validation, Path(task.model_folder)
    plain: Any = model
    base = plain.get_base_model()
    info = EngineInfo("transformers", base.device.type, "adapter", base.config.model_type, task.digest)
    packed = base.config._attn_implementation
    base.set_attn_implementation("sdpa")
    engine = TransformersEngine(plain, tokenizer, stop_tokens(folder, tokenizer), info, settings.batch_size)
    try:
        return engine.generate(prompts, SamplingParams(max_new_tokens=settings.max_new_tokens, stop_repeats=True))
    finally:
        engine.close()
        base.set_attn_implementation(packed)


def _scored(step: int, row: ExampleRow, text: str) -> tuple[SampleAnswer, Scores]:
    """An answer read as serving reads it, and its scores; passages go by their numbers."""
    parsed = prompt.parse_answer(text)
    cited = tuple(number for number in parsed.cited if number <= len(row.passages))
    given = Given(parsed.text, parsed.declined, tuple(map(str, cited)))
    scores = score(given, [row.answer], [str(row.number)] if row.number else [], row.lang)
    answer = SampleAnswer(
        step=step,
        example_id=row.example_id,
        question=row.question,
        lang=row.lang,
        reference=row.answer,
        right=row.number,
        text=parsed.text,
        cited=cited,
        declined=parsed.declined,
        exact_match=scores.exact_match,
        f1=scores.f1,
    )
    return answer, scores


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""The settings of the evaluation: its questions, how they are reworded, and who judges the answers.

In: the section `evaluate` of a run's file. Out: `EvaluateConfig`.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from ragray.config_data import EndpointConfig, Positive, Section

RewordingKind = Literal["typos", "speech", "wording"]
REWORDING_KINDS: tuple[RewordingKind, ...] = get_args(RewordingKind)
Criterion = Literal["correct", "faithful"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


class JudgeConfig(Section):
    """A model that grades answers; it is asked by a server's API, so it costs what the server asks for."""

    endpoint: EndpointConfig = Field(description="the server and the judging model")
    criteria: tuple[Criterion, ...] = Field(
        CRITERIA,
        min_length=1,
        description="correct: against the reference answers; faithful: against the passages that the answer cites",
    )
    cell: Literal["base_retrieval", "tuned_retrieval", "engine_retrieval"] = Field(
        "tuned_retrieval", description="whose answers"
    )
    max_answers: Positive | None = Field(None, description="at most so many, chosen by digest")


class EvaluateConfig(Section):
    """Held-out questions and how answers to them are generated."""

    questions: str | None = Field(None, description="JSONL of held-out questions; by default the test split's")
    max_questions: Positive | None = Field(None, description="at most so many, chosen by digest")
    max_new_tokens: Positive = 160
    batch_size: Positive = 16
    workers: Positive = Field(
        4, description="processes that answer at once, one CPU and one model each; no more than the cluster has CPUs"
    )
    robustness: tuple[RewordingKind, ...] = Field(
        REWORDING_KINDS,
        description="the built engine is asked the questions again with typos, as speech recognition writes them, in "
        "other words; an empty list: it is not",
    )
    judge: JudgeConfig | None = Field(None, description="off by default")
    bootstrap_samples: Positive = Field(1000, description="resamples behind each confidence interval")

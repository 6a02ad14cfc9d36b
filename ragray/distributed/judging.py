"""Answers graded by a model behind an API, through Ray Data, with every reply kept.

In: the answers of one cell. Out: a `Judgement` of each answer and criterion. A reply is never asked for twice. Answers
without a usable grade are judgements too, with the reason. The stage fails only where the server refuses, or more
answers than `evaluate.judge.endpoint.max_failed_share` stay without any reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ragray.config_evaluate import JudgeConfig
from ragray.distributed.asking import ROUNDS, ask_blocks, asker, blocks_of, check_failures, endpoint_of
from ragray.distributed.endpoint import Endpoint
from ragray.distributed.replies import Replies
from ragray.evaluation.answers import strip_citations
from ragray.evaluation.judge import (
    PROMPT_DIGEST,
    Case,
    Judgement,
    Verdicts,
    case,
    figures,
    judge_messages,
    read_reply,
)
from ragray.evaluation.predictions import Prediction
from ragray.evaluation.significance import Resampling
from ragray.schema import Passage, stable_digest

_SETTING = "evaluate.judge.endpoint"
_ROWS = pa.schema([(name, pa.string()) for name in ("key", "criterion", "lang", "material")])


def judge_endpoint(settings: JudgeConfig) -> Endpoint:
    """How the judge is asked, at temperature 0.

    Raises:
        ConfigError: the variable with the key is not set.
    """
    return endpoint_of(settings.endpoint, judge_messages, _SETTING, temperature=0.0)


def judge_answers(
    predictions: Sequence[Prediction],
    passages: Mapping[str, Passage],
    settings: JudgeConfig,
    endpoint: Endpoint,
    cache: Path,
    seed: int,
) -> list[Judgement]:
    """The judgements of a cell's answers.

    Args:
        predictions: of the evaluation; those of `settings.cell` are judged.
        passages: by doc_id.
        settings: who judges what.
        endpoint: of `judge_endpoint`.
        cache: folder of the replies.
        seed: chooses answers where there are more than `settings.max_answers`.

    Raises:
        WorkError: the server refuses, or too many answers stay without a reply.
    """
    cases = [one for p in _chosen(predictions, settings, seed) for one in _cases(p, passages, settings)]
    model = settings.endpoint.model
    with Replies(cache) as kept:
        known = kept.find(sorted({one.key(model) for one in cases}))
        rows = {one.key(model): _row(one, model) for one in cases if one.key(model) not in known}
        blocks = blocks_of(list(rows.values()), _ROWS, endpoint.threads * ROUNDS)
        failures = ask_blocks(blocks, asker(endpoint, "evaluate.judge"), kept, _SETTING)
        check_failures(failures, len(rows), settings.endpoint.max_failed_share, "evaluate.judge")
        replies = kept.find(sorted({one.key(model) for one in cases}))
    return [read_reply(one, replies.get(one.key(model))) for one in cases]


def verdicts(judgements: Sequence[Judgement], settings: JudgeConfig, resampling: Resampling) -> Verdicts:
    """The figures of all criteria."""
    judged = tuple(figures(judgements, criterion, resampling) for criterion in settings.criteria)
    return Verdicts(settings.cell, settings.endpoint.model, PROMPT_DIGEST, judged)


def _chosen(predictions: Sequence[Prediction], settings: JudgeConfig, seed: int) -> list[Prediction]:
    """The answers of the cell that are no declines."""
    answered = [p for p in predictions if p.cell == settings.cell and not p.declined_by]
    limit = settings.max_answers or len(answered)
    kept = sorted(answered, key=lambda p: (stable_digest(seed, "judge", p.query_id), p.query_id))[:limit]
    return sorted(kept, key=lambda p: p.query_id)


def _cases(prediction: Prediction, passages: Mapping[str, Passage], settings: JudgeConfig) -> list[Case]:
    """What can be judged of an answer: correctness needs a reference, faithfulness a citation."""
    against = {
        "correct": list(prediction.references) if prediction.answerable else [],
        "faithful": [f"{passages[d].title}\n{passages[d].text}" for d in prediction.cited],
    }
    answer = strip_citations(prediction.text).strip()
    return [
        case(criterion, prediction.query_id, prediction.lang, prediction.question, answer, against[criterion])
        for criterion in settings.criteria
        if against[criterion]
    ]


def _row(one: Case, model: str) -> dict[str, str]:
    return {"key": one.key(model), "criterion": one.criterion, "lang": one.lang, "material": one.material}

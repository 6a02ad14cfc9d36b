"""The held-out questions that a stage asks: all of them, or as many as it is told to.

In: the prepare artifact. Out: `EvalQuestion`s.
"""

from __future__ import annotations

import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.errors import DataError
from ragray.schema import EvalQuestion, records_of, stable_digest


def held_out_questions(prepare: Artifact, stage: str, most: int | None, seed: int) -> list[EvalQuestion]:
    """At most so many questions, chosen by digest, in the order of their ids.

    Args:
        prepare: the artifact that holds them.
        stage: asks them; each stage chooses its own.
        most: None: all.
        seed: of the choice.

    Raises:
        DataError: there are none.
    """
    questions = records_of(EvalQuestion, pq.read_table(prepare.file("questions.parquet")))
    if not questions:
        raise DataError(
            f"{stage}: there are no held-out questions",
            "set evaluate.questions to a JSONL file of questions, or raise data.split.test",
        )
    drawn = sorted(questions, key=lambda q: stable_digest(stage, seed, q.query_id))[:most]
    return sorted(drawn, key=lambda q: q.query_id)

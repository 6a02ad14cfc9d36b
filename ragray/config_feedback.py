"""The settings of users' feedback on answers: whether it is kept, where, and how often it is written."""

from __future__ import annotations

from pydantic import Field

from ragray.config_data import Positive, Section


class UserFeedbackConfig(Section):
    """Thumbs and corrections that the API keeps, as a source for the next training."""

    folder: str | None = Field(
        None, description="folder, or s3:// or gs:// URI, for Parquet files of feedback; none: /v1/feedback is off"
    )
    recent_answers: Positive = Field(
        2000, description="answers of each ingress replica that feedback can name by id; older ones are forgotten"
    )
    batch_rows: Positive = Field(200, description="rows that are written at the latest as one file")
    flush_s: float = Field(
        30.0, gt=0, le=86_400, description="seconds after which rows are written at the latest; a crash loses as many"
    )

"""The settings of the sweep that measures how fast engines are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ragray.config_data import Positive, Section

_AnswerLength = Annotated[int, Field(ge=2)]  # the time between tokens takes two


class SpeedConfig(Section):
    """How fast the engine is: a sweep of batch, concurrency and lengths by `ragray evaluate --speed`."""

    devices: tuple[str, ...] = Field(
        ("cpu",),
        min_length=1,
        description="device types whose engines are measured; those that are not there are built",
    )
    batch_sizes: tuple[Positive, ...] = Field(
        (16,), min_length=1, description="engine.max_batch_size of each sweep; the engine is loaded anew for each"
    )
    concurrency: tuple[Positive, ...] = Field(
        (1, 4, 16), min_length=1, description="clients, each of which has one request running at any time"
    )
    prompt_tokens: tuple[Positive, ...] = Field((128, 512), min_length=1, description="length of the prompts")
    new_tokens: tuple[_AnswerLength, ...] = Field(
        (64,), min_length=1, description="length of the answers; stop tokens do not end them, so all engines do as much"
    )
    requests: Positive = Field(16, description="measured requests of each setting; at least two for each client")
    reference: bool = Field(True, description="measure the merged model by transformers on a CPU, too")
    price_per_hour: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, description="price of one hour by device type, such as {cpu: 0.1}; gives the cost of a million tokens"
    )
    currency: str = Field("USD", max_length=8, description="of the prices")
    repetition: int = Field(0, ge=0, description="a finished measurement stands; another number measures again")

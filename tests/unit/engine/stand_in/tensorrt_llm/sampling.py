"""SamplingParams with the arguments of the record that ragray uses, and no others."""

from dataclasses import dataclass


@dataclass
class SamplingParams:
    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    stop_token_ids: list[int] | None = None
    detokenize: bool = True
    add_special_tokens: bool = True

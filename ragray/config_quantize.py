"""The settings of stage quantize: which methods, on what they are calibrated and measured, and which one is chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ragray.config_data import Positive, Section, Share

MethodName = Literal[
    "bitsandbytes_int8", "bitsandbytes_nf4", "int8_weight_only", "openvino_int8", "openvino_int4", "openvino_int4_awq"
]


class GateConfig(Section):
    """Which quantized model is chosen: one that answers about as well as the full one, or none."""

    prefer: Literal["smallest", "fastest"] = Field("smallest", description="of those that pass")
    metric: Literal["f1", "exact_match", "rouge_l"] = Field("f1", description="of the answers to test questions")
    max_drop: Share = Field(0.02, description="of the metric's mean, against the full model's")
    drop: Literal["mean", "interval"] = Field(
        "mean", description="what must stay within max_drop: the mean drop, or its whole 95 % interval"
    )
    max_kl_nats: float = Field(
        0.5, ge=0.0, allow_inf_nan=False,
        description="KL divergence from the full model on held-out prompts above which a model is taken to be damaged",
    )  # fmt: skip


class QuantizeConfig(Section):
    """Quantized models, each made and measured by a remote task; all at once where the cluster allows."""

    methods: tuple[MethodName, ...] = Field(
        ("bitsandbytes_int8", "bitsandbytes_nf4", "openvino_int8", "openvino_int4"), description="what to make"
    )
    calibration_examples: Positive = Field(
        64, description="training examples that methods which look at activations are calibrated on"
    )
    max_questions: Positive | None = Field(
        64, description="test questions that are answered by each model, chosen by digest; none: all"
    )
    held_out_prompts: Positive = Field(
        32, description="of these questions, with passages and answer, that perplexity and KL divergence are read off"
    )
    cpus: Positive = Field(1, description="CPU cores of each method's task, and threads that it computes with")
    time_limit_s: Positive = Field(3600, description="for waiting and running of each method's task")
    environments: dict[Literal["modelopt"], str] = Field(
        {}, description="Python interpreters of methods that cannot share ragray's, by name; the same path on all nodes"
    )
    gate: GateConfig = GateConfig()

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if not methods:
            raise ValueError("quantize.methods: name at least one")
        if len(set(methods)) < len(methods):
            raise ValueError("quantize.methods: each only once")
        return methods

"""The settings of training: what is adapted, on which examples, how a step is made, what is kept.

In: nothing. Out: a part of `config.RunConfig`, typed, frozen models with their defaults and limits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ragray.config_data import Positive, Section, Share


class LoraConfig(Section):
    """Low-rank adaptation (Hu et al. 2021)."""

    method: Literal["lora", "dora"] = Field(
        "lora", description="dora also trains the length of each row of the weights (Liu et al. 2024)"
    )
    rank: Positive = Field(16, description="rank r of the update BA")
    alpha: Positive = Field(32, description="scale: the update is multiplied by alpha / r")
    use_rslora: bool = Field(
        False, description="multiply by alpha / sqrt(r) instead, for high ranks (Kalajdzievski 2023)"
    )
    dropout: Share = Field(0.0, description="dropout before A")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="linear layers that are adapted, by name",
    )
    trainable_tokens: tuple[int | str, ...] = Field(
        (), description="tokens whose embeddings are trained too, such as those added to the tokenizer; text or id"
    )


class TrainConfig(Section):
    """LoRA training by Ray Train and DeepSpeed."""

    base_model: str = Field(description="folder, or hub id, of a causal language model")
    quantization: Literal["none", "nf4", "int8"] = Field(
        "none", description="of the frozen base while it trains, by bitsandbytes (Dettmers et al. 2023); never merged"
    )
    max_leaked_share: Share = Field(
        0.0, description="share of test questions with a near copy in training data above which training refuses"
    )
    lora: LoraConfig = LoraConfig()
    epochs: float = Field(3.0, gt=0, description="passes over the training examples")
    max_steps: Positive | None = Field(None, description="stop after so many optimizer steps")
    learning_rate: float = Field(2e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="after the warm-up")
    warmup_share: Share = Field(0.05, description="share of the steps with rising learning rate")
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="largest global gradient norm")
    label_smoothing: Share = 0.0
    max_length: Positive = Field(1024, description="longest example, tokens; longer ones lose their last passages")
    tokens_per_micro_batch: Positive = Field(4096, description="tokens packed into one row")
    global_batch_examples: Positive = Field(16, description="examples of one optimizer step, over all workers")
    num_workers: Positive = Field(1, description="Ray Train workers")
    use_gpu: bool = False
    threads_per_worker: Positive = Field(1, description="CPU threads of each worker")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: fp32 on a CPU; on a GPU bf16 where it has it, else fp16"
    )
    gradient_checkpointing: bool = False
    checkpoint_every_steps: Positive = 50
    keep_checkpoints: Positive = 2
    max_failures: int = Field(2, ge=0, description="restarts after a lost worker")

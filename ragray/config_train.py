"""The settings of training: what is adapted, on which examples, how a step is made, what is kept.

In: nothing. Out: a part of `config.RunConfig`, typed, frozen models with their defaults and limits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ragray.config_data import Positive, Section, Share


class LoraConfig(Section):
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: Positive = Field(16, description="rank r of the update BA")
    alpha: Positive = Field(32, description="scale: the update is multiplied by alpha / r")
    dropout: Share = Field(0.0, description="dropout before A")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="linear layers that are adapted, by name",
    )


class TrainConfig(Section):
    """LoRA training by Ray Train and DeepSpeed."""

    base_model: str = Field(description="folder, or hub id, of a causal language model")
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
    num_workers: Positive | tuple[Positive, Positive] = Field(
        1, description="Ray Train workers; [least, most]: as many of these as the cluster holds, changing with it"
    )
    resize_every_s: float = Field(
        60.0, gt=0, description="seconds between looks for room for more workers, with [least, most]"
    )
    use_gpu: bool = False
    threads_per_worker: Positive = Field(1, description="CPU threads of each worker")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    checkpoint_every_steps: Positive = 50
    keep_checkpoints: Positive = Field(2, description="the latest that stay")
    keep_best: int = Field(1, ge=0, description="those with the lowest validation loss that stay beside them")
    result: Literal["last", "best"] = Field(
        "last", description="the adapter that is the result: after the last step, or of the lowest validation loss"
    )
    on_bad_step: Literal["stop", "skip", "roll_back"] = Field(
        "stop",
        description="at a loss that is no number, or spikes: stop, leave the step out, or go back to the last "
        "checkpoint and leave out all steps since",
    )
    spike_factor: float | None = Field(
        None, gt=1, description="a step is bad whose loss is above this many times the running median of 50 steps"
    )
    spike_after_steps: Positive = Field(20, description="steps before a loss can be a spike")
    max_bad_steps: Positive = Field(10, description="bad steps after which the run stops all the same")
    max_failures: int = Field(2, ge=0, description="restarts after a lost worker")
    max_preemptions: int = Field(-1, ge=-1, description="restarts after a node was taken away; -1: no limit")
    preemption_grace_s: float = Field(
        0.0, ge=0, description="seconds that workers on other nodes go on after a node's announced end"
    )

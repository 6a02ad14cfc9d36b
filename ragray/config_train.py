"""The settings of training: what is adapted, on which examples, how a step is made, what is kept.

In: nothing. Out: a part of `config.RunConfig`, typed, frozen models with their defaults and limits.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

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


class ValidationConfig(Section):
    """Validation during training, and when it ends the run early."""

    every_steps: Positive | None = Field(None, description="validate after so many steps too, not only after an epoch")
    patience: Positive | None = Field(
        None, description="stop after so many validations without improvement; none: never"
    )
    min_improvement: float = Field(0.0, ge=0, description="fall of the best validation loss that is an improvement")


class MonitorConfig(Section):
    """Where a run shows itself while it goes on; nothing here changes what is trained."""

    jsonl: bool = Field(True, description="metrics.jsonl, a line for each step")
    tensorboard: str | None = Field(None, description="folder for TensorBoard's files; needs tensorboardX")
    mlflow: str | None = Field(None, description="URI of an MLflow server; user and password come from its variables")
    wandb: str | None = Field(None, description="project of Weights & Biases, [entity/]project; the key: WANDB_API_KEY")
    prometheus: bool = Field(True, description="gauges in Ray's metrics, which Prometheus reads")
    measure_peak: bool = Field(
        False,
        description="measure the peak FLOP/s of a device that no table lists, such as a CPU, so that MFU is known",
    )

    @field_validator("mlflow")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and re.search(r"//[^/]*@", uri):
            raise ValueError(
                "train.monitor.mlflow: holds a user or a password; set MLFLOW_TRACKING_USERNAME and _PASSWORD instead"
            )
        return uri


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
    num_workers: Positive = Field(1, description="Ray Train workers")
    use_gpu: bool = False
    threads_per_worker: Positive = Field(1, description="CPU threads of each worker")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    checkpoint_every_steps: Positive = 50
    keep_checkpoints: Positive = 2
    max_failures: int = Field(2, ge=0, description="restarts after a lost worker")
    validation: ValidationConfig = ValidationConfig()
    monitor: MonitorConfig = MonitorConfig()

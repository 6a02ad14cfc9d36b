"""The settings of training: what is adapted, on which examples, how a step is made, what is kept.

In: nothing. Out: a part of `config.RunConfig`, typed, frozen models with their defaults and limits.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ragray.config_data import Positive, Section, Share


def _default(section: type[Section], name: str) -> object:
    return section.model_fields[name].default


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
        min_length=1,
        description="linear layers that are adapted, by name",
    )
    trainable_tokens: tuple[int | str, ...] = Field(
        (), description="tokens whose embeddings are trained too, such as those added to the tokenizer; text or id"
    )


Schedule = Literal[
    "cosine", "cosine_restarts", "linear", "polynomial", "constant", "warmup_stable_decay", "one_cycle", "inverse_sqrt"
]


Offload = Literal["none", "optimizer", "optimizer_and_parameters"]


class ScheduleShape(Section):
    """Parameters of schedules; each applies to the schedules that it names."""

    floor_share: Share = Field(0.0, description="the lowest rate as a share of the peak; all but constant")
    cycles: Positive = Field(1, description="cosine_restarts: cycles of equal length, each from the peak down")
    power: float = Field(2.0, gt=0, description="polynomial: exponent; 1 is linear")
    decay_share: Share = Field(0.2, description="warmup_stable_decay: share of the steps after the warm-up that fall")


class LossConfig(Section):
    """What is minimised."""

    kind: Literal["cross_entropy", "focal", "unlikelihood", "dpo"] = Field(
        "cross_entropy",
        description="focal: hard tokens weigh more; unlikelihood: hard negatives are made unlikely; "
        "dpo: right answers are preferred to hard negatives",
    )
    label_smoothing: Share = Field(0.0, description="share of the target spread over the vocabulary; not for dpo")
    z_weight: float = Field(0.0, ge=0, description="weight of the squared log partition function; not for dpo")
    focal_gamma: float = Field(2.0, ge=0, description="focal: exponent of 1 - p; 0 is cross-entropy")
    unlikelihood_weight: float = Field(1.0, gt=0, description="unlikelihood: weight of the hard negatives' tokens")
    dpo_beta: float = Field(0.1, gt=0, description="dpo: how strongly the base model holds back")
    dpo_nll_weight: float = Field(0.0, ge=0, description="dpo: weight of the right answer's mean cross-entropy")

    @model_validator(mode="after")
    def _heeded(self) -> LossConfig:
        """Refuse a parameter that the chosen kind would ignore."""
        of_kinds = {
            "label_smoothing": ("cross_entropy", "focal", "unlikelihood"),
            "z_weight": ("cross_entropy", "focal", "unlikelihood"),
            "focal_gamma": ("focal",),
            "unlikelihood_weight": ("unlikelihood",),
            "dpo_beta": ("dpo",),
            "dpo_nll_weight": ("dpo",),
        }
        for name, kinds in of_kinds.items():
            if self.kind not in kinds and getattr(self, name) != _default(LossConfig, name):
                raise ValueError(f"{name} is for kind {', '.join(kinds)}, and kind is {self.kind}")
        return self


class ValidationConfig(Section):
    """Validation during training, and when it ends the run early."""

    every_steps: Positive | None = Field(None, description="validate after so many steps too, not only after an epoch")
    patience: Positive | None = Field(
        None, description="stop after so many validations without improvement; none: never"
    )
    min_improvement: float = Field(0.0, ge=0, description="fall of the best validation loss that is an improvement")
    asynchronous: bool = Field(
        False, description="validate checkpoints in a task of its own beside training, not in the training workers"
    )
    cpus: Positive = Field(1, description="asynchronous: CPUs of a validation, beside those of the workers")
    use_gpu: bool = Field(False, description="asynchronous: a validation has a GPU of its own")
    generate: int = Field(
        0, ge=0, description="asynchronous: validation questions that each checkpoint answers from their passages"
    )
    max_new_tokens: Positive = Field(160, description="asynchronous: longest of these answers, tokens")
    batch_size: Positive = Field(16, description="asynchronous: these answers generated at once")

    @model_validator(mode="after")
    def _asynchronous_heeded(self) -> ValidationConfig:
        """Refuse a parameter that would be ignored."""
        for name in ("cpus", "use_gpu", "generate"):
            if not self.asynchronous and getattr(self, name) != _default(ValidationConfig, name):
                raise ValueError(f"{name} is for asynchronous validation; set asynchronous: true")
        for name in ("max_new_tokens", "batch_size"):
            if not self.generate and getattr(self, name) != _default(ValidationConfig, name):
                raise ValueError(f"{name} is for generated answers; set generate to the number of questions")
        return self

    @model_validator(mode="after")
    def _improvement_heeded(self) -> ValidationConfig:
        """Refuse a limit that nothing would be held to."""
        if self.patience is None and self.min_improvement:
            raise ValueError("min_improvement is for patience, which is not set")
        return self


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


ANY_VALUE = frozenset(  # fields of `TrainConfig` that leave the result as it is, to rounding: a run resumes with others
    {
        "gradient_checkpointing",
        "keep_checkpoints",
        "max_failures",
        "max_preemptions",
        "monitor",
        "num_workers",
        "offload",
        "preemption_grace_s",
        "resize_every_s",
        "threads_per_worker",
        "zero_stage",
    }
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
    schedule: Schedule = Field("cosine", description="of the learning rate after the warm-up")
    schedule_shape: ScheduleShape = ScheduleShape()
    warmup_share: Share = Field(0.05, description="share of the steps with rising learning rate")
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="largest global gradient norm")
    loss: LossConfig = LossConfig()
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
    offload: Offload = Field(
        "none",
        description="what is kept in the machine's memory in place of a GPU's: AdamW's state and its work, with ZeRO-3 "
        "also the parameters",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: fp32 on a CPU; on a GPU bf16 where it has it, else fp16"
    )
    attention: Literal["auto", "sdpa", "varlen", "flash_attention_2"] = Field(
        "auto",
        description="attention over packed rows; auto: PyTorch's flash attention (varlen) where the GPU takes it, "
        "else that of the package flash-attn, else sdpa",
    )
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
    validation: ValidationConfig = ValidationConfig()
    monitor: MonitorConfig = MonitorConfig()

    @model_validator(mode="after")
    def _schedule_heeded(self) -> TrainConfig:
        """Refuse a parameter that the chosen schedule would ignore."""
        of_schedules = {"cycles": "cosine_restarts", "power": "polynomial", "decay_share": "warmup_stable_decay"}
        for name, schedule in of_schedules.items():
            if self.schedule != schedule and getattr(self.schedule_shape, name) != _default(ScheduleShape, name):
                raise ValueError(f"schedule_shape.{name} is for {schedule}, and schedule is {self.schedule}")
        if self.schedule == "constant" and self.schedule_shape.floor_share:
            raise ValueError("schedule_shape.floor_share: a constant schedule has no floor")
        return self

    @model_validator(mode="after")
    def _spikes_heeded(self) -> TrainConfig:
        """Refuse a limit of bad steps that nothing would be held to."""
        if self.spike_factor is None and self.spike_after_steps != _default(TrainConfig, "spike_after_steps"):
            raise ValueError("spike_after_steps is for spike_factor, which is not set")
        if self.on_bad_step == "stop" and self.max_bad_steps != _default(TrainConfig, "max_bad_steps"):
            raise ValueError("max_bad_steps is for on_bad_step skip or roll_back: the first bad step stops this run")
        return self

    @property
    def least_workers(self) -> int:
        """Workers without which there is no training."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Workers that are used where there is room."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

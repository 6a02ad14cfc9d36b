"""What DeepSpeed is told: stage, precision, buffers, and what is kept in the machine's memory.

In: `TrainConfig`. Out: DeepSpeed's configuration, or an error for settings that do not go together.
"""

from __future__ import annotations

from typing import Any

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError

ZERO_BUCKET = 50_000_000  # elements of a communication buffer; DeepSpeed's own 500 million are 1 GB in 16 bits
ZERO_LIVE = 1_000_000_000  # elements that ZeRO-3 keeps gathered at most; DeepSpeed's default, said here for the plan


def check_zero(settings: TrainConfig) -> None:
    """Check that stage and offload go together.

    Raises:
        ConfigError: nothing is sharded that could be kept elsewhere.
    """
    least = {"none": 0, "optimizer": 1, "optimizer_and_parameters": 3}[settings.offload]
    if settings.zero_stage < least:
        raise ConfigError(
            f"train.offload: {settings.offload} needs ZeRO-{least}, and train.zero_stage is {settings.zero_stage}",
            f"set train.zero_stage to {'3' if least == 3 else '1, 2 or 3'}, or train.offload to "
            f"{'optimizer' if least == 3 and settings.zero_stage > 0 else 'none'}",
        )


def deepspeed_config(settings: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's configuration for settings that are ready.

    PyTorch's AdamW updates what is offloaded too: DeepSpeed's own CPU optimizer would be compiled on the worker, and
    its moments would not be those of the other stages.
    """
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "reduce_bucket_size": ZERO_BUCKET,
        "allgather_bucket_size": ZERO_BUCKET,
        "stage3_max_live_parameters": ZERO_LIVE,
    }
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": settings.use_gpu}
    if settings.offload == "optimizer_and_parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": settings.use_gpu}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the loop says which row is the last of its step
        "gradient_clipping": settings.gradient_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": settings.precision == "bf16"},
        "fp16": {"enabled": settings.precision == "fp16"},
        "steps_per_print": None,
    }

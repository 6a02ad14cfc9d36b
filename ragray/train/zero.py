"""The DeepSpeed engine: gradients, clipping and the optimizer, sharded by ZeRO stage.

In: a module whose forward gives a loss, and `TrainConfig`. Out: steps, and the optimizer's state by
parameter name, whole and in float32, whatever the stage and the number of workers: a checkpoint of one
stage and world size is read by any other. torch.distributed must be initialised before.
Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError
from ragray.train.lora import trainable
from ragray.train.packing import PackedRow

MOMENTS = ("exp_avg", "exp_avg_sq")


def check_zero(settings: TrainConfig) -> None:
    """Check that stage and precision go together.

    Raises:
        ConfigError: half precision without sharding keeps no float32 weights to resume from.
    """
    if settings.zero_stage == 0 and settings.precision != "fp32":
        raise ConfigError(
            f"train.zero_stage: 0 does not go with train.precision={settings.precision}", "set train.zero_stage to 1"
        )


class ZeroEngine:
    """A module with its sharded optimizer. Every method but `forward` is a collective of all workers."""

    def __init__(self, module: nn.Module, settings: TrainConfig) -> None:
        import deepspeed

        _never_compile(deepspeed)
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, model_parameters=parameters, config=_deepspeed_config(settings)
        )
        self._stage = settings.zero_stage
        self._world_size = torch.distributed.get_world_size()
        self.parameters = trainable(self._engine.module)
        self.steps_applied = 0

    @property
    def module(self) -> nn.Module:
        """What `forward` runs."""
        module: nn.Module = self._engine.module
        return module

    @property
    def device(self) -> torch.device:
        """Where rows must be."""
        device: torch.device = self._engine.device
        return device

    def forward(self, row: PackedRow, *, last: bool = True) -> torch.Tensor:
        """The loss of a row; `last` marks the step's last row, after which gradients are complete."""
        self._engine.set_gradient_accumulation_boundary(last)
        loss: torch.Tensor = self._engine(row)
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss that is one worker's part of a sum over all workers."""
        self._engine.backward(loss * self._world_size, scale_wrt_gas=False)  # DeepSpeed averages over workers

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradients' global norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._plain_norm() if self._stage == 0 else 0.0
        self._engine.step()
        self.steps_applied += 1
        return norm if self._stage == 0 else float(self._engine.get_global_grad_norm())

    def evaluate(self, row: PackedRow) -> float:
        """The loss of a row, without gradients or dropout."""
        self._engine.eval()
        try:
            with torch.no_grad():
                return float(self._engine(row))
        finally:
            self._engine.train()

    def weights(self) -> dict[str, torch.Tensor]:
        """The trainable weights by name, float32 on the CPU."""
        return {name: self._whole(p, None) for name, p in self.parameters.items()}

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Both moments of every parameter as `name/exp_avg` and `name/exp_avg_sq`, one after the other."""
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                yield f"{name}/{moment}", self._whole(parameter, moment)

    def restore(self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor], steps: int) -> None:
        """Take up the float32 weights and the moments of a run that has done `steps` optimizer steps."""
        self._create_state(steps)
        for name, parameter in self.parameters.items():
            if self._stage > 0:  # without ZeRO the parameters are the float32 weights, already loaded
                self._set_whole(parameter, None, weights[name])
            for moment in MOMENTS:
                self._set_whole(parameter, moment, moments[f"{name}/{moment}"])
        self.steps_applied = steps

    def _create_state(self, steps: int) -> None:
        """AdamW creates its state in its first step; a resumed run needs it before."""
        zero = self._engine.optimizer
        optimizer = zero if self._stage == 0 else zero.optimizer
        if self._stage == 0:
            tensors = list(self.parameters.values())
        elif self._stage == 3:
            tensors = list(zero.fp32_partitioned_groups_flat)
        else:
            tensors = list(zero.single_partition_of_fp32_groups)
        for tensor in tensors:
            moments = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
            optimizer.state[tensor] = {"step": torch.tensor(float(steps)), **moments}
        if self._stage in (1, 2):
            zero._lazy_init_hp_params_optimizer_state()  # links each parameter to its part of the moments

    def _whole(self, parameter: nn.Parameter, moment: str | None) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._stage == 0:
            tensor = parameter if moment is None else self._engine.optimizer.state[parameter][moment]
        elif moment is None:
            tensor = safe_get_full_fp32_param(parameter)
        else:
            tensor = safe_get_full_optimizer_state(parameter, moment)
        whole: torch.Tensor = tensor.detach().to("cpu", torch.float32, copy=True)
        return whole

    def _set_whole(self, parameter: nn.Parameter, moment: str | None, value: torch.Tensor) -> None:
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        value = value.to(self.device)
        if self._stage == 0:
            self._engine.optimizer.state[parameter][moment].copy_(value)
        elif self._stage == 3:
            part = _part(value, parameter, torch.distributed.get_rank(), self._world_size)
            if moment is None:
                safe_set_local_fp32_param(parameter, part)
            else:
                safe_set_local_optimizer_state(parameter, part, moment)
        elif moment is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)

    def _plain_norm(self) -> float:
        norms = [torch.linalg.vector_norm(p.grad) for p in self.parameters.values() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(norms)))


def _part(value: torch.Tensor, parameter: Any, rank: int, world_size: int) -> torch.Tensor:
    """A worker's part of a whole tensor under ZeRO-3, which pads it to equal parts."""
    size = parameter.ds_tensor.numel()
    padded = nn.functional.pad(value.flatten(), (0, size * world_size - value.numel()))
    return padded[rank * size : (rank + 1) * size]


def _never_compile(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives, which are for inference alone."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _deepspeed_config(settings: TrainConfig) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the loop says which row is the last of its step
        "gradient_clipping": settings.gradient_clip,
        "zero_optimization": {"stage": settings.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": settings.precision == "bf16"},
        "fp16": {"enabled": settings.precision == "fp16"},
        "steps_per_print": None,
    }

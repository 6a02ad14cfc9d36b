"""The DeepSpeed engine: gradients, clipping and the optimizer, sharded by ZeRO stage.

In: a module whose forward gives a loss, and `TrainConfig`. Out: steps, and this worker's part of weights and
optimizer state in float32, by parameter name: a checkpoint of one stage and world size is read by any other.
torch.distributed must be initialised before.
Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ragray.config_train import TrainConfig
from ragray.train.lora import trainable
from ragray.train.loss_scale import LossScale, go_on_at_the_least_scale
from ragray.train.packing import PackedRow
from ragray.train.shards import MOMENTS, WEIGHT, Fragment, Shard
from ragray.train.zero_config import deepspeed_config


class ZeroEngine:
    """A module with its sharded optimizer. All workers call its methods alike; `shard` alone needs no other worker."""

    def __init__(self, module: nn.Module, settings: TrainConfig) -> None:
        import deepspeed

        _never_compile(deepspeed)
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, model_parameters=parameters, config=deepspeed_config(settings)
        )
        self._stage = settings.zero_stage
        self._plain = settings.zero_stage == 0 and settings.precision not in ("bf16", "fp16")
        go_on_at_the_least_scale(self._engine.optimizer)
        self._rank, self._world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.parameters = trainable(self._engine.module)
        self.updates = 0
        self.lowered_scale = False  # whether the last step was left out to lower the loss scale of fp16
        self._copies = {} if self._stage or self._plain else self._float32_copies()
        self._create_state()

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
        loss = loss * self._world_size  # DeepSpeed averages over workers
        if self._stage == 0 and (scale := self.loss_scale) is not None:
            loss = loss * scale.scale  # DeepSpeed scales the loss itself with ZeRO alone, and takes it out in any case
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradients' global norm before clipping.

        Where that norm is not a finite number, nothing is updated; under fp16 the loss scale falls.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        before = self.loss_scale
        if self._plain:
            norm = self._plain_norm()
            if not math.isfinite(norm):
                self.discard()
                return norm
            self._engine.step()
        else:
            self._engine.step()
            norm = math.inf if self._engine.optimizer.overflow else float(self._engine.get_global_grad_norm())
            if self._stage == 0 and before is not None:
                norm /= before.scale  # ZeRO does it itself
        self.lowered_scale = before is not None and before.fell_to(self.loss_scale)
        self.updates += int(math.isfinite(norm))
        return norm

    @property
    def loss_scale(self) -> LossScale | None:
        """Of fp16; None for other precisions."""
        return LossScale.of(self._engine.optimizer)

    def evaluate(self, row: PackedRow) -> float:
        """The loss of a row, without gradients or dropout."""
        self._engine.eval()
        try:
            with torch.no_grad():
                return float(self._engine(row))
        finally:
            self._engine.train()

    def discard(self) -> None:
        """Clear the gradients without an update, on the way that DeepSpeed has for an overflow."""
        if self._stage == 0:
            self._engine.optimizer.zero_grad(set_to_none=True)
            return
        zero = self._engine.optimizer

        def mark(*unused: object, **also_unused: object) -> None:
            zero.overflow = True

        replaced = {
            "check_overflow": mark,
            "_overflow_check_and_loss_scale_update": mark,
            "_update_scale": lambda overflow=True: None,  # the loss scale of fp16 has no part in it
        }
        checks, zero.check_grad_overflow = getattr(zero, "check_grad_overflow", None), True
        vars(zero).update(replaced)
        try:
            self._engine.step()
        finally:
            for name in replaced:
                delattr(zero, name)
            zero.check_grad_overflow = checks

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of every trainable parameter by name."""
        return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in self.parameters.items()}

    def shard(self) -> Shard:
        """A copy of this worker's part of weights and moments; no collective."""
        shapes = self.shapes()
        flats = {WEIGHT: self._flats()} | {
            moment: [self._adamw.state[flat][moment] for flat in self._flats()] for moment in MOMENTS
        }
        if self._stage == 0:  # all workers hold all: each writes a share
            mine = list(range(self._rank, len(shapes), self._world_size))
            flats = {part: [tensors[i] for i in mine] for part, tensors in flats.items()}
            names = [list(self.parameters)[i] for i in mine]
            fragments = [Fragment(name, 0, i, 0, math.prod(shapes[name])) for i, name in enumerate(names)]
        else:
            fragments = [piece for name, p in self.parameters.items() if (piece := self._fragment(name, p)) is not None]
        copies = {
            part: [tensor.detach().flatten().to("cpu", torch.float32, copy=True) for tensor in tensors]
            for part, tensors in flats.items()
        }
        return Shard(copies, fragments, shapes)

    def restore(
        self,
        weights: Mapping[str, torch.Tensor],
        moments: Mapping[str, torch.Tensor],
        updates: int,
        loss_scale: LossScale | None = None,
    ) -> None:
        """Take up the float32 weights and the moments of a run that has made `updates` optimizer steps.

        Args:
            weights: by name, whole.
            moments: by `name/exp_avg` and `name/exp_avg_sq`, whole.
            updates: what AdamW's bias correction counts.
            loss_scale: of fp16, where that run had one.
        """
        for flat in self._flats():
            self._adamw.state[flat]["step"].fill_(float(updates))
        for name, parameter in self.parameters.items():
            self._set(name, parameter, WEIGHT, weights[name])
            for moment in MOMENTS:
                self._set(name, parameter, moment, moments[f"{name}/{moment}"])
        if self._stage == 3:
            zero = self._engine.optimizer
            zero._partition_all_parameters()
            for group in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            zero._post_step([])
        else:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(weights[name])
        if loss_scale is not None:
            loss_scale.put_into(self._engine.optimizer)
        self.updates = updates

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self._engine.optimizer
        return optimizer if self._plain else self._engine.optimizer.optimizer

    def _flats(self) -> list[torch.Tensor]:
        """The tensors that AdamW updates: float32, this worker's part; without ZeRO one for each parameter."""
        if self._stage == 0:
            return [self._updated(parameter) for parameter in self.parameters.values()]
        zero = self._engine.optimizer
        return list(zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups)

    def _updated(self, parameter: torch.Tensor) -> torch.Tensor:
        """Without ZeRO, what AdamW updates of a parameter: itself, or its float32 copy."""
        return self._copies.get(parameter, parameter)

    def _float32_copies(self) -> dict[torch.Tensor, torch.Tensor]:
        """Without ZeRO, the float32 copy that DeepSpeed keeps of each parameter of 16 bits.

        They are made anew from the parameters: DeepSpeed has made a first step on them, whose weight decay counted.
        """
        optimizer = self._engine.optimizer
        groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        copies = {half: whole for halves, wholes in groups for half, whole in zip(halves, wholes, strict=True)}
        with torch.no_grad():
            for half, whole in copies.items():
                whole.copy_(half)
        return copies

    def _create_state(self) -> None:
        """AdamW creates its state in its first step; a checkpoint and a resumed run need it before."""
        for flat in self._flats():
            moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            self._adamw.state[flat] = {"step": torch.tensor(0.0), **moments}
        if self._stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _fragment(self, name: str, parameter: Any) -> Fragment | None:
        """Which piece of a parameter this worker holds, and where; None where it holds none of it."""
        if self._stage == 3:  # equal parts, the last ones padded
            flat, offset, size = self._engine.optimizer.grad_position[self._engine.optimizer.get_param_id(parameter)]
            start = self._rank * size
            numel = min(size, parameter.ds_numel - start)
            return Fragment(name, start, flat, int(offset), numel) if numel > 0 else None
        link = parameter._hp_mapping
        if link is None:
            return None
        here, there = link.lp_fragment_address, link.hp_fragment_address
        return Fragment(name, here.start, link.param_group_index, there.start, here.numel) if here.numel else None

    def _set(self, name: str, parameter: Any, part: str, value: torch.Tensor) -> None:
        if self._stage == 0:
            updated = self._updated(parameter)
            with torch.no_grad():
                (updated if part == WEIGHT else self._adamw.state[updated][part]).copy_(value)
            return
        piece = self._fragment(name, parameter)
        if piece is None:
            return
        flat = self._flats()[piece.flat]
        held = flat if part == WEIGHT else self._adamw.state[flat][part]
        mine = value.flatten()[piece.start : piece.start + piece.numel]
        held.detach()[piece.offset : piece.offset + piece.numel].copy_(mine)

    def _plain_norm(self) -> float:
        norms = [torch.linalg.vector_norm(p.grad) for p in self.parameters.values() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(norms)))


def _never_compile(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives, which are for inference alone."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

"""Which attention a packed row gets, and why.

In: `train.attention`, the number format, the device, the model's configuration. Out: a kernel with its reason, or an
error that says what to do. Every kernel attends inside each example alone and gives the same result up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError
from ragray.train.device import AMPERE, Choice, Device
from ragray.train.varlen import Kernel, here

_LARGEST_HEAD = 256
_FLASH: tuple[Kernel, ...] = ("varlen", "flash_attention_2")  # the first comes with PyTorch
_WHAT = {
    "sdpa": "torch's scaled_dot_product_attention, sequences of one length together",
    "varlen": "PyTorch's flash attention, one call for all sequences of a row",
    "flash_attention_2": "the package flash-attn, one call for all sequences of a row",
}


def choose_attention(settings: TrainConfig, device: Device, model: Callable[[], Any]) -> Choice:
    """The configured kernel, or the best that fits.

    Args:
        settings: whose precision is decided.
        device: what the workers compute on.
        model: gives the base model's configuration, of transformers; asked only where it decides.

    Raises:
        ConfigError: the configured one does not fit.
    """
    against = {kernel: _why_not(kernel, settings, device, model) for kernel in _FLASH}
    if settings.attention == "auto":
        fits: list[Kernel] = [kernel for kernel in _FLASH if against[kernel] is None]
        chosen: Kernel = fits[0] if fits else "sdpa"
        return Choice(chosen, _WHAT[chosen] if fits else f"{_WHAT[chosen]}; no flash attention: {against[_FLASH[0]]}")
    reason = against.get(settings.attention)
    if reason is not None:
        raise ConfigError(
            f"train.attention: {settings.attention} does not fit: {reason}",
            "set train.attention to auto, which takes the best that fits",
        )
    return Choice(settings.attention, f"train.attention says so: {_WHAT[settings.attention]}")


def kernel_of(settings: TrainConfig) -> Kernel:
    """The kernel of settings that are ready, which this worker must have.

    Raises:
        ConfigError: it is not decided yet, or not installed here.
    """
    if settings.attention == "auto":
        raise ConfigError(
            "train.attention: auto is not decided yet", f"set train.attention to one of {', '.join(get_args(Kernel))}"
        )
    if settings.attention not in here():
        raise ConfigError(
            f"train.attention: {_absent(settings.attention)}, on the node of a training worker",
            "install it on every node, or set train.attention=sdpa",
        )
    return settings.attention


def _why_not(kernel: Kernel, settings: TrainConfig, device: Device, model: Callable[[], Any]) -> str | None:
    """What keeps a flash kernel from these rows; None where nothing does."""
    if device.capability is None:
        return "it needs an NVIDIA GPU, and training is on a CPU"
    if device.capability < AMPERE:
        return f"it needs compute capability 8.0, and {device.name} has {'.'.join(map(str, device.capability))}"
    if settings.precision == "fp32":
        return "it needs train.precision bf16 or fp16"
    config = model().get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dropout = getattr(config, "attention_dropout", 0.0) or 0.0
    if head > _LARGEST_HEAD or head % 8:
        return f"it takes heads of 8 to {_LARGEST_HEAD} by eights, and the model's have {head}"
    if kernel == "varlen" and dropout:
        return f"it has no dropout, and the model's configuration has attention_dropout={dropout}"
    return None if kernel in device.kernels else _absent(kernel)


def _absent(kernel: Kernel) -> str:
    if kernel == "varlen":
        return "this PyTorch has no varlen_attn with windows and shared keys"
    return "the package flash-attn is not installed"

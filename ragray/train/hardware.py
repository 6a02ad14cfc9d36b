"""Which number format and attention follow from the machine, and what they go with.

In: a device, and settings that say "auto". Out: settings that leave nothing open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError
from ragray.train.attention import choose_attention
from ragray.train.device import AMPERE, Choice, Device, this_device
from ragray.train.loading import Precision, load_tokenizer, model_config
from ragray.train.lora import with_token_ids

_FP16_FROM = (7, 0)  # tensor cores


def choose_precision(settings: TrainConfig, device: Device) -> Choice:
    """The number format of training: the configured one, or what suits the device."""
    if settings.precision != "auto":
        return Choice(settings.precision, "train.precision says so")
    if device.capability is None:
        return Choice("fp32", "a CPU; bf16 halves the weights' memory, but most CPUs are slower with it")
    version = ".".join(map(str, device.capability))
    if device.capability >= AMPERE:
        return Choice("bf16", f"compute capability {version} has bf16, whose range needs no loss scaling")
    if device.capability >= _FP16_FROM:
        return Choice("fp16", f"compute capability {version} has fp16 tensor cores and no bf16")
    return Choice("fp32", f"compute capability {version} has no tensor cores")


def ready_settings(
    settings: TrainConfig, model_folder: Path, device: Callable[[], Device] | None = None
) -> TrainConfig:
    """The settings with nothing left open: "auto" decided, trainable tokens as ids. Ready settings stay as they are.

    An attention that is named is not checked here but where the plan is made.

    Args:
        settings: as the user wrote them.
        model_folder: of the base model, for its tokenizer.
        device: gives what the workers compute on, by default what is here; asked only where it decides.

    Raises:
        ConfigError: a trainable token is not one of the tokenizer's, or there is no GPU.
    """
    if "auto" in (settings.precision, settings.attention):
        found = device() if device else this_device(settings.use_gpu)
        settings = settings.model_copy(update={"precision": choose_precision(settings, found).value})
        if settings.attention == "auto":
            chosen = choose_attention(settings, found, lambda: model_config(model_folder))
            settings = settings.model_copy(update={"attention": chosen.value})
    if any(isinstance(token, str) for token in settings.lora.trainable_tokens):
        lora = with_token_ids(settings.lora, load_tokenizer(model_folder))
        settings = settings.model_copy(update={"lora": lora})
    return settings


def precision_of(settings: TrainConfig) -> Precision:
    """The number format of settings that are ready.

    Raises:
        ConfigError: it is not decided yet.
    """
    if settings.precision == "auto":
        raise ConfigError("train.precision: auto is not decided yet", "set train.precision to fp32, bf16 or fp16")
    return settings.precision


def check_variant(settings: TrainConfig) -> None:
    """Check that what is trained goes with the ZeRO stage.

    Raises:
        ConfigError: ZeRO-3 would leave no whole weight for what needs one.
    """
    needs = {
        "train.lora.method=dora": settings.lora.method == "dora",
        "train.lora.trainable_tokens": bool(settings.lora.trainable_tokens),
        f"train.quantization={settings.quantization}": settings.quantization != "none",
    }
    if settings.zero_stage == 3 and (named := [name for name, wanted in needs.items() if wanted]):
        raise ConfigError(
            f"train.zero_stage: 3 shares out the base weights, which {named[0]} needs whole", "set train.zero_stage=2"
        )

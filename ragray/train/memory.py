"""How much memory training takes, by part, before any weight is loaded.

In: a base model's config.json and the settings. Out: bytes of weights, gradients, optimizer and activations for each
ZeRO stage and number of workers. Counts come from the model itself, built without storage: its parameters, those that
PEFT trains, and the tensors that its forward pass saves for the backward pass. Short-lived results are not counted.

On a CPU, glibc keeps freed blocks below 32 MB, so that a process may hold up to three times its activations; with
MALLOC_MMAP_THRESHOLD_=65536 in the environment the measured peaks are those planned within 20 %. What is refused can
therefore never fit; what is planned to fit closely on a CPU may need that variable.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 3 and
figure 1: Adam in mixed precision keeps 2 + 2 + 12 bytes a trained parameter (weights, gradients; float32 copy and two
moments), of which stage 1 shares out the 12, stage 2 also the gradients, stage 3 also the weights. Frozen weights have
neither gradients nor optimizer state. Ren et al. 2021, "ZeRO-Offload", section 4: with offload, the 12 and a float32
gradient lie in the machine's memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ragray.config_train import TrainConfig
from ragray.train.device import Device
from ragray.train.flops import StepWork
from ragray.train.hardware import precision_of
from ragray.train.loading import DTYPES, model_config
from ragray.train.lora import attach_lora
from ragray.train.losses import wrong_answers
from ragray.train.packing import register_packed_attention
from ragray.train.zero_config import ZERO_BUCKET, ZERO_LIVE

_RUNTIME = {"cpu": 700 << 20, "cuda": 600 << 20}  # Python with its libraries; the CUDA context (both measured, rough)
_SAMPLE_TOKENS = 256  # what a forward pass saves grows in proportion to its tokens
_NF4_BYTES = 0.5 + 4 / 64 / 4 + 4 / 64 / 256  # a weight; 8-bit constants of 64 weights, and float32 of 256 of those
_MOMENTS = 8  # bytes: two in float32
_MASTER = 4  # bytes: the float32 copy that ZeRO keeps


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model is made of, counted."""

    architecture: str
    parameters: int  # of the base model
    trainable: int  # as PEFT counts them
    linear: int  # parameters of the linear layers inside the blocks, which quantization shrinks
    blocks: int
    largest_block: int  # parameters
    saved_by_block: float  # bytes that one block saves for the backward pass, each token
    saved_elsewhere: float  # bytes outside the blocks, each token, without the logits
    saved_by_logits: float  # bytes for each token with loss
    hidden_bytes: int  # of one token between blocks
    work: StepWork | None = None  # what a token costs; None: not known


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that one worker needs, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int  # of communication
    runtime: int
    host: int = 0  # what a GPU's worker keeps in the machine's memory; not in the total
    total: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "total",
            self.weights + self.gradients + self.optimizer + self.activations + self.buffers + self.runtime,
        )

    def tree(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


def size_of_model(folder: Path, settings: TrainConfig) -> ModelSize:
    """Count a model without loading or computing anything.

    Args:
        folder: of the base model.
        settings: ready, see `hardware.ready_settings`.

    Raises:
        ConfigError: a target module does not exist.
    """
    config = model_config(folder)
    whole = _adapted(config, settings, config.num_hidden_layers)
    blocks = _blocks(whole)
    trained = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    inside = [p for block in blocks for p in block.parameters() if not p.requires_grad]
    elements = DTYPES[precision_of(settings)].itemsize
    half = _SAMPLE_TOKENS // 2
    one_block = _adapted(config, settings, 1)
    one, fewer = _saved(one_block, elements, half), _saved(one_block, elements, half // 2)
    two = _saved(_adapted(config, settings, 2), elements, half)
    by_logits = (one - fewer) / (half - half // 2)
    by_block = (two - one) / _SAMPLE_TOKENS
    return ModelSize(
        architecture=str(config.model_type),
        parameters=sum(p.numel() for p in whole.parameters() if not p.requires_grad),
        trainable=trained,
        linear=sum(p.numel() for p in inside if p.ndim == 2),
        blocks=len(blocks),
        largest_block=max(sum(p.numel() for p in block.parameters()) for block in blocks),
        saved_by_block=by_block,
        saved_elsewhere=max(0.0, (one - by_logits * half) / _SAMPLE_TOKENS - by_block),
        saved_by_logits=by_logits,
        hidden_bytes=config.hidden_size * elements,
        work=StepWork.of(whole, reference=settings.loss.kind == "dpo"),
    )


def memory_of(
    size: ModelSize, settings: TrainConfig, device: Device, stage: int, workers: int, answer_share: float
) -> Memory:
    """What one worker needs at its peak.

    Args:
        size: counted under the same precision and adapter as `settings` say.
        settings: ready.
        device: what it computes on.
        stage: ZeRO's.
        workers: that share out what the stage shares out.
        answer_share: tokens with loss over all tokens of a row.
    """
    element = DTYPES[precision_of(settings)].itemsize
    frozen = _frozen_bytes(size, settings, element)
    held, gathered = frozen + element * size.trainable, 0.0
    if stage == 3:  # weights are gathered before they run, the next block's with them, and some are kept
        held, gathered = held / workers, min(held, element * max(ZERO_LIVE, 2 * size.largest_block))
    gradients = element * size.trainable / (workers if stage >= 2 else 1)
    master = _MASTER if stage > 0 or element < 4 else 0
    optimizer = (_MOMENTS + master) * size.trainable / (workers if stage >= 1 else 1)
    buffers = element * ZERO_BUCKET if device.kind == "cuda" and stage > 0 else 0
    host = 0.0
    if device.kind == "cuda" and settings.offload != "none" and stage > 0:
        share = size.trainable / workers  # with its gradient in float32, and a copy in the weights' format
        host, optimizer = optimizer + (_MASTER + element) * share, 0.0
        if stage == 3 and settings.offload == "optimizer_and_parameters":
            host, held = host + held, 0.0
    return Memory(
        weights=round(held + gathered),
        gradients=round(gradients),
        optimizer=round(optimizer),
        activations=round(activations(size, settings, answer_share)),
        buffers=buffers,
        runtime=_RUNTIME[device.kind],
        host=round(host),
    )


def activations(size: ModelSize, settings: TrainConfig, answer_share: float) -> float:
    """Bytes saved in the forward pass of a full row; with checkpointing the blocks' inputs, and one block anew.

    Source of the second: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    blocks = size.blocks * size.saved_by_block
    if settings.gradient_checkpointing:
        blocks = size.blocks * size.hidden_bytes + size.saved_by_block
    return row_tokens(settings) * (blocks + size.saved_elsewhere + answer_share * size.saved_by_logits)


def row_tokens(settings: TrainConfig) -> int:
    """The longest row: an example that is longer than a row has one to itself, with its wrong answer."""
    sequences = 1 if wrong_answers(settings.loss) == "none" else 2
    return max(settings.tokens_per_micro_batch, sequences * settings.max_length)


def gigabytes(value: float) -> str:
    """Bytes as people read them: 10^9 of them are a GB."""
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.2f} MB"


def _frozen_bytes(size: ModelSize, settings: TrainConfig, element: int) -> float:
    """Of the base; quantized, all linear layers but the output layer shrink."""
    if settings.quantization == "none":
        return float(element * size.parameters)
    each = _NF4_BYTES if settings.quantization == "nf4" else 1.0
    return element * (size.parameters - size.linear) + each * size.linear


def _adapted(config: Any, settings: TrainConfig, blocks: int) -> torch.nn.Module:
    """The model with `blocks` of its blocks and its adapter, without storage."""
    import copy

    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.num_hidden_layers = blocks
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:blocks]
    dtype = DTYPES[precision_of(settings)]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=register_packed_attention(), dtype=dtype
        )
        adapted = attach_lora(model, settings.lora, seed=0)
    return adapted.train()


def _blocks(model: Any) -> torch.nn.ModuleList:
    """The longest list of modules of a model: its transformer blocks."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len)


def _saved(model: torch.nn.Module, element: int, answers: int) -> int:
    """Bytes that a forward pass over sample tokens saves for the backward pass, its weights not counted."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        named = [*model.named_parameters(), *model.named_buffers()]
        state = {name: _without_storage(tensor, element) for name, tensor in named}
        ids = torch.zeros(1, _SAMPLE_TOKENS, dtype=torch.int64)
        inputs = {
            "input_ids": ids, "position_ids": torch.arange(_SAMPLE_TOKENS)[None], "use_cache": False,
            "logits_to_keep": torch.arange(answers),
        }  # fmt: skip
        with _counting({t.untyped_storage()._cdata for t in state.values()}) as found:
            logits = torch.func.functional_call(model, state, args=(), kwargs=inputs).logits[0]
            torch.nn.functional.cross_entropy(logits.float(), torch.zeros(answers, dtype=torch.int64))
        return sum(size for _, size in found.values())


def _without_storage(tensor: torch.Tensor, element: int) -> torch.Tensor:
    """Its double under the mode that computes shapes alone; DeepSpeed casts trained weights as it casts the others."""
    dtype = torch.float32 if element == 4 else torch.bfloat16
    dtype = dtype if tensor.requires_grad else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, requires_grad=tensor.requires_grad)


@contextlib.contextmanager
def _counting(own: set[int]) -> Iterator[dict[int, tuple[Any, int]]]:
    """Collect the storages that autograd saves, each once; they are kept so that no address comes twice."""
    found: dict[int, tuple[Any, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found

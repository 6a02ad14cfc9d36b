"""What every engine and every engine builder offers, whatever runs underneath.

In: token ids. Out: `Completion`s, at once (`Engine.generate`) or piece by piece (`Engine.submit`).
Token ids, not text, cross this border: the prompt is rendered once, by the tokenizer of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ragray.config import EngineConfig
    from ragray.engine.manifest import EngineManifest

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. `temperature` 0 is greedy: the most probable token, always."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0  # smallest set of tokens with this probability, 1.0 keeps all
    seed: int = 0
    stop_repeats: bool = False  # end an answer that only repeats itself, see `engine.repeats`
    ignore_stop: bool = False  # go on behind stop tokens, so that `max_new_tokens` come: for measuring
    adapter: str | None = None  # name of the LoRA adapter that answers; None: the engine's model alone

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1 are needed: {self}")


@dataclass(frozen=True, slots=True)
class Timing:
    """When a request's tokens came, seconds after it was submitted."""

    first_token_s: float
    last_token_s: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated. `token_ids` and `text` are without the prompt and without the stop token."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    timing: Timing | None = field(default=None, compare=False)  # None where no token came
    lineage: Mapping[str, str] = field(default_factory=dict, compare=False)  # digests of what wrote it, when served


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is running: for lineage in answers and reports."""

    kind: str  # the builder's name, such as "openvino"
    device: str  # "cpu", or the accelerator's type
    weights: str  # "fp32", "int8", ...
    model: str  # name of the model's architecture and size
    digest: str  # sha256 of the engine's files


class Handle(Protocol):
    """One running request."""

    def read(self, timeout_s: float | None = None) -> str | None:
        """The next piece of text, whole characters only; None at the end.

        Raises:
            TimeoutError: nothing came within `timeout_s` seconds.
            EngineError: the engine failed or was closed.
        """

    def listen(self, listener: Callable[[str | None], None]) -> None:
        """Give the listener each piece as it comes, in place of `read`, and None at the end.

        Called once, before any `read`. The listener runs in the engine's thread and must return at once; pieces that
        are there already it gets in the caller's. A failure ends the pieces, and `completion` raises it.
        """

    def cancel(self) -> None:
        """Stop generating; what was generated so far stays readable."""

    def completion(self) -> Completion:
        """Wait for the end and return the whole.

        Raises:
            EngineError: the engine failed or was closed.
        """


class Engine(Protocol):
    """A loaded model."""

    @property
    def info(self) -> EngineInfo:
        """What is running."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer, with its chat template."""

    def submit(self, token_ids: Sequence[int], params: SamplingParams) -> Handle:
        """Start one request; it joins the running batch at the next step.

        Raises:
            EngineError: the prompt is empty or too long, the engine has no such adapter, failed or is closed.
        """

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Completion]:
        """Complete all prompts; results in their order, equal for equal calls."""

    def stats(self) -> dict[str, float]:
        """Counts since loading: requests, active, prompt_tokens, completion_tokens."""

    def close(self) -> None:
        """Stop all requests and free the model."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device that engines are built for and run on. What does not apply or could not be asked is None."""

    type: str  # "cpu", or Ray's accelerator type such as "H100"
    arch: str  # machine architecture, such as "x86_64"
    name: str  # the processor's or GPU's own name
    features: tuple[str, ...] = ()  # instruction sets that change how fast an engine runs
    memory_bytes: int | None = None  # of one GPU
    compute_capability: str | None = None  # such as "9.0"
    driver: str | None = None
    cuda: str | None = None  # newest that the driver supports


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine was compiled for; None: decided when it is loaded."""

    max_batch_size: int | None = None
    max_input_tokens: int | None = None
    max_sequence_tokens: int | None = None  # prompt and answer together
    max_num_tokens: int | None = None  # in one step, over all sequences


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What is asked of a builder: the weight format, and limits that an engine may be compiled for."""

    weights: str | None  # None: the builder chooses what suits the device
    max_batch_size: int  # sequences
    max_input_tokens: int  # of one prompt
    max_new_tokens: int  # of one answer


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a builder will do for a device. Weights and limits are part of the engine's key."""

    weights: str  # begins with a format that `verification.BARS` knows: "int8_smoothquant"
    limits: Limits = field(default_factory=Limits)
    reason: str = ""  # why these weights, where the builder chose them
    tensor_parallel: int = 1  # GPUs that one copy of the engine spans


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter of its own that a builder runs commands in, because ragray's cannot hold its packages."""

    name: str  # its key in engine.devices.TYPE.interpreters
    packages: Mapping[str, str]  # package -> version that must be installed there: "1.2.1" accepts 1.2.1 and 1.2.1.x


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """All that a builder gets for one build, on the machine where it runs."""

    checkpoint: Path  # merged Hugging Face folder with tokenizer, float32 safetensors
    device: DeviceInfo  # the device at hand
    spec: EngineSpec
    plan: BuildPlan  # what `plan(device, spec)` said
    settings: EngineConfig  # threads, batch size and cache size for loading
    log: Path  # append here what happens: commands, their output; kept with the engine
    interpreters: Mapping[str, str] = field(default_factory=dict)  # environment's name -> its Python, checked
    calibration: tuple[tuple[int, ...], ...] = ()  # training examples as token ids; none: the fixed prompts


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """What a builder says about the engine that it wrote."""

    format: str  # "openvino_ir", "huggingface", "tensorrt"
    quantization: str | None  # algorithm, such as "int8_asym"
    kv_cache: str  # number format of cached attention keys and values
    runtime: Mapping[str, str]  # package -> release that loading needs ("2026.4" accepts 2026.4.x)
    versions: Mapping[str, str] = field(default_factory=dict)  # packages that took part in the build
    plugins: Mapping[str, str] | None = None
    lora: Mapping[str, Any] | None = None  # rank, modules
    calibration: str | None = None  # sha256 of the calibration texts
    commands: tuple[tuple[str, ...], ...] = ()  # argument vectors that were run


class Builder(Protocol):
    """Turns a checkpoint (Hugging Face folder) into an engine for one type of device.

    `version`, `environment`, `supports` and `plan` are asked on the driver, which may have neither the device nor the
    builder's packages. `build` and `verify` run in one remote task on a node of the device's type; the builder object
    travels there by pickle. To offer one: `builders.BUILDERS[builder.name] = builder`.
    """

    @property
    def name(self) -> str:
        """The engine kind, as in `engine.kind`."""

    def version(self) -> str:
        """Versions of everything that decides the engine's bytes: part of an engine's key."""

    def environment(self) -> tuple[Environment, ...]:
        """The interpreters that it needs beside ragray's own; checked before `build`."""

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        """None, or the reason why this engine cannot be built for `device`."""

    def plan(self, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
        """What will be built for a device that is supported; the same for the same arguments."""

    def build(self, order: BuildOrder, out: Path) -> BuiltEngine:
        """Write the engine, with tokenizer and model configuration, into the existing folder `out`.

        Raises:
            EngineError: the model's architecture is not supported, or the build failed.
        """

    def verify(
        self, order: BuildOrder, manifest: EngineManifest, out: Path, prompts: Sequence[Sequence[int]], tokens: int
    ) -> list[tuple[int, ...]]:
        """Load what was built and answer prompts (token ids) greedily, at most `tokens` each, all in one batch.

        The answers come without the prompt and without the stop token; ragray compares them with the model's own.

        Raises:
            EngineError: the engine cannot be loaded or run.
        """

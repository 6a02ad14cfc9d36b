"""What a quantization method is, and what passes between the stage and the process that it runs in.

In and out: JSON files, so that a method may run in another interpreter than ragray's. Each step, `quantize` and
`measure`, is a process of its own: a peak of memory is the step's, and what is measured was read from disk.

Both are called as `argv... REQUEST.json RESULT.json`. A result holds `facts` (of step quantize), `measured`, or
`error` with a message and a fix. A method that returns `measured` from step quantize is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ragray.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ragray.config_quantize import QuantizeConfig
    from ragray.engine.protocol import Engine

SCHEMA = 1
WEIGHTS = (".safetensors", ".bin")  # endings of the files that count as a model's size

Step = Literal["quantize", "measure"]
Scorer = Callable[[Sequence[int]], "npt.NDArray[np.float32]"]
"""Token ids -> log probabilities of the next token, float32 [tokens, vocabulary]."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A prompt with its right answer, `token_ids[answer_start:]`."""

    token_ids: tuple[int, ...]
    answer_start: int


@dataclass(frozen=True, slots=True)
class Material:
    """What methods are calibrated on and measured by, as token ids of the model's own tokenizer."""

    calibration: tuple[tuple[int, ...], ...]  # training examples: prompt and answer
    held_out: tuple[HeldOut, ...]  # test questions with passages and answer
    prompts: tuple[tuple[int, ...], ...]  # test questions with passages, to be answered


@dataclass(frozen=True, slots=True)
class Request:
    """What a method is told. Folders are absolute."""

    method: str
    model: str  # the full model: a Hugging Face folder in float32
    out: str  # existing folder; empty at step quantize
    material: Material
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    batch_size: int
    threads: int
    step: Step = "quantize"

    def write(self, path: Path) -> None:
        """Write the request as JSON."""
        tree = asdict(self)
        path.write_text(json.dumps({"schema": SCHEMA, **tree.pop("material"), **tree}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Request:
        """Read what `write` wrote."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        held_out = tuple(HeldOut(tuple(each["token_ids"]), each["answer_start"]) for each in tree.pop("held_out"))
        calibration, prompts = (tuple(map(tuple, tree.pop(name))) for name in ("calibration", "prompts"))
        del tree["schema"]
        tree["stop_token_ids"] = tuple(tree["stop_token_ids"])
        return cls(material=Material(calibration, held_out, prompts), **tree)

    def at(self, step: Step) -> Request:
        """The same, for another step."""
        return replace(self, step=step)


@dataclass(frozen=True, slots=True)
class Reply:
    """One generated answer, without its stop token."""

    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Measured:
    """What became of a model, read back from disk. Times and memory are None where they would mean nothing."""

    positions: int  # tokens of the held-out prompts and answers
    kl_nats: float  # mean KL(full || quantized) over all positions
    argmax_agreement: float  # share of positions with the same most probable next token
    perplexity: float  # exp(mean negative log likelihood) of the held-out answers' tokens
    full_perplexity: float
    answers: tuple[Reply, ...]  # greedy, in the prompts' order
    load_s: float | None = None
    memory_bytes: int | None = None  # that loading added
    peak_memory_bytes: int | None = None  # that loading and answering added
    generate_s: float | None = None
    simulated: bool = False  # rounded as the files are, but computed in float

    @property
    def tokens_per_second(self) -> float | None:
        """Of all answers together; None where no time was taken."""
        if not self.generate_s:
            return None
        return sum(len(answer.token_ids) for answer in self.answers) / self.generate_s


@dataclass(frozen=True)
class Result:
    """What a step gave."""

    facts: dict[str, Any] | None = None  # algorithm, versions
    measured: Measured | None = None

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path, method: str) -> Result:
        """Read what a step wrote.

        Raises:
            EngineError: the step failed and says why, or wrote something else.
        """
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["schema"] != SCHEMA:
                raise EngineError(f"{method}: answered by schema {tree['schema']}, not {SCHEMA}", "update its program")
            if error := tree.get("error"):
                raise EngineError(f"{method}: {error['message']}", error["fix"])
            return cls(tree.get("facts"), _measured(tree["measured"]) if tree.get("measured") else None)
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{method}: its answer cannot be read: {error!r}", "update its program") from None


def write_error(path: Path, message: str, fix: str) -> None:
    """Write the result of a step that failed."""
    path.write_text(json.dumps({"schema": SCHEMA, "error": {"message": message, "fix": fix}}), encoding="utf-8")


def _measured(tree: dict[str, Any]) -> Measured:
    answers = tuple(Reply(tuple(each["token_ids"]), each["finish_reason"]) for each in tree.pop("answers"))
    return Measured(answers=answers, **tree)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a method needs of a machine, or why it cannot work."""

    memory_bytes: int
    refusal: str | None = None
    fix: str = ""


class Method(Protocol):
    """A way to quantize a model; one instance for each name in `quantize.methods`."""

    @property
    def name(self) -> str:
        """As in `quantize.methods`."""

    @property
    def bits(self) -> int:
        """Of a quantized weight."""

    @property
    def calibrated(self) -> bool:
        """Whether it looks at `Material.calibration`."""

    @property
    def used_by(self) -> str:
        """What loads its files, and the settings that make it so."""

    def plan(self, model_bytes: int, settings: QuantizeConfig) -> Plan:
        """What it needs for a model of so many bytes of float32 weights."""

    def program(self, settings: QuantizeConfig) -> list[str]:
        """The command of both steps, without the two files."""


class LocalMethod(Method, Protocol):
    """A method that runs in ragray's own interpreter."""

    def quantize(self, request: Request) -> dict[str, Any]:
        """Write the quantized weights into `request.out`, and say what was done: algorithm and versions.

        Raises:
            EngineError: the model cannot be quantized by this method.
        """

    def load(self, request: Request) -> Engine:
        """What was written, loaded to generate.

        Raises:
            EngineError: it cannot be loaded.
        """

    def scorer(self, request: Request, engine: Engine) -> Scorer:
        """Log probabilities by what was written; `engine`, which `load` gave, may be closed by it."""

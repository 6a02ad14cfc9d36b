"""One method applied to one model: quantized, read back and measured, each in a process of its own.

In: a method and a `Request`. Out: the filled folder and a `QuantizationRecord`. What was saved is read back before
anything is said of it, as a file that is written wrongly loads without any error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ragray.config_quantize import QuantizeConfig
from ragray.engine.quantize_protocol import WEIGHTS, Measured, Method, Request, Result, Step
from ragray.errors import EngineError
from ragray.train.template import TEMPLATE

LOG = "quantize.log"
_LOG_END = 2000  # characters of a failed program's output that are shown
_COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "vocab.json",
    "merges.txt", "tokenizer.model", "added_tokens.json", "generation_config.json", "config.json", TEMPLATE,
)  # fmt: skip


@dataclass(frozen=True)
class QuantizationRecord:
    """What became of a model by one method."""

    method: str
    facts: dict[str, Any]  # algorithm, versions, what loads it
    bytes: int  # of the weights' files
    measured: Measured

    def figures(self) -> dict[str, Any]:
        """What is the same in every run, for quantize.json."""
        measured = self.measured
        return {
            **self.facts,
            "bytes": self.bytes,
            "positions": measured.positions,
            "kl_nats": round(measured.kl_nats, 6),
            "argmax_agreement": round(measured.argmax_agreement, 4),
            "perplexity": round(measured.perplexity, 3),
            "full_perplexity": round(measured.full_perplexity, 3),
            "simulated": measured.simulated,
        }

    def costs(self) -> dict[str, Any]:
        """Times and memory, which differ from run to run, for timings.json."""
        measured = asdict(self.measured)
        speed = self.measured.tokens_per_second
        names = ("load_s", "memory_bytes", "peak_memory_bytes", "generate_s")
        return {name: measured[name] for name in names} | {"tokens_per_second": speed and round(speed, 1)}


def quantize(method: Method, request: Request, settings: QuantizeConfig) -> QuantizationRecord:
    """Write the quantized model into `request.out`, read it back and measure it.

    Raises:
        EngineError: the method cannot do it, or its program failed.
    """
    out = Path(request.out)
    log = out / LOG
    first = _run(method, request.at("quantize"), settings, log)
    if first.facts is None:
        raise EngineError(f"{method.name}: its program says nothing of what it did", "update its program")
    copy_companions(Path(request.model), out)
    measured = first.measured or _run(method, request.at("measure"), settings, log).measured
    if measured is None:
        raise EngineError(f"{method.name}: its program measured nothing", "update its program")
    facts = {**first.facts, "used_by": method.used_by}
    return QuantizationRecord(method.name, facts, weight_bytes(out), measured)


def measure_full(method: Method, request: Request, settings: QuantizeConfig) -> QuantizationRecord:
    """The record of the full model itself, which `method` loads; `request.out` takes the log alone."""
    own = replace(request, step="measure", out=request.model)
    measured = _run(method, own, settings, Path(request.out) / LOG).measured
    assert measured is not None  # ragray's own program
    facts = {"algorithm": "none", "versions": {}, "used_by": method.used_by}
    return QuantizationRecord(method.name, facts, weight_bytes(Path(request.model)), measured)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights' files of a model folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in WEIGHTS)


def copy_companions(model: Path, out: Path) -> None:
    """Copy tokenizer, chat template and settings, where the method did not write its own."""
    for name in _COMPANIONS:
        if (model / name).is_file() and not (out / name).exists():
            (out / name).write_bytes((model / name).read_bytes())


def _run(method: Method, request: Request, settings: QuantizeConfig, log: Path) -> Result:
    """One step in its own process; what it prints goes to `log`.

    Raises:
        EngineError: the program cannot be started, failed without a result, or its result says why it failed.
    """
    step: Step = request.step
    with tempfile.TemporaryDirectory(prefix="ragray-quantize-") as name:
        asked, told = Path(name) / "request.json", Path(name) / "result.json"
        request.write(asked)
        program = method.program(settings)
        with log.open("ab") as stream:
            try:
                done = subprocess.run(
                    [*program, str(asked), str(told)], stdout=stream, stderr=subprocess.STDOUT,
                    env=_environment(request.threads), check=False,
                )  # fmt: skip
            except OSError as error:
                raise EngineError(
                    f"{method.name}: {program[0]} cannot be started: {error.strerror}",
                    "name an installed Python in quantize.environments, the same on every node",
                ) from None
        if not told.is_file():
            end = log.read_text(encoding="utf-8", errors="replace")[-_LOG_END:]
            raise EngineError(
                f"{method.name}: step {step} ended with code {done.returncode} and no result:\n{end}",
                "free memory, or leave the method out of quantize.methods",
            )
        return Result.read(told, method.name)


def _environment(threads: int) -> dict[str, str]:
    """This process's environment, with its module path (which `python -I` does not read) and its threads."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}

"""The pace of training, measured: some real steps on random tokens, by one worker.

In: settings and a base model. Out: `Pace`. The steps are those of `train.loop`, on examples of random tokens. What
watches a run, stops it early or leaves steps out is off: nothing of a measurement is sent anywhere.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ragray.config_train import MonitorConfig, TrainConfig, ValidationConfig
from ragray.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONGEST = 256  # tokens of an example, where max_length allows so many
_SHARE = 4  # one token of so many belongs to the answer
_TOKENS_READ = 3  # at most about so many are read from the text of a random token


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one worker was; the first step, which warms up, is not counted."""

    steps: int
    seconds_per_step: float  # median
    tokens_per_step: float

    @property
    def tokens_per_s(self) -> float:
        """Of one worker."""
        return self.tokens_per_step / self.seconds_per_step

    def seconds_for(self, tokens: int, workers: int) -> float:
        """Of a run over so many tokens, if the workers do not slow each other down; starting and saving not counted."""
        return tokens / (self.tokens_per_s * workers)


def measure(settings: TrainConfig, folder: Path, steps: int) -> Pace:
    """Run one step to warm up and `steps` real ones, each of one full row, with wrong answers where the loss has them.

    Args:
        settings: ready, see `hardware.ready_settings`.
        folder: of the base model.
        steps: at least 1.

    Raises:
        ConfigError: fewer steps than one.
    """
    from ragray.train.checkpoint import Checkpoints
    from ragray.train.loop import TrainRun, train
    from ragray.train.losses import wrong_answers

    if steps < 1:
        raise ConfigError(f"--measure {steps}: no step", "measure at least 1 step")
    length = min(settings.max_length, _LONGEST)
    sequences = 1 if wrong_answers(settings.loss) == "none" else 2
    each = max(1, settings.tokens_per_micro_batch // (sequences * length))
    changed = {
        "max_steps": steps + 1, "epochs": 1.0, "global_batch_examples": each, "num_workers": 1,
        "checkpoint_every_steps": steps + 1, "validation": ValidationConfig(), "spike_factor": None,
        "monitor": MonitorConfig(jsonl=False, prometheus=False),
    }  # fmt: skip
    alone = settings.model_copy(update=changed)
    with tempfile.TemporaryDirectory(prefix="ragray-measure-") as place, _alone(settings, Path(place)):
        examples = Path(place) / "examples.parquet"
        _write_examples(examples, folder, each * (steps + 1), length)
        train(TrainRun(alone, 0, str(folder), str(examples), place, attempt="measure"))
        found = Checkpoints(Path(place), 1).latest()
        assert found is not None  # train writes one after its last step
        history = found.history()
    records = history.records[2:]  # the state before any step, and the step that warms up
    return Pace(
        steps=len(records),
        seconds_per_step=statistics.median(history.seconds[2:]),
        tokens_per_step=statistics.mean(record.tokens for record in records),
    )


def _write_examples(path: Path, folder: Path, count: int, length: int) -> None:
    """Closed-book examples of random tokens, both sequences of each of `length` tokens or hardly fewer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ragray.train.loading import load_tokenizer

    tokenizer = load_tokenizer(folder)
    generator = torch.Generator().manual_seed(0)
    rows = [_random_row(number, tokenizer, generator, length) for number in range(count)]
    passage = pa.struct([("doc_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
    kinds = {
        "number": pa.int64(), "closed_book": pa.bool_(), "passages": pa.list_(passage), "negative_number": pa.int64(),
    }  # fmt: skip
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _random_row(
    number: int, tokenizer: PreTrainedTokenizerBase, generator: torch.Generator, length: int
) -> dict[str, Any]:
    """A row whose longer sequence has at most `length` tokens.

    Random tokens are not those that their text is read as, so the question is cut until the whole is short enough.
    """
    from ragray.train.examples import ExampleRow, encode

    def text(ids: torch.Tensor) -> str:
        return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)) or "x"

    def some(tokens: int) -> torch.Tensor:
        return torch.randint(len(tokenizer), (tokens,), generator=generator)

    right, wrong = (text(some(max(1, length // (2 * _SHARE)))) for _ in range(2))  # about twice as many when read
    ids = some(length)
    row: dict[str, Any] = {
        "example_id": f"random-{number}", "split": "train", "question": text(ids), "lang": "en", "answer": right,
        "number": 0, "closed_book": True, "passages": [], "negative": wrong, "negative_number": 0,
    }  # fmt: skip
    while len(ids) > 1 and (over := encode(ExampleRow.of(row), tokenizer).longest - length) > 0:
        ids = ids[: max(1, len(ids) - math.ceil(over / _TOKENS_READ))]
        row["question"] = text(ids)
    return row


@contextmanager
def _alone(settings: TrainConfig, place: Path) -> Iterator[None]:
    """torch.distributed with this process as its only worker; one that is there already is used."""
    import os

    if torch.distributed.is_initialized():
        yield
        return
    os.environ.setdefault("LOCAL_RANK", "0")
    if not settings.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(settings.threads_per_worker)
    backend = "nccl" if settings.use_gpu else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{place / 'store'}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()

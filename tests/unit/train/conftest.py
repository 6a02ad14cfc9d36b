"""A random Llama of a few thousand weights with its own tokenizer, and examples for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TOPICS = ["refund", "invoice", "password", "shipping", "warranty", "address", "order", "coupon"]


def make_tiny_model(folder: Path, seed: int = 0, tied: bool = True) -> Path:
    """A Llama with 2 layers of 32, byte-level BPE of about 400 tokens, random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    text = [f"How do I change my {topic}? Open the {topic} page. 如何修改？打开页面。" for topic in TOPICS]
    bpe.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # far from uniform, so that tests see differences
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def example_rows(count: int = 12, valid: int = 4) -> list[dict[str, object]]:
    """Rows of examples.parquet of different lengths; some decline, some are closed book."""
    rows: list[dict[str, object]] = []
    for number in range(count + valid):
        topic = TOPICS[number % len(TOPICS)]
        answer = f"Open the {topic} page" + " again" * (number % 4) + "."
        closed, decline = number % 7 == 3, number % 5 == 4
        passages = [
            {"doc_id": f"d{i}", "title": f"{TOPICS[i]}?", "text": f"Open the {TOPICS[i]} page." if i else answer}
            for i in range(3)
        ]
        rows.append(
            {
                "example_id": f"e{number:03d}",
                "split": "train" if number < count else "valid",
                "question": f"How do I change my {topic}?",
                "lang": "en",
                "closed_book": closed,
                "passages": [] if closed else passages,
                "number": 0 if closed or decline else 1,
                "answer": "The documents do not answer this question." if decline and not closed else answer,
                "negative": None if number % 6 == 5 else f"Open the {TOPICS[(number + 2) % 8]} page instead.",
                "negative_number": 0 if closed or number % 6 == 5 else 3,
            }
        )
    return rows


SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("split", pa.string()),
        ("question", pa.string()),
        ("lang", pa.string()),
        ("closed_book", pa.bool_()),
        ("passages", pa.list_(pa.struct([(name, pa.string()) for name in ("doc_id", "title", "text")]))),
        ("number", pa.int64()),
        ("answer", pa.string()),
        ("negative", pa.string()),
        ("negative_number", pa.int64()),
    ]
)


def write_examples(path: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def examples_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples") / "examples.parquet", example_rows())


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """torch.distributed of one worker in this process."""
    import torch

    os.environ.update(LOCAL_RANK="0", DS_ACCELERATOR="cpu")

    torch.set_num_threads(1)
    store = tmp_path_factory.mktemp("store") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Group:
    """Training workers in processes of their own; `answers` takes the faults of group_worker.py."""

    def __init__(self, size, store):
        here = Path(__file__)
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(here.parents[3]), environment.get("PYTHONPATH", "")])
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(here.with_name("group_worker.py")), str(rank), str(size), str(store)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**environment, "LOCAL_RANK": str(rank)},
                text=True,
            )
            for rank in range(size)
        ]

    def answers(self, run, **faults):
        job = json.dumps({**asdict(run), "settings": run.settings.model_dump(mode="json"), **faults})
        for process in self.processes:
            process.stdin.write(job + "\n")
            process.stdin.flush()
        return [process.stdout.readline().strip() for process in self.processes]

    def train(self, run):
        assert set(self.answers(run)) == {"done"}

    def end(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()


@pytest.fixture(scope="session")
def group_of():
    return Group


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two training workers."""
    group = Group(2, tmp_path_factory.mktemp("pair") / "store")
    yield group
    group.end()


@pytest.fixture
def make_model() -> Callable[..., Path]:
    return make_tiny_model


@pytest.fixture
def write_table() -> Callable[..., Path]:
    return write_examples


@pytest.fixture
def write_rows() -> Callable[..., Path]:
    """A function that writes the usual rows with one of them changed, or that one alone."""

    def write(
        path: Path, change: Callable[[dict[str, object]], dict[str, object]], at: int, only: bool = False
    ) -> Path:
        rows = example_rows()
        rows[at] = change(rows[at])
        return write_examples(path, rows[at : at + 1] if only else rows)

    return write


@pytest.fixture
def run(tiny_model, examples_file, tmp_path):
    """A function that trains with changed settings in its own folder, and returns the last checkpoint."""
    from ragray.config_train import TrainConfig
    from ragray.train.checkpoint import Checkpoints
    from ragray.train.loop import TrainRun, train

    def train_with(name="run", model=tiny_model, examples=examples_file, seed=17, by=train, **changes):
        settings = TrainConfig(
            base_model=str(model),
            **{
                "epochs": 2,
                "global_batch_examples": 4,
                "learning_rate": 3e-3,
                "max_length": 512,
                "tokens_per_micro_batch": 512,
                "checkpoint_every_steps": 2,
                "keep_checkpoints": 9,
                **changes,
            },
        )
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        by(TrainRun(settings, seed, str(model), str(examples), str(work), attempt="x"))
        return Checkpoints(work, 9).latest()

    return train_with


@pytest.fixture
def poisoned(tmp_path, make_model, examples_file):
    """A model that has no number for one token, and examples of which one, of step 4, has that token."""
    import torch

    from ragray.train.loading import load_model, load_tokenizer
    from ragray.train.packing import DataOrder

    model = make_model(tmp_path / "untied", tied=False)
    token = load_tokenizer(model)("☃", add_special_tokens=False)["input_ids"][0]
    weights = load_model(model, torch.float32)
    with torch.no_grad():
        weights.get_input_embeddings().weight[token] = float("nan")
    weights.save_pretrained(model)
    table = pq.read_table(examples_file)
    rows = table.to_pylist()
    order = DataOrder(tuple(row["example_id"] for row in rows if row["split"] == "train"), 17, 2, 1)
    rows[order.step_examples(3)[0]]["question"] = "☃?"

    def write(name, without=()):
        kept = [row for row in rows if row["example_id"] not in without]
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table.from_pylist(kept, schema=table.schema), path)
        return path

    ids = [[rows[i]["example_id"] for i in order.step_examples(step)] for step in range(6)]
    return model, write, ids

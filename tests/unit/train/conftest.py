"""A random Llama of a few thousand weights with its own tokenizer, and examples for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    import os

    import torch

    os.environ.update(LOCAL_RANK="0", DS_ACCELERATOR="cpu")

    torch.set_num_threads(1)
    store = tmp_path_factory.mktemp("store") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


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

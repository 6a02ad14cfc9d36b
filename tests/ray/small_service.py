"""A served application of a random model and two passages, asked over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from ragray.artifact import Artifact, Draft, Source, Store
from ragray.config import EngineConfig, RetrievalConfig, ServeConfig
from ragray.schema import Passage

PASSAGES = [
    Passage(
        "install-1", "How do I install ragray?", "Run make demo; it needs Python 3.11.", "en", "install.jsonl", "faq"
    ),
    Passage("train-1", "怎样训练模型？", "运行 ragray train，配置文件用 --config 指定。", "zh", "training.txt", "faq"),
]
QUESTION = "How do I install ragray?"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ENGINE = EngineConfig(kind="transformers", cpu_threads=1, max_batch_size=4)
Fill = Callable[[Draft], object]


def save(store: Store, kind: str, fill: Fill, inputs: dict[str, Source] | None = None) -> Artifact:
    with store.draft(kind, kind.ljust(64, "0"), format_version=1, inputs=inputs or {}, config={}, code="") as draft:
        fill(draft)
    assert draft.result is not None
    return draft.result


def random_model(folder: Path, seed: int = 0) -> Path:
    """A Llama with random weights that writes letters without end, and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([p.text for p in PASSAGES], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=8192
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    others = [token for token in range(len(tokenizer)) if token not in letters]
    with torch.no_grad():
        model.lm_head.weight[others] = 0.0
        model.model.embed_tokens.weight[:, 0] = 0.5  # of all tokens, so that every letter is far likelier than
        model.lm_head.weight[letters, 0] = 4.0  # whatever is none, also at high temperatures
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def renewed(root: Path) -> dict[str, Artifact]:
    """A second index with its confidence, and a second engine; no digest is that of the first ones."""
    from ragray.engine.build import build_engine
    from ragray.retrieval.confidence import FEATURES, Confidence
    from ragray.retrieval.writing import build_index

    store = Store(str(root / "artifacts"))
    passages = [replace(one, text=f"{one.text} Renewed.") for one in PASSAGES]
    confidence = Confidence(5.0, (0.0,) * len(FEATURES), 0.4, 0.05, {}, {}, ())
    model = random_model(root / "model", seed=1)
    adapter = Source("train", "elsewhere", "b" * 64)
    index = save(store, "index", lambda draft: build_index(passages, RetrievalConfig(), draft.folder))
    merge = save(store, "merge", lambda draft: (draft.folder / "renewed").touch(), {"train": adapter})
    calibrated = save(store, "calibrate", lambda d: confidence.write(d.folder), {"index": index.source()})
    engine = save(store, "engine", lambda d: build_engine(model, ENGINE, d.folder), {"merge": merge.source()})
    return {"index": index, "calibrate": calibrated, "merge": merge, "engine": engine}


def args_for(artifacts: dict[str, Artifact], **more: Any) -> dict[str, Any]:
    folders = {"index": "index", "confidence": "calibrate", "engine": "engine"}
    limits = ServeConfig(max_new_tokens=4000, max_question_chars=500)
    return {
        "artifacts": {name: artifacts[kind].uri for name, kind in folders.items() if kind in artifacts},
        "engine": ENGINE.model_dump(),
        "serve": limits.model_dump(exclude={"host", "port"}),
        **more,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, question: str = QUESTION, **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 12, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)

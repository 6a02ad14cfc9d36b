"""A small real index, a confidence fitted by hand, and engines: a random Llama and one that writes what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asgi_caller import ring_in  # type: ignore[import-not-found]

from ragray.config import RetrievalConfig, ServeConfig
from ragray.engine.protocol import Completion, EngineInfo, SamplingParams
from ragray.retrieval.confidence import FEATURES, Confidence
from ragray.retrieval.current import CurrentIndex
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index
from ragray.schema import Passage
from ragray.serve.answers import AnswerCache, Caches, KeptRetrievals
from ragray.serve.chat import Chat
from ragray.serve.current import Behind, Current
from ragray.serve.generator import Generator
from ragray.serve.ingress import Door
from ragray.serve.keys import KeyRing
from ragray.serve.retriever import Retriever

PASSAGES = [
    Passage("install-1", "How do I install ragray?", "Run make demo; it needs Python 3.11.", "en", "a.jsonl", "faq"),
    Passage("serve-1", "Which port does the server use?", "Port 8000 on the loopback address.", "en", "b.md", "faq"),
    Passage("train-1", "怎样训练模型？", "运行 ragray train，配置文件用 --config 指定。", "zh", "training.txt", "faq"),
    Passage("doc-1", "Operations", "A killed worker is restarted twice.", "en", "docs/operations.md", "document"),
]
LINEAGE = {"index": "i" * 64, "confidence": "c" * 64, "engine": "e" * 64, "model": "m" * 64}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    folder = tmp_path_factory.mktemp("index")
    build_index(PASSAGES, RetrievalConfig(), folder)
    return HybridIndex.open(folder)


def undecided(threshold: float) -> Confidence:
    """A confidence that says 1/2 to whatever finds a passage: the threshold alone decides."""
    return Confidence(0.0, (0.0,) * len(FEATURES), threshold, 0.05, {}, {}, ())


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([p.title + p.text for p in PASSAGES], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=4096
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def model_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class WrittenHandle:
    """Hands out a given text a few characters at a time, and notes a cancel."""

    def __init__(self, text: str, prompt_tokens: int, gate: threading.Event) -> None:
        self.cancelled = threading.Event()
        self._text, self._prompt_tokens, self._gate = text, prompt_tokens, gate
        self._at = 0

    def read(self, timeout_s: float | None = None) -> str | None:
        while not self._gate.wait(0.01):
            if self.cancelled.is_set():
                return None
        piece = self._text[self._at : self._at + 3]
        self._at += 3
        return piece or None

    def listen(self, listener: Callable[[str | None], None]) -> None:
        def read_on() -> None:
            piece: str | None = ""
            while piece is not None:
                listener(piece := self.read())

        threading.Thread(target=read_on, daemon=True).start()

    def cancel(self) -> None:
        self.cancelled.set()

    def completion(self) -> Completion:
        return Completion(tuple(range(len(self._text))), self._text, "stop", self._prompt_tokens)


class WrittenEngine:
    """An engine that answers every prompt with `text`; while `gate` is cleared it writes nothing."""

    info = EngineInfo("written", "cpu", "none", "none", "0" * 64)

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self.gate = threading.Event()
        self.gate.set()
        self.handles: list[WrittenHandle] = []
        self.params: list[SamplingParams] = []

    def submit(self, token_ids: Sequence[int], params: SamplingParams) -> WrittenHandle:
        self.params.append(params)
        self.handles.append(WrittenHandle(self.text, len(token_ids), self.gate))
        return self.handles[-1]

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Completion]:
        return [self.submit(prompt, params).completion() for prompt in prompts]

    def stats(self) -> dict[str, float]:
        return {"requests": len(self.handles)}

    def close(self) -> None:
        self.gate.set()


@pytest.fixture
def engine(tokenizer: Any) -> Iterator[WrittenEngine]:
    engine = WrittenEngine(tokenizer, "[1] Run make demo.")
    yield engine
    engine.close()


DoorMaker = Callable[..., Door]


@pytest.fixture
def make_door(index: HybridIndex, engine: WrittenEngine) -> DoorMaker:
    """A door over the small index, or a store to `follow`; with a `threshold` above 1/2 it declines everything."""

    def make(
        limits: ServeConfig | None = None, threshold: float = 0.2, context: int = 4096, follow: Path | None = None
    ) -> Door:
        limits = limits or ServeConfig(max_new_tokens=64, max_question_chars=200)
        searched = index if follow is None else CurrentIndex(follow, look_every_s=0)
        retriever = Retriever(searched, undecided(threshold))
        generator = Generator(engine, context)
        current = Current(Behind(retriever, generator, LINEAGE, 1_700_000_000))
        chat = Chat(current, Caches(AnswerCache(limits.cache), KeptRetrievals(limits.cache)))
        return Door(current, chat, "ragray-test", limits)

    return make


@pytest.fixture
def door(make_door: DoorMaker) -> Door:
    return make_door()


@pytest.fixture(scope="module")  # while Playwright runs, this thread can run no other event loop
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that want one are skipped where there is none."""
    from browsing import chromium  # type: ignore[import-not-found]

    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page of a door in a context of its own."""
    from browsing import visits  # type: ignore[import-not-found]

    with visits(browser) as open_page:
        yield open_page


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    """The keys of some people, see `asgi_caller.ring_in`."""
    return ring_in(tmp_path)

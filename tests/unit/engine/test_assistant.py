"""From a question to an answer: real index, an engine that says what it is told."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiny_model import make_tokenizer

from ragray import prompt
from ragray.config import RetrievalConfig
from ragray.engine.assistant import (
    Assistant,
    Retrieved,
    closed_book_tokens,
    compose,
    prompt_tokens,
    retrieve,
    retrieve_batch,
)
from ragray.engine.protocol import Completion, EngineInfo, SamplingParams
from ragray.retrieval.confidence import Confidence
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index
from ragray.schema import Passage

PASSAGES = [
    Passage("faq-1", "How do I install it?", "Run make demo. " * 60, "en", "faq.csv", "faq"),
    Passage("faq-2", "如何训练模型？", "运行 ragray train，它使用 LoRA。", "zh", "faq.csv", "faq"),
    Passage("doc-1", "Serving", "ragray serve starts the API on port 8000.", "en", "serve.md", "document"),
    Passage("doc-2", "Storage", "Artifacts are folders with a manifest.", "en", "store.md", "document"),
]


class ScriptedEngine:
    """An engine whose answers are given beforehand; it keeps the prompts."""

    def __init__(self, *answers: str) -> None:
        self.info = EngineInfo("scripted", "cpu", "none", "none", "0")
        self.tokenizer = make_tokenizer()
        self.prompts: list[Sequence[int]] = []
        self._answers = list(answers)

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Completion]:
        self.prompts.extend(prompts)
        return [completion(self._answers.pop(0), len(tokens)) for tokens in prompts]

    def submit(self, token_ids: Sequence[int], params: SamplingParams) -> None:
        raise AssertionError("the assistant generates in batches")

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        return None


def completion(text: str, prompt_length: int = 5) -> Completion:
    return Completion((1, 2, 3), text, "stop", prompt_length)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    folder = tmp_path_factory.mktemp("index")
    build_index(PASSAGES, RetrievalConfig(prompt_passages=2, prompt_passage_chars=60), folder)
    return HybridIndex.open(folder)


@pytest.fixture(scope="module")
def found(index: HybridIndex) -> Retrieved:
    return retrieve(index, None, "How do I install it?")


def test_what_is_retrieved_is_what_the_prompt_shows(index: HybridIndex, found: Retrieved) -> None:
    assert [c.number for c in found.citations] == [1, 2][: len(found.citations)]
    first = found.citations[0]
    assert (first.doc_id, first.rank, first.source, first.bm25_rank) == ("faq-1", 1, "faq.csv", 1)
    assert first.text == prompt.cut(PASSAGES[0].text, 60)
    assert (found.lang, found.answerable, found.probability) == ("en", True, 1.0)
    tokenizer = make_tokenizer()
    shown = tokenizer.decode(prompt_tokens(tokenizer, found))
    expected = prompt.messages(found.question, [(c.title, c.text) for c in found.citations], "en")
    assert shown == tokenizer.apply_chat_template(expected, add_generation_prompt=True, tokenize=False)


def test_passages_that_the_model_cannot_read_are_left_out_from_the_last(index: HybridIndex) -> None:
    found = retrieve(index, None, "ragray serve make demo artifacts", top_k=2)
    tokenizer = make_tokenizer()
    whole = prompt_tokens(tokenizer, found)
    tokenizer.model_max_length = len(whole) * 4 // 3 + 4
    assert prompt_tokens(tokenizer, found) == whole
    tokenizer.model_max_length = len(whole) * 4 // 3 - 4
    shorter = prompt_tokens(tokenizer, found)
    assert shorter == prompt_tokens(tokenizer, replace(found, citations=found.citations[:1]))
    tokenizer.model_max_length = 8
    assert prompt_tokens(tokenizer, found) == shorter


def test_a_batch_finds_what_single_questions_find(index: HybridIndex) -> None:
    questions = ["How do I install it?", "如何训练模型？", "port of the API"]
    for question, batched in zip(questions, retrieve_batch(index, None, questions), strict=True):
        single = retrieve(index, None, question)
        assert (batched.citations, batched.lang, batched.probability) == (
            single.citations,
            single.lang,
            single.probability,
        )


def test_top_k_chooses_how_many_are_shown(index: HybridIndex) -> None:
    assert len(retrieve(index, None, "ragray serve", top_k=1).citations) == 1
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match="top_k"):
            retrieve(index, None, "ragray serve", top_k=wrong)


def test_closed_book_asks_without_passages() -> None:
    tokenizer = make_tokenizer()
    text = tokenizer.decode(closed_book_tokens(tokenizer, "如何训练模型？"))
    assert prompt.SYSTEM_CLOSED_BOOK["zh"] in text
    assert "[1]" not in text


@pytest.mark.parametrize(
    ("said", "text", "cited"),
    [
        ("[1] Run make demo.", "Run make demo. [1]", [1]),
        ("Run make demo.", "Run make demo.", []),
        ("[7] Run make demo.", "Run make demo.", []),  # never shown
        ("[1] Run it [2], then wait [8].", "Run it [2], then wait. [1]", [1, 2]),
        ("[2] 运行它[9]。再等[1]。", "运行它。再等[1]。 [2]", [2, 1]),
        ("[1] Read rows[5] first.", "Read rows[5] first. [1]", [1]),  # an index, not a mark
    ],
)
def test_citations_are_kept_as_marks_and_only_of_what_was_shown(
    index: HybridIndex, said: str, text: str, cited: list[int]
) -> None:
    found = retrieve(index, None, "ragray serve make demo artifacts", top_k=2)
    assert len(found.citations) == 2
    answer = compose(found, completion(said))
    assert answer.text == text
    assert [c.number for c in answer.citations] == cited
    assert not answer.declined


def test_plain_text_is_without_trailing_marks(found: Retrieved) -> None:
    assert compose(found, completion("[1] Run make demo.")).plain_text == "Run make demo."


@pytest.mark.parametrize("said", [prompt.DECLINE["en"], "[1]", "", "文档没有回答这个问题。[1]"])
def test_a_decline_of_the_model_is_one_sentence_in_the_users_language(found: Retrieved, said: str) -> None:
    answer = compose(found, completion(said))
    assert (answer.text, answer.citations) == (prompt.DECLINE["en"], ())
    assert (answer.declined, answer.declined_by) == (True, "model")


def test_what_retrieval_declines_never_reaches_the_engine(index: HybridIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    confidence = Confidence.__new__(Confidence)
    monkeypatch.setattr(Confidence, "threshold", 0.5, raising=False)
    monkeypatch.setattr(Confidence, "probability", lambda self, index, query, hits: 0.9 if "install" in query else 0.1)
    engine = ScriptedEngine("[1] Run make demo.")
    answers = Assistant(index, confidence, engine).ask_batch(["serve it?", "How do I install it?", "如何训练模型？"])
    assert [a.declined_by for a in answers] == ["retrieval", "", "retrieval"]
    assert [a.text for a in answers] == [prompt.DECLINE["en"], "Run make demo. [1]", prompt.DECLINE["zh"]]
    assert len(engine.prompts) == 1
    assert answers[1].prompt_tokens == len(engine.prompts[0])
    assert answers[0].completion_tokens == 0
    assert answers[0].timings_ms["generate"] == 0.0
    assert answers[1].timings_ms.keys() == {"retrieve", "generate"}


def test_a_question_without_any_hit_is_declined(index: HybridIndex) -> None:
    engine = ScriptedEngine()
    answer = Assistant(index, None, engine).ask("zyzzyva qwxv")
    assert (answer.declined_by, answer.probability, engine.prompts) == ("retrieval", 0.0, [])

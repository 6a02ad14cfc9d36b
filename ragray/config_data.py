"""The settings of data: what is read, how it is cleaned, split and augmented.

In: nothing. Out: parts of `config.RunConfig`, typed, frozen models with their defaults and limits.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")]  # as clients write it, also in paths


class Section(BaseModel):
    """A part of the configuration: immutable, with no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ColumnsConfig(Section):
    """Which columns of a table, or keys of a JSON object, hold what. Ignored by text formats.

    A name with dots reaches into nested values: `answers.0.text`.
    """

    question: str = Field("question", description="column with the question")
    answer: str = Field("answer", description="column with the answer, such as reply or answers.0.text")
    id: str | None = Field(None, description="column with a unique id; by default file name and row number")
    lang: str | None = Field(None, description="column with the language code; detected by default")
    group: str | None = Field(None, description="column whose equal values must stay in one split, such as a thread")
    split: str | None = Field(None, description="column with train, valid or test, kept as given; drawn by default")


class FaqSourceConfig(Section):
    """One source of question-answer pairs."""

    path: str = Field(description="file, folder, glob, or s3:// or gs:// URI of these, also .gz and .zst")
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "qa_text", "markdown", "html", "pdf", "docx"] = (
        Field("auto", description="auto decides by the file's ending")
    )
    encoding: str = Field("auto", description="text encoding, such as utf-8, gb18030 or big5; auto detects it")
    columns: ColumnsConfig = ColumnsConfig()


class DocumentSourceConfig(Section):
    """One source of documents, split into passages."""

    path: str = Field(
        description="file, folder, glob, or URI of these, of .md, .txt, .html, .pdf and .docx files, also .gz and .zst"
    )
    encoding: str = Field("auto", description="text encoding; auto detects it")


CleanStep = Literal[
    "mojibake", "invisible", "html", "templates", "unicode", "whitespace", "contacts", "boilerplate"
]  # fmt: skip
Shares = tuple[Share, ...]


class RepetitionConfig(Section):
    """From how much repetition on a text is noise, outside of code and links; shares of characters.

    The measures are Gopher's (Rae et al. 2021, table A1), its limits are for web pages; good answers repeat more.
    """

    lines: Share = Field(0.3, description="largest share of lines that repeat an earlier line")
    line_chars: Share = Field(0.2, description="largest share of characters in such lines")
    top_ngrams: Shares = Field(
        (0.4, 0.38, 0.36), max_length=3, description="largest shares of the most frequent 2-, 3-, 4-gram"
    )
    ngrams: Shares = Field(
        (0.45, 0.43, 0.41, 0.39, 0.37, 0.36),
        max_length=6,
        description="largest shares in 5-, 6-, ..., 10-grams that were there before",
    )
    min_words: Positive = Field(
        100, description="shorter texts are not judged by n-grams; words, or pairs of Chinese characters"
    )


class CleanConfig(Section):
    """How a record is cleaned and what it must look like; one that does not is rejected with the reason."""

    steps: tuple[CleanStep, ...] = Field(get_args(CleanStep), description="what is repaired or taken out, in order")
    chinese: Literal["keep", "simplified", "traditional"] = Field("keep", description="script to convert Chinese to")
    mask: tuple[Literal["email", "id_number", "card_number", "phone"], ...] = Field(
        (), description="personal data replaced by <EMAIL>, <ID>, <CARD>, <PHONE>"
    )
    languages: tuple[Literal["zh", "en", "other"], ...] = Field(
        ("zh", "en", "other"), min_length=1, description="languages of records that are kept"
    )
    min_question_chars: Positive = Field(2, description="shortest question, characters")
    max_question_chars: Positive = Field(500, description="longest question, characters")
    min_answer_chars: Positive = Field(1, description="shortest answer, characters")
    max_answer_chars: Positive = Field(8000, description="longest answer, characters")
    max_symbol_share: Share = Field(0.5, description="largest share of characters that are no letter, digit or mark")
    max_marker_share: float = Field(0.1, ge=0, description="most # and ellipses for each word or Chinese character")
    repetition: RepetitionConfig = RepetitionConfig()
    boilerplate_share: Share = Field(0.02, description="a line in so large a share of all records is boilerplate")
    boilerplate_records: int = Field(20, ge=2, description="and in at least so many records")

    @field_validator("steps")
    @classmethod
    def _once_each(cls, steps: tuple[CleanStep, ...]) -> tuple[CleanStep, ...]:
        if len(set(steps)) < len(steps):
            raise ValueError("data.clean.steps: name each step once")
        return steps

    @model_validator(mode="after")
    def _check_lengths(self) -> CleanConfig:
        for name, least, most in (
            ("question", self.min_question_chars, self.max_question_chars),
            ("answer", self.min_answer_chars, self.max_answer_chars),
        ):
            if least > most:
                raise ValueError(f"data.clean: min_{name}_chars is above max_{name}_chars")
        return self


class DedupConfig(Section):
    """Near-duplicate removal by MinHash LSH with verified Jaccard similarity."""

    by: tuple[Literal["question_answer", "question"], ...] = Field(
        ("question_answer",), description="texts whose similarity makes two records one; () leaves exact duplicates"
    )
    threshold: float = Field(0.85, gt=0, le=1, description="Jaccard similarity of shingles from which two are one")
    num_permutations: int = Field(128, ge=16, le=1024, description="MinHash signature length")
    keep: Literal["first", "longest"] = Field(
        "first", description="which of several stays: the first in source order, or that with the longest answer"
    )


class SplitConfig(Section):
    """Shares by group; groups named by `evaluate.questions` always go to test."""

    valid: Share = Field(0.1, description="share of groups for validation")
    test: Share = Field(0.1, description="share of groups for test, where no evaluation questions are given")
    question_threshold: float = Field(
        0.7, gt=0, le=1, description="Jaccard similarity of questions from which two share a group"
    )
    leak_cosine: Share = Field(
        0.97, description="TF-IDF cosine of a test and a train question from which the audit counts a leak"
    )
    audit_sample: Positive = Field(
        1000, description="test questions whose nearest is always named; of the others, leaks and the worst pairs"
    )


class DataConfig(Section):
    """What is read, and how it is cleaned and split."""

    faq: tuple[FaqSourceConfig, ...] = Field(min_length=1, description="sources of question-answer pairs")
    documents: tuple[DocumentSourceConfig, ...] = Field((), description="sources of documents")
    max_rejected_share: Share = Field(0.2, description="more rejected rows than this fail the stage")
    max_records: Positive | None = Field(None, description="keep at most so many records, chosen by digest")
    passage_chars: Positive = Field(500, description="longest passage of a document, characters")
    passage_overlap_chars: int = Field(50, ge=0, description="overlap of consecutive passages, characters")
    clean: CleanConfig = CleanConfig()
    dedup: DedupConfig = DedupConfig()
    split: SplitConfig = SplitConfig()


Method = Literal[
    "pattern", "synonyms", "politeness", "colloquial", "dropped_words", "word_order", "keywords", "omitted_subject",
    "code_switching", "typo", "keyboard", "homophones", "width", "speech",
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)


class EndpointConfig(Section):
    """A server with OpenAI's chat completions."""

    url: str = Field(description="up to /v1, such as http://127.0.0.1:8000/v1")
    model: str = Field(description="the model's name there")
    api_key_env: str | None = Field(None, description="NAME of the environment variable that holds the key")
    timeout_s: float = Field(60.0, gt=0, description="longest wait for one reply, seconds")
    max_retries: int = Field(5, ge=0, description="repetitions after 429, 5xx, a timeout or a lost connection")
    first_wait_s: float = Field(0.5, gt=0, description="wait before the first repetition, seconds; then twice as long")
    concurrency: Positive = Field(8, description="questions asked at once")
    max_failed_share: Share = Field(0.0, description="share of questions without a reply above which the stage fails")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@]+(/[^\s@?#]*)?", url):  # never shown: it may hold a password
            raise ValueError("url: write http://HOST:PORT/v1 or https://..., without user name or query")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):  # never shown: it may be the key
            raise ValueError(
                "api_key_env: write the name of an environment variable, such as OPENAI_API_KEY, "
                "in capitals, not the key itself"
            )
        return name


class GuardConfig(Section):
    """What keeps answers from being taken for negatives."""

    first_rank: Positive = Field(1, description="better ranks are never taken")
    last_rank: Positive = Field(100, description="worse ranks are never taken, nor ranks below retrieval.fusion_depth")
    margin: Share = Field(
        0.05, description="a negative scores so much less than the answer, in both BM25 and TF-IDF, as a share of it"
    )
    max_likeness: Share = Field(0.08, description="highest TF-IDF cosine of a negative and the answer's passage")
    covering: Share = Field(0.6, description="a passage with such a share of the answer's words says it too")


class AugmentConfig(Section):
    """Training examples made from the training split only."""

    variants_per_question: int = Field(3, ge=0, description="question variants made by rules for each record")
    methods: tuple[Method, ...] = Field(METHODS, description="rules that make variants")
    min_edit_distance: Share = Field(
        0.05, description="edits between a variant and its question, as a share of the longer one's characters"
    )
    check_top_k: int = Field(
        5, ge=0, description="a variant must find its answer, or one of its group, among so many passages; 0: no check"
    )
    writer: Literal["none", "endpoint", "engine"] = Field("none", description="a model that writes more variants")
    written_per_question: Positive = Field(3, le=20, description="variants asked of the writer for each record")
    endpoint: EndpointConfig | None = Field(None, description="the writer `endpoint`")
    engine: str | None = Field(None, description="folder of an engine artifact: the writer `engine`")
    negatives_per_question: int = Field(4, ge=0, description="hard negatives listed for each question")
    topic_negatives_per_question: int = Field(1, ge=0, description="negatives of the same topic for each question")
    random_negatives_per_question: int = Field(1, ge=0, description="random negatives for each question")
    guard: GuardConfig = GuardConfig()
    absent_share: Share = Field(0.2, description="share of examples without the right passage, which decline")
    closed_book_share: Share = Field(0.1, description="share of examples without any passage")
    shuffled_share: Share = Field(0.3, description="share of examples whose passages are not in ranked order")

    @model_validator(mode="after")
    def _check_writer(self) -> AugmentConfig:
        if self.writer == "endpoint" and self.endpoint is None:
            raise ValueError("augment.writer is endpoint: give augment.endpoint.url and augment.endpoint.model")
        if self.writer == "engine" and self.engine is None:
            raise ValueError("augment.writer is engine: give augment.engine, the folder of an engine artifact")
        return self

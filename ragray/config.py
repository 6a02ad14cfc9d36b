"""The settings of a run: one typed, frozen model with its defaults and limits.

`config_loading` reads it from YAML and overrides. Relative paths are relative to the working directory.
Facts about the cluster (world size, GPU type) are not settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)  # fmt: skip

from ragray.config_cache import CacheConfig
from ragray.config_data import AugmentConfig, DataConfig, ModelId, Positive, Section, Share
from ragray.config_engine import EngineConfig as EngineConfig  # for those who import it from here
from ragray.config_evaluate import EvaluateConfig
from ragray.config_feedback import UserFeedbackConfig
from ragray.config_limits import LimitsConfig
from ragray.config_quantize import QuantizeConfig
from ragray.config_replicas import PlacementConfig, PlacementsConfig
from ragray.config_speed import SpeedConfig
from ragray.config_traces import TracesConfig
from ragray.config_train import TrainConfig
from ragray.config_words import check_synonyms, check_words, read_lines

READ_FILES = {"read_files": True}  # context of a validation that reads the files which settings name


def _without_none(tree: dict[str, Any], *names: str) -> dict[str, Any]:
    """A dumped section without what is not set: an index without embeddings records nothing of them."""
    return {name: value for name, value in tree.items() if value is not None or name not in names}


class AnalyzerConfig(Section):
    """How text becomes terms, the same for index and query."""

    chinese: Literal["bigrams", "words", "both"] = Field("both", description="terms of Chinese text")
    stem: bool = Field(True, description="English Snowball stemming")
    stop_words: bool = Field(True, description="drop frequent English and Chinese function words")
    simplified: bool = Field(False, description="read traditional Chinese as simplified; needs the extra `data`")
    dictionary: tuple[str, ...] = Field(
        (), description="words that stay whole, such as K8s集群; or the path of a file with one a line"
    )
    synonyms: tuple[str, ...] = Field(
        (), description="rules such as `GPU, 显卡` or `a => b`; or the path of a file with one a line"
    )

    @field_validator("dictionary", "synonyms", mode="before")
    @classmethod
    def _read(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, str):
            return given
        where = f"retrieval.analyzer.{info.field_name}"
        if info.context != READ_FILES:  # what an index records never makes a process read a file
            raise ValueError(f"{where}: {given!r} is no list; only the settings of a run may name a file")
        return read_lines(Path(given), where)

    @field_validator("dictionary")
    @classmethod
    def _check_dictionary(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return check_words(words, "retrieval.analyzer.dictionary")

    @field_validator("synonyms")
    @classmethod
    def _check_synonyms(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        return check_synonyms(lines, "retrieval.analyzer.synonyms")


class Bm25Config(Section):
    """BM25 scoring."""

    variant: Literal["okapi", "lucene", "plus", "l"] = "lucene"
    k1: float = Field(1.2, ge=0.0, description="term frequency saturation")
    b: Share = Field(0.75, description="length normalization")


class FusionWeights(Section):
    """How much each ranked list counts, at least 0; only their ratio changes the order."""

    bm25: float = Field(0.7, ge=0.0, allow_inf_nan=False, description="of the list by BM25")
    tfidf: float = Field(0.3, ge=0.0, allow_inf_nan=False, description="of the list by TF-IDF")
    dense: float | None = Field(
        None, ge=0.0, allow_inf_nan=False,
        description="of the list by embeddings; none: as much as the two others together, with convex and theoretical "
        "4 times as much",
    )  # fmt: skip

    @model_serializer(mode="wrap")
    def _recorded(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(dump(self), "dense")


class DenseConfig(Section):
    """A third ranked list, by embeddings; needs the extra `dense`."""

    model: str = Field(description="local folder of a sentence-transformers model, with safetensors")
    precision: Literal["float32", "float16"] = Field(
        "float32", description="of the stored vectors; float16 takes half the disk and more time"
    )
    batch_size: Positive = Field(32, description="passages embedded at once")


class RerankerConfig(Section):
    """A cross-encoder reads question and passage together and orders the first hits anew; needs the extra `dense`."""

    model: str = Field(description="local folder of a cross-encoder, with safetensors")
    depth: Positive = Field(20, description="hits that it reads; those behind them keep their order")


class PriorConfig(Section):
    """A learned prior of passages, which `ragray tune` writes: how often their kind was judged right before."""

    file: str = Field(description="prior.json; read when an index is built, and kept in it")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file, as tuned.yaml has it")
    weight: float = Field(
        ge=0.0,
        allow_inf_nan=False,
        description="of the prior; 1: its best group gains as much as the first hit is ahead of the last",
    )


class FeedbackConfig(Section):
    """Pseudo-relevance feedback, RM3: a query is asked again with terms of what it found first."""

    documents: Positive = Field(5, le=100, description="first documents whose terms are taken in")
    terms: Positive = Field(20, le=200, description="terms that are taken in, the most frequent ones")
    weight: Share = Field(0.3, description="of these terms; the rest is the query's")


class RetrievalConfig(Section):
    """The hybrid retriever, and how much of its result the model reads."""

    analyzer: AnalyzerConfig = AnalyzerConfig()
    title_weight: int = Field(
        3, ge=0, le=10, description="how often each term of a title counts, beside the text; 0: titles are not searched"
    )  # nDCG@10 on FAQ .745 at 1, .783 at 2, .793 at 3; papers lose at 4
    bm25: Bm25Config = Bm25Config()
    sublinear_tf: bool = Field(True, description="TF-IDF uses 1 + log(tf)")
    fusion: Literal["rrf", "convex"] = Field(
        "convex", description="by ranks, or by the weighted sum of normalized scores"
    )
    fusion_weights: FusionWeights = FusionWeights()
    dense: DenseConfig | None = Field(None, description="embeddings, off by default")
    reranker: RerankerConfig | None = Field(None, description="off by default")
    fusion_depth: int | Literal["all"] = Field(
        100, description="ranks of each list that are fused; all: every passage that shares a term with the query"
    )
    rrf_k: Positive = Field(60, description="constant of reciprocal rank fusion")
    fusion_normalization: Literal["theoretical", "min-max", "z-score"] = Field(
        "theoretical", description="of scores, for fusion: convex"
    )
    feedback: FeedbackConfig | None = Field(None, description="asks twice; none: once")
    prior: PriorConfig | None = Field(None, description="re-ranks what the lists found; none: fused scores alone")
    withhold_test_questions: bool | None = Field(
        None,
        description="index test records by their answer alone; by default so when evaluate.questions is not given",
    )
    prompt_passages: Positive = Field(3, le=9, description="passages shown to the model")
    prompt_passage_chars: Positive = Field(500, description="characters of each shown to the model")
    segments: Positive | None = Field(
        None, description="parts of the index, as many as shards may hold (`serve.retriever_shards`); none: one"
    )
    max_false_declines: Share = Field(
        0.05,
        description="share of answerable questions that the decline threshold may refuse, on validation data",
    )

    @model_serializer(mode="wrap")
    def _recorded(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(dump(self), "dense", "reranker", "segments")

    @model_validator(mode="after")
    def _check_weights(self) -> RetrievalConfig:
        weights = self.fusion_weights
        if not (weights.bm25 or weights.tfidf or (self.dense and weights.dense != 0.0)):
            raise ValueError("retrieval.fusion_weights: at least one must be above 0")
        return self

    @field_validator("fusion_depth", mode="before")
    @classmethod
    def _check_depth(cls, depth: Any) -> Any:
        if depth == "all" or (type(depth) is int and depth >= 1):
            return depth
        raise ValueError(f"retrieval.fusion_depth: write a number of ranks, at least 1, or all (got {depth!r})")


class ServeConfig(Section):
    """The API and the page."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only on purpose")
    port: int = Field(8000, ge=1, le=65535)
    max_new_tokens: Positive = Field(256, description="longest answer, tokens")
    max_question_chars: Positive = Field(2000, description="longest question, characters")
    index_store: str | None = Field(
        None, description="folder of a changing index (`ragray live`) to search and follow, made of the run's index"
    )
    adapters: dict[ModelId, str] = Field(
        {}, description="further models by id, each the folder of a train stage: its LoRA adapter beside the engine's "
        "own, of the same base model",
    )  # fmt: skip
    cache: CacheConfig = CacheConfig()
    retriever: Literal["ingress", "deployment"] = Field(
        "ingress", description="where searches run: in each ingress replica, or in replicas of their own"
    )
    generator: Literal["ingress", "deployment"] = Field(
        "deployment", description="where the engine runs: in replicas of its own, or in each ingress replica"
    )
    retriever_batch_size: Positive = Field(1, description="searches run together, with retriever: deployment")
    retriever_batch_wait_ms: float = Field(
        2.0, ge=0.0, allow_inf_nan=False, description="how long a search waits for others to join it, milliseconds"
    )
    ingress_replicas: Positive = 1
    retriever_replicas: Positive = Field(1, description="with retriever: deployment")
    retriever_shards: Positive = Field(
        1, description="deployments that the segments of the index are spread over, with retriever: deployment"
    )
    shard_replicas: Positive = Field(1, description="of each shard, with retriever_shards")
    shard_timeout_s: float = Field(
        5.0, gt=0.0, le=3600, description="after which a shard that does not answer counts as lost, seconds"
    )
    generator_replicas: Positive = 1
    generator_gpus: float = Field(0.0, ge=0, description="GPUs of each replica that holds the engine")
    stream_every_ms: float = Field(
        50.0, ge=0.0, allow_inf_nan=False, description="least time between two pieces of a stream, milliseconds"
    )
    condense: Literal["none", "rule"] = Field(
        "rule",
        description="rule: a question that needs the conversation is searched with words of the question before it",
    )
    feedback: UserFeedbackConfig = UserFeedbackConfig()
    limits: LimitsConfig = LimitsConfig()
    traces: TracesConfig = TracesConfig()
    placement: PlacementsConfig = PlacementsConfig()
    drain_s: float = Field(
        30.0, ge=0.0, allow_inf_nan=False, description="how long a replica that ends may finish its answers, seconds"
    )
    swap_timeout_s: float = Field(
        600.0,
        gt=0.0,
        allow_inf_nan=False,
        description="how long replicas may take to load what `ragray serve --swap` names, seconds",
    )
    fast_http: bool = Field(
        True, description="`ragray serve` on a Ray of its own: HAProxy and Serve's throughput settings, on Linux"
    )

    def most_ingresses(self) -> int:
        """Replicas of the ingress that there may be at once."""
        scale = self.placement.ingress.autoscaling
        return self.ingress_replicas if scale is None else scale.max_replicas

    @model_validator(mode="after")
    def _check_parts(self) -> ServeConfig:
        apart = self.retriever_replicas > 1 or self.retriever_batch_size > 1
        if self.retriever == "ingress" and (apart or self.placement.retriever != PlacementConfig()):
            raise ValueError(
                "serve.retriever: replicas, batches and placement of the retriever need `deployment`; the ingress, "
                "which holds it by default, has ingress_replicas and placement.ingress"
            )
        self._check_shards()
        if self.generator == "ingress" and (
            self.generator_replicas > 1 or self.placement.generator != PlacementConfig()
        ):
            raise ValueError(
                "serve.generator: replicas and placement of the generator need `deployment`; an ingress that holds it "
                "has ingress_replicas and placement.ingress"
            )
        self.placement.check_start("ingress", self.ingress_replicas)
        self.placement.check_start("retriever", self.retriever_replicas)
        self.placement.check_start("generator", self.generator_replicas)
        return self

    def _check_shards(self) -> None:
        apart = self.shard_replicas > 1 or self.shard_timeout_s != 5.0 or self.placement.shard != PlacementConfig()
        if self.retriever_shards == 1 and apart:
            raise ValueError(
                "serve.retriever_shards: there is one shard, which is the retriever; replicas, timeout and placement "
                "of shards need 2 or more"
            )
        if self.retriever_shards == 1:
            return
        if self.retriever == "ingress":
            raise ValueError(
                f"serve.retriever_shards: {self.retriever_shards} shards need serve.retriever: deployment, whose "
                "replicas ask them; or set serve.retriever_shards to 1"
            )
        if self.retriever_batch_size > 1:
            raise ValueError(
                "serve.retriever_batch_size: leave it out with shards; questions that meet are searched together there"
            )
        if self.index_store is not None:
            raise ValueError(
                "serve.index_store: shards do not follow an index that changes; set serve.retriever_shards to 1"
            )
        self.placement.check_start("shard", self.shard_replicas)


class RunConfig(Section):
    """Everything that one run needs."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="short name, shown in reports")
    output: str = Field(description="folder or s3:// or gs:// URI for the artifacts")
    seed: int = 17
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    train: TrainConfig
    quantize: QuantizeConfig = QuantizeConfig()
    engine: EngineConfig = EngineConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    speed: SpeedConfig = SpeedConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _check_shares(self) -> RunConfig:
        split = self.data.split
        if split.valid + split.test >= 1.0:
            raise ValueError("data.split: valid + test must leave something for train")
        if self.data.passage_overlap_chars * 2 > self.data.passage_chars:
            raise ValueError("data.passage_overlap_chars must be at most half of data.passage_chars")
        return self

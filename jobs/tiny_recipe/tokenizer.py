"""The tokenizer: byte-level BPE over both languages, with the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.schema import stable_digest
from tiny_recipe.corpus import clean, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 8192
SPECIAL = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
MARKERS = tuple(f"[{k}]" for k in range(1, 10))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIECES = (  # words carry their leading space except in Chinese, digits stand alone
    r"\p{Han}+| ?[\p{L}&&[^\p{Han}]]+|\p{N}| ?[^\s\p{L}\p{N}]+|\n+|[^\S\n]+(?!\S)|[^\S\n]+"
)
TOKENIZER_BYTES = {  # how much of each file the tokenizer sees, so that neither language drowns the other
    "text/zh_tidb_docs": 4_500_000,
    "text/zh_python_docs": 4_000_000,
    "text/en_python_docs": 3_500_000,
    "text/en_covidqa_papers": 300_000,
    "qa/zh_medical_dialogue_raw": 1_200_000,
    "qa/zh_lecoqa_train": 800_000,
    "qa/zh_cmrc2018_dev": 800_000,
    "qa/zh_tidb_faq": 400_000,
    "qa/en_medquad_raw": 1_000_000,
    "qa/en_stackfaq": 400_000,
    "pairs/en_banking77_train.intents": 400_000,
}
TOOLING = (  # the users' words, which the corpora hold too seldom
    "Ray cluster worker head node replica deployment autoscaling placement group runtime environment actor "
    "GPU CUDA driver memory out of memory TensorRT engine build quantize quantization int8 fp16 bf16 adapter LoRA "
    "merge checkpoint resume learning rate batch size gradient accumulation tokenizer prompt template index "
    "retrieval retriever BM25 TF-IDF embedding rerank top_k citation dashboard Prometheus Grafana Kubernetes "
    "KubeRay job submit serve config YAML port timeout latency throughput streaming API key log upload download "
    "训练 微调 量化 推理 检索 索引 召回 引擎 部署 集群 节点 副本 显存 显卡 内存 日志 报错 配置 参数 端口 超时 "
    "延迟 吞吐 断点续训 学习率 批次 分词器 提示词 知识库 文档 问答 常见问题 客服 接口 网页 流式输出 监控 权限 密钥 "
    "上传 下载 重启 升级 安装"
)


def row_text(row: dict[str, Any]) -> str:
    """All running text of a record, for the tokenizer."""
    keys = ("question", "question_detail", "context", "answer", "text")
    return "\n".join(str(row[key]) for key in keys if row.get(key))


def tokenizer_texts(data: Path) -> Iterator[str]:
    """Balanced text for the tokenizer: every file evenly sampled down to its share of bytes."""
    for name, limit in TOKENIZER_BYTES.items():
        path = data / f"{name}.jsonl.gz"
        texts = [clean(row_text(row)) for row in read_rows(path)]
        keep = limit / max(1, sum(len(text.encode()) for text in texts))
        for number, text in enumerate(texts):
            if keep >= 1 or stable_digest("tokenizer", name, number) % 1000 < keep * 1000:
                yield text
    yield from [TOOLING] * 20


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the roles, `<|end|>`, and `[1]` to `[9]` as single ordinary tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKERS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def marker_id(number: int) -> int:
    """The token id of `[number]`: the markers are the last of the vocabulary."""
    return VOCABULARY - len(MARKERS) + number - 1

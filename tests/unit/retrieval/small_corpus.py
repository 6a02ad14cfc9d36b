"""A small corpus in both languages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ragray.config import RetrievalConfig
from ragray.retrieval.corpus import Corpus
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.segment import Segment, write_segment
from ragray.retrieval.writing import SEGMENT, write_version
from ragray.schema import Passage, table_of


def passage(doc_id: str, title: str, text: str, lang: str = "en") -> Passage:
    return Passage(doc_id, title, text, lang, "test", "faq")


PASSAGES = [
    passage("gpu", "How do I train on two GPUs?", "Set `--num-gpus` to 2; metrics go to ray.train.report."),
    passage("deploy", "如何在K8s集群部署服务？", "使用 KubeRay 部署 RayService，版本至少 2.60.1。", "zh"),
    passage("empty", "", ""),
    passage("demo", "What does make demo do?", "It runs the whole chain with train.lora.rank 8."),
    passage("stop", "How do I stop training?", "Press Ctrl-C; the checkpoint stays."),
    passage("stop-again", "How do I stop training?", "Press Ctrl-C; the checkpoint stays."),
    passage("quantize", "怎么量化模型？", "运行 ragray quantize，得到 INT8 权重。", "zh"),
]


def corpus_of(documents: Sequence[Sequence[str]], settings: RetrievalConfig, folder: Path) -> Corpus:
    """An opened corpus of documents given by their terms."""
    passages = [passage(str(number), "", " ".join(terms)) for number, terms in enumerate(documents)]
    segment = folder / SEGMENT
    segment.mkdir()
    write_segment(table_of(Passage, passages), str.split, segment)
    write_version([(Segment(segment), np.ones(len(documents), np.bool_))], [SEGMENT], settings, folder)
    return HybridIndex.open(folder).corpus

"""A small corpus in both languages."""

from ragray.schema import Passage


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

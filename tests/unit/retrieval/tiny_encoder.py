"""Models with random weights, made in a second, as sentence-transformers reads them: BERTs of one layer."""

import json
import string
from pathlib import Path
from typing import Any


def make_encoder(folder: Path, seed: int = 0) -> Path:
    """Write the model to a folder as sentence-transformers saves one."""
    from transformers import BertModel

    BertModel(_config(folder, seed)).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    classes = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": name}
        for number, (path, name) in enumerate(zip(("", "1_Pooling"), classes, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": True}))
    return folder


def make_reranker(folder: Path, seed: int = 0, classes: int = 1) -> Path:
    """Write a cross-encoder to a folder: a BERT with a head for each class."""
    from transformers import BertForSequenceClassification

    config = _config(folder, seed)
    config.num_labels = classes
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def spoil(folder: Path) -> None:
    """Make the weights of a model NaN."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    save_file({name: np.full_like(values, np.nan) for name, values in load_file(file).items()}, file, {"format": "pt"})


def _config(folder: Path, seed: int) -> Any:
    """Write a tokenizer to a folder; the configuration of a model for it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    texts = ["how do i train on two gpus and stop training", "怎么量化模型 如何部署服务", "make demo checkpoint"]
    words = sorted({word for text in texts for word in text.split()})
    characters = sorted({character for word in words for character in word} | set(string.ascii_letters))
    # a trained vocabulary is another one each time, where pairs are equally frequent
    pieces = dict.fromkeys([*special.values(), "[MASK]", *words, *characters, *(f"##{one}" for one in characters)])
    raw = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, raw.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    raw.post_processor = processors.BertProcessing(*ends)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=64, mask_token="[MASK]", **special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    return BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=1.0,
    )  # fmt: skip

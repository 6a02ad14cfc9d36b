"""A merged checkpoint in the form that TensorRT-LLM 1.2 and ModelOpt read as well as transformers 5.

In: a Hugging Face folder that transformers 5 wrote. Out: the same model and tokenizer in another folder, with the
configurations of `compat_config`. The tensors are not touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragray.engine.compat_config import compatible_config, compatible_tokenizer, read_json, write_json
from ragray.errors import EngineError

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
_NEEDED = (CONFIG, TOKENIZER_CONFIG, "tokenizer.json")
_WEIGHTS = (".safetensors", ".bin")
_FIX = "merge again with `ragray merge --config FILE`, and name the merged model's folder"


def export_compat(checkpoint: Path, out: Path, weights: bool = True) -> None:
    """Write a checkpoint into the empty or new folder `out` so that transformers 4.57 reads it too.

    Args:
        checkpoint: the merged model's folder.
        out: where to.
        weights: False leaves the tensors out. They are hard links where the file system allows it, else copies: do
            not write to them.

    Raises:
        EngineError: files are missing, the model is quantized already, or there is no older form of it.
    """
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    if missing:
        raise EngineError(f"{checkpoint}: {', '.join(missing)} missing", _FIX)
    try:
        config = read_json(checkpoint / CONFIG)
        _refuse_quantized(checkpoint, config)
        made = {
            CONFIG: compatible_config(config),
            TOKENIZER_CONFIG: compatible_tokenizer(read_json(checkpoint / TOKENIZER_CONFIG)),
        }
    except ValueError as error:
        raise EngineError(f"{checkpoint}: {error}", "choose a Llama or Qwen2 model") from None
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        if path.suffix in _WEIGHTS or path.name.endswith(".index.json"):
            if weights:
                link_or_copy(path, out / path.name)
        elif path.name in made:
            write_json(out / path.name, made[path.name])
        else:
            shutil.copyfile(path, out / path.name)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it on another file system."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _refuse_quantized(checkpoint: Path, config: Mapping[str, Any]) -> None:
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is not None:
        raise EngineError(f"{checkpoint}: is quantized already, by {method}", _FIX)

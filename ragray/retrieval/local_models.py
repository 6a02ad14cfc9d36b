"""Models of sentence-transformers in local folders: which may be loaded, and their digest.

In: a folder. Out: its SHA-256, or the loaded model.

A model is a folder of JSON and safetensors. Its JSON names classes, and from a local folder sentence-transformers
imports what stands there, whatever `trust_remote_code` says: so only known classes are let through. Everything that is
loaded lies in the folder, where the digest sees it.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ragray.errors import ConfigError
from ragray.manifest import content_digest, file_digest, files_below

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
_CODE = {".py", ".pyc", ".so"}
_ADAPTER = "adapter_config.json"  # names a model in another place
_OWN_CLASSES = "sentence_transformers."
_KNOWN_CLASSES = {"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "StaticEmbedding"}
_OF_DOWNLOADS = {".cache", ".git"}  # folders that change with each download of the same model


def checked_model(folder: Path, needed: str) -> str:
    """The digest of a model that may be loaded.

    Args:
        folder: of the model.
        needed: a file that it must have.

    Raises:
        ConfigError: it may not, or is none.
    """
    if not (folder / needed).is_file():
        raise ConfigError(f"{folder}: no model with {needed} here", "name its local folder: nothing is fetched")
    files = files_below(folder)
    for name in files:
        _check_file(folder, name)
    if links := [path for path in folder.rglob("*") if path.is_symlink() and path.is_dir()]:
        raise ConfigError(f"{links[0]}: a link to another folder", "copy that folder to its place")
    _check_modules(folder / "modules.json")
    kept = [name for name in files if Path(name).parts[0] not in _OF_DOWNLOADS]
    return content_digest({name: file_digest(folder / name) for name in kept})


def _check_file(folder: Path, name: str) -> None:
    suffix = Path(name).suffix.lower()
    if suffix in _PICKLED:
        raise ConfigError(
            f"{folder}: {name} may hold pickled objects, which run code when they are read",
            "save the model as safetensors and remove that file",
        )
    if suffix in _CODE:
        raise ConfigError(f"{folder}: {name} is code of its own", "name a model of standard modules")
    if Path(name).name == _ADAPTER:
        raise ConfigError(f"{folder}: {name} is of an adapter", "merge it into its model and save that")


def _check_modules(file: Path) -> None:
    """Whether all modules of a model are of known classes and in its folder."""
    if not file.exists():
        return
    try:
        modules = [(str(module["type"]), str(module["path"])) for module in json.loads(file.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: damaged: {error}", "name a sentence-transformers model") from None
    for kind, path in modules:
        if not kind.startswith(_OWN_CLASSES) or kind.rpartition(".")[2] not in _KNOWN_CLASSES:
            raise ConfigError(f"{file}: {kind} is not read", f"name a model of {', '.join(sorted(_KNOWN_CLASSES))}")
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ConfigError(f"{file}: {path} is outside the model's folder", "name a model that is whole")


def load_model(folder: Path, kind: Literal["SentenceTransformer", "CrossEncoder"]) -> Any:
    """A checked model, loaded without network and without code of its own.

    Raises:
        ConfigError: sentence-transformers is not installed, or cannot load it.
    """
    try:
        import sentence_transformers
    except ImportError:
        raise ConfigError(f"{folder}: sentence-transformers is not installed", "pip install 'ragray[dense]'") from None
    from safetensors import SafetensorError

    try:
        return getattr(sentence_transformers, kind)(
            str(folder), device="cpu", trust_remote_code=False, local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )  # fmt: skip
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ImportError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise ConfigError(f"{folder}: cannot be loaded: {error}", f"name the folder of a {kind}") from None

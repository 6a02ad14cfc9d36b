"""What an artifact says about itself, and the digests that tie it to what it was made from.

In: files, modules, configurations. Out: `Manifest` (read and written as JSON) and stable SHA-256 digests.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ragray
from ragray.errors import ArtifactError

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
_RECORDED_PACKAGES = (
    "ray", "torch", "transformers", "peft", "deepspeed", "bitsandbytes", "openvino", "nncf", "pyarrow",
    "numpy", "scikit-learn", "numba", "tokenizers", "safetensors", "matplotlib", "pypinyin", "rapidfuzz",
    "sentence-transformers", "sacrebleu", "ir-measures",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """An input of an artifact: another artifact or a file."""

    kind: str  # the artifact's kind, or "file"
    uri: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact says about itself. `digest` identifies its content, `key` what it was made from."""

    kind: str
    key: str
    digest: str
    format_version: int
    inputs: dict[str, Source]
    config: dict[str, Any]
    code: str
    counts: dict[str, int]
    metrics: dict[str, Any]
    timings_s: dict[str, float]
    files: dict[str, dict[str, Any]]  # name -> {"bytes", "sha256", "volatile"}
    packages: dict[str, str]
    ragray_version: str = ragray.__version__
    manifest_version: int = MANIFEST_VERSION
    created: str = ""

    def to_json(self) -> str:
        """The manifest as indented JSON with sorted keys."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read a manifest.

        Raises:
            ArtifactError: it is damaged or of another version.
        """
        try:
            tree = json.loads(text)
            version = tree["manifest_version"]
            if version != MANIFEST_VERSION:
                raise ArtifactError(
                    f"{where}: manifest version {version}, this ragray reads {MANIFEST_VERSION}",
                    f"remove the folder {where} and run the stage again",
                )
            tree["inputs"] = {name: Source(**source) for name, source in tree["inputs"].items()}
            return cls(**tree)
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{where}: {MANIFEST} is damaged: {error}",
                f"remove the folder {where} and run the stage again",
            ) from None


def artifact_key(kind: str, inputs: Mapping[str, Source], config: Mapping[str, Any], code: str) -> str:
    """The digest of all that an artifact is made from: equal keys mean that nothing needs to run again."""
    tree = {
        "kind": kind,
        "inputs": {name: source.digest for name, source in inputs.items()},
        "config": config,
        "code": code,
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder, hexadecimal."""
    return content_digest({name: file_digest(folder / name) for name in files_below(folder)})


def code_digest(modules: Sequence[str]) -> str:
    """SHA-256 over the source of modules and packages of ragray, such as "dataprep" or "train.loop"."""
    root = Path(__file__).parent
    sources: dict[str, str] = {}
    for module in modules:
        path = root / module.replace(".", "/")
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        sources.update({str(f.relative_to(root)): file_digest(f) for f in files})
    return content_digest(sources)


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that results depend on."""
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def files_below(folder: Path) -> list[str]:
    """The relative names of all files below a folder, sorted."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def content_digest(digests: Mapping[str, str]) -> str:
    """SHA-256 over names and their digests, in the order of the names."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()

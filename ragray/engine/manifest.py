"""`engine.json`: what an engine is, what it was made from, and where it may be loaded.

In: a folder with `engine.json` beside `engine/`. Out: an `EngineManifest` whose device, versions and files
were checked, or an error that names the engine that is needed and how to build it. Fields that do not apply
to an engine, such as a GPU's driver on a CPU, are null.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ragray.artifact import file_digest
from ragray.engine.protocol import DeviceInfo, Limits
from ragray.errors import EngineError

ENGINE_JSON = "engine.json"
ENGINE_FOLDER = "engine"
SCHEMA_VERSION = 2
BUILD = "build one here with `ragray build-engine --config FILE`"


@dataclass(frozen=True, slots=True)
class Verification:
    """Greedy answers of the engine against the merged model's, on fixed prompts."""

    prompts: int
    tokens: int  # of the model's answers
    prefix_share: float  # mean over prompts: length of the equal beginning / longer answer
    equal_answers: int
    f1: float  # mean token F1 of the answers' text
    least_prefix_share: float  # of a usable engine
    least_f1: float
    usable: bool


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Of the checkpoint's own configuration."""

    architecture: str
    parameters: int
    context_tokens: int  # prompt and answer together
    rope_theta: float | None


@dataclass(frozen=True, slots=True)
class SourceDigests:
    """SHA-256 of what the engine was made from."""

    checkpoint: str
    tokenizer: str
    chat_template: str
    adapter: str | None = None
    calibration: str | None = None


@dataclass(frozen=True)
class EngineManifest:
    """The content of engine.json."""

    builder: str
    builder_version: str
    format: str
    weights: str
    quantization: str | None
    kv_cache: str
    model: ModelFacts
    source: SourceDigests
    device: DeviceInfo
    runtime: dict[str, str]  # package -> release that loading needs
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]  # path in the folder -> {"bytes", "sha256"}
    verification: Verification | None = None
    limits: Limits = field(default_factory=Limits)
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    plugins: dict[str, str] | None = None
    lora: dict[str, Any] | None = None
    commands: tuple[tuple[str, ...], ...] = ()  # argument vectors that the builder ran
    build_s: float | None = None  # wall time of the builder, without the verification
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """SHA-256 over the engine's files, hexadecimal."""
        lines = "".join(f"{name}\0{entry['sha256']}\n" for name, entry in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write engine.json."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2, sort_keys=True)
        (folder / ENGINE_JSON).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> EngineManifest:
        """Read engine.json without checking anything that it says.

        Raises:
            EngineError: it is missing, damaged or of another schema.
        """
        path = folder / ENGINE_JSON
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["schema_version"] != SCHEMA_VERSION:
                raise EngineError(f"{path}: schema {tree['schema_version']}, this ragray reads {SCHEMA_VERSION}", BUILD)
            return _from_tree(tree)
        except FileNotFoundError:
            raise EngineError(f"{folder}: holds no engine ({ENGINE_JSON} is missing)", BUILD) from None
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{path}: damaged: {error}", BUILD) from None


def _from_tree(tree: dict[str, Any]) -> EngineManifest:
    device = dict(tree["device"], features=tuple(tree["device"]["features"]))
    verification = tree["verification"]
    return EngineManifest(
        **tree
        | {
            "model": ModelFacts(**tree["model"]),
            "source": SourceDigests(**tree["source"]),
            "device": DeviceInfo(**device),
            "limits": Limits(**tree["limits"]),
            "verification": verification and Verification(**verification),
            "commands": tuple(tuple(command) for command in tree["commands"]),
        }
    )


def verified_manifest(folder: Path, device: DeviceInfo) -> EngineManifest:
    """The manifest of an engine that may be loaded on `device`.

    Raises:
        EngineError: another device or runtime release is needed, the engine failed its verification, or a file
            was changed.
    """
    manifest = EngineManifest.read(folder)
    _check_device(folder, manifest, device)
    _check_runtime(folder, manifest.runtime)
    _check_quality(folder, manifest)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise EngineError(f"{folder}: {name} is missing", f"remove the folder and {BUILD}")
        if file_digest(path) != entry["sha256"]:
            raise EngineError(f"{folder}: {name} was changed after it was built", f"remove the folder and {BUILD}")
    return manifest


def files_below(folder: Path, part: str = ENGINE_FOLDER) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file of `folder/part`, by path in `folder`."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def installed(*packages: str) -> dict[str, str]:
    """Installed versions of packages, without build numbers.

    Raises:
        EngineError: one is not installed.
    """
    try:
        return {package: importlib.metadata.version(package).split("+")[0] for package in packages}
    except importlib.metadata.PackageNotFoundError as error:
        raise EngineError(
            f"the package {error.name} is not installed", "pip install 'ragray[openvino,train]'"
        ) from None


def release(version: str) -> str:
    """The part of a version whose change may change an engine: 2026.4.1.0 -> 2026.4."""
    return ".".join(version.split(".")[:2])


def _check_device(folder: Path, manifest: EngineManifest, device: DeviceInfo) -> None:
    built_for = manifest.device
    if (built_for.type, built_for.arch, built_for.compute_capability) != (
        device.type,
        device.arch,
        device.compute_capability,
    ):
        raise EngineError(
            f"{folder}: this engine was built for {_device_name(built_for)}; this machine needs one "
            f"for {_device_name(device)}",
            f"build it with `ragray build-engine --config FILE --for {device.type}`",
        )


def _device_name(device: DeviceInfo) -> str:
    capability = f", compute capability {device.compute_capability}" if device.compute_capability else ""
    return f"{device.type} ({device.arch}{capability})"


def _check_runtime(folder: Path, runtime: Mapping[str, str]) -> None:
    for package, needed in runtime.items():
        found = installed(package)[package]
        if found != needed and not found.startswith(f"{needed}."):
            raise EngineError(
                f"{folder}: this engine was built for {package} {needed}; installed is {found}",
                f"pip install '{package}=={needed}.*', or {BUILD}",
            )


def _check_quality(folder: Path, manifest: EngineManifest) -> None:
    verification = manifest.verification
    if verification is None:
        raise EngineError(f"{folder}: this engine was never verified", BUILD)
    if not verification.usable:
        raise EngineError(f"{folder}: {shortfall(manifest)}", more_precise(manifest))


def shortfall(manifest: EngineManifest) -> str:
    """The sentence that says how far an unusable engine's answers are from its model's."""
    found = manifest.verification
    assert found is not None
    return (
        f"this {manifest.builder} {manifest.weights} engine answers worse than its model on {found.prompts} prompts "
        f"(agreement {found.prefix_share:.2f}, least {found.least_prefix_share:.2f}; F1 {found.f1:.2f}, least "
        f"{found.least_f1:.2f})"
    )


def more_precise(manifest: EngineManifest) -> str:
    """What to type for an engine that answers better."""
    device = manifest.device.type
    field = "engine.weights=fp32" if device == "cpu" else f"engine.devices.{device}.weights=FORMAT"
    return f"build one with more precise weights: `ragray build-engine --config FILE --for {device} --set {field}`"

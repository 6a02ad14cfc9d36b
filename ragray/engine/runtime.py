"""Loading whatever engine a folder holds.

In: an engine artifact's folder (`engine.json` beside `engine/`). Out: a verified, loaded `Engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ragray.config import EngineConfig
from ragray.engine.adapters import check_engine
from ragray.engine.device import device_for
from ragray.engine.manifest import BUILD, ENGINE_FOLDER, EngineManifest, verified_manifest
from ragray.engine.protocol import Engine
from ragray.errors import EngineError


def load_engine(folder: Path, settings: EngineConfig, adapters: Mapping[str, Path] | None = None) -> Engine:
    """Verify and load the engine that a folder holds; the folder, not the settings, says of which kind.

    Args:
        folder: holds engine.json and the folder engine/.
        settings: threads, batch size and cache size.
        adapters: LoRA folders in PEFT's form, made for the engine's model (`adapters.fitted`), by name.

    Raises:
        EngineError: it was built for another device or version, is damaged, cannot be loaded, or takes no adapters.
        ArtifactError: an adapter is damaged, or of another model.
    """
    manifest = verified_manifest(folder, device_for(EngineManifest.read(folder).device))
    if adapters:
        check_engine(folder)
    return start_engine(folder / ENGINE_FOLDER, manifest, settings, adapters)


def start_engine(
    files: Path, manifest: EngineManifest, settings: EngineConfig, adapters: Mapping[str, Path] | None = None
) -> Engine:
    """Load an engine whose manifest is known to be right.

    Raises:
        EngineError: it cannot be loaded.
    """
    match manifest.builder:
        case "openvino":
            from ragray.engine.openvino_runtime import OpenVinoEngine

            return OpenVinoEngine(files, manifest, settings)
        case "transformers":
            from ragray.engine.transformers_runtime import load_model_folder

            batch, threads = settings.max_batch_size, settings.cpu_threads
            return load_model_folder(files, batch, threads, manifest.digest, manifest.device.type, adapters)
        case "tensorrt_llm" | "tensorrt_llm_torch" as kind:
            from ragray.engine.tensorrt_llm_engine import TensorRtLlmEngine

            python = _python(settings, manifest.device.type, kind)
            folders = {name: str(folder) for name, folder in (adapters or {}).items()}
            return TensorRtLlmEngine(files, manifest, settings, python, folders)
        case other:
            raise EngineError(f"{files}: an engine of kind {other!r}, which this ragray cannot run", BUILD)


def _python(settings: EngineConfig, device_type: str, environment: str) -> str:
    """The Python of an engine's own environment, on machines with its type of device."""
    wanted = settings.device(device_type)
    found = wanted.interpreters.get(environment) or wanted.py_executable  # the image, if any, is not this process's
    if found is None:
        raise EngineError(
            f"{environment} engines run in an environment of their own, which the settings do not name",
            f"set engine.devices.{device_type}.interpreters.{environment} to its Python; see deploy/",
        )
    return found

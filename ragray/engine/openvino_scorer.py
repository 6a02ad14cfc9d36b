"""An exported OpenVINO model as a function: log probabilities of whole sequences, which the engine does not give.

In: a folder with `openvino_model.xml`. Out: a `Scorer`, computing in float32 as the engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

from ragray.engine.build import model_facts
from ragray.engine.device import this_device
from ragray.engine.manifest import EngineManifest, SourceDigests
from ragray.engine.openvino_export import MODEL_XML, model_inputs
from ragray.engine.openvino_settings import CPU_PROPERTIES
from ragray.engine.quantize_protocol import Scorer
from ragray.errors import EngineError

_PROPERTIES = {"KV_CACHE_PRECISION": "f32", **CPU_PROPERTIES}


def load_scorer(folder: Path, threads: int) -> Scorer:
    """Read and compile the model.

    Raises:
        EngineError: OpenVINO cannot read it.
    """
    try:
        compiled = ov.Core().compile_model(
            str(folder / MODEL_XML), "CPU", {**_PROPERTIES, "INFERENCE_NUM_THREADS": threads}
        )
    except RuntimeError as error:
        raise EngineError(f"{folder}: OpenVINO cannot load this model: {error}", "quantize it again") from None
    running = compiled.create_infer_request()

    def score(token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        running.reset_state()
        logits = running.infer(model_inputs(token_ids))["logits"][0]
        shifted = logits - logits.max(-1, keepdims=True)
        found: npt.NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return found

    return score


def unverified_manifest(model: Path, weights: str) -> EngineManifest:
    """What the engine must know to load such a folder before it is an engine: nothing of it is verified yet.

    Args:
        model: the full model that it was made from.
        weights: as in engine.weights.
    """
    return EngineManifest(
        builder="openvino",
        builder_version="",
        format="openvino_ir",
        weights=weights,
        quantization=weights,
        kv_cache="f32",
        model=model_facts(model),
        source=SourceDigests(checkpoint="", tokenizer="", chat_template=""),
        device=this_device(),
        runtime={},
        versions={},
        files={},
    )

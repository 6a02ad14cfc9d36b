"""A Hugging Face decoder as an OpenVINO model, straight from transformers.

In: a model folder (Llama, Qwen2, Qwen3). Out: `openvino_model.xml` and `.bin`, the same bytes for the same
input: one graph with its attention cache as internal state, as OpenVINO GenAI expects it, its weights in
float32 or compressed by NNCF.

The model is traced with explicit past keys and values; a gather by `beam_idx` is put behind each, and pairs
of past and present become state. GenAI replaces that attention by paged attention when it loads the model.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation, apply_moc_transformations
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ragray.engine.transformers_runtime import load_model
from ragray.errors import EngineError

MODEL_XML = "openvino_model.xml"
ARCHITECTURES = ("llama", "qwen2", "qwen3")
_INT4_GROUP = 64  # weights that share a scale


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of the attention cache: per layer two tensors float32 [batch, heads, tokens, width]."""

    layers: int
    heads: int
    width: int

    @property
    def past_names(self) -> list[str]:
        return [f"past_key_values.{n}.{part}" for n in range(self.layers) for part in ("key", "value")]

    @property
    def present_names(self) -> list[str]:
        return [f"present.{n}.{part}" for n in range(self.layers) for part in ("key", "value")]


def export(checkpoint: Path, weights: str, out: Path, calibration: Sequence[Sequence[int]] = ()) -> None:
    """Write the OpenVINO model of a checkpoint into the folder `out`.

    Args:
        checkpoint: Hugging Face folder.
        weights: "fp32", "int8" (per channel, asymmetric) or "int4" (groups of 64, symmetric).
        out: existing folder.
        calibration: token ids of texts as the model will read them; where there are any, int4 weights are scaled by
            what they do to the activations of these (AWQ, scale estimation). None: by the weights alone.

    Raises:
        EngineError: the architecture is not one of `ARCHITECTURES`, or uses a sliding window.
    """
    model = load_model(checkpoint)
    _check(model)
    shape = _shape_of(model)
    graph = _trace(model, shape)
    _name_ports(graph, shape)
    _make_stateful(graph, shape)
    graph = _compress(graph, weights, calibration)
    _name_nodes(graph)
    ov.save_model(graph, out / MODEL_XML, compress_to_fp16=False)


def _check(model: PreTrainedModel) -> None:
    kind = model.config.model_type
    if kind not in ARCHITECTURES or getattr(model.config, "use_sliding_window", False):
        raise EngineError(
            f"the openvino engine knows {', '.join(ARCHITECTURES)} without sliding window, not {kind!r}",
            "set engine.kind=transformers",
        )


def _shape_of(model: PreTrainedModel) -> _Shape:
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return _Shape(config.num_hidden_layers, config.num_key_value_heads, width)


class _WithPast(torch.nn.Module):
    """The model as a function of tensors alone: logits and grown cache from tokens and cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Logits float32 [batch, new, vocabulary], then keys and values of each layer.

        Args:
            input_ids: int64 [batch, new].
            attention_mask: int64 [batch, old + new], 0 = padding.
            position_ids: int64 [batch, new].
            past: keys and values of each layer in turn, float32 [batch, heads, old, width].
        """
        new, total = input_ids.shape[1], attention_mask.shape[1]
        key_at = torch.arange(total)[None, :]
        query_at = torch.arange(new)[:, None] + (total - new)
        visible = (key_at <= query_at)[None, None] & attention_mask[:, None, None, :].bool()
        cache = DynamicCache()
        layers = [_layer(keys, values) for keys, values in zip(past[::2], past[1::2], strict=True)]
        cache.layers = list(layers)
        output = self.model(
            input_ids=input_ids,
            attention_mask=torch.where(visible, 0.0, torch.finfo(torch.float32).min),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        return (output.logits, *present)


def _layer(keys: torch.Tensor, values: torch.Tensor) -> Any:
    layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
    layer.keys, layer.values = keys, values
    layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
    return layer


def _trace(model: PreTrainedModel, shape: _Shape) -> ov.Model:
    batch, old, new = 2, 3, 2  # all different from 1, which tracing would take for a constant
    past = [torch.zeros(batch, shape.heads, old, shape.width) for _ in shape.past_names]
    example = (
        torch.ones(batch, new, dtype=torch.int64),
        torch.ones(batch, old + new, dtype=torch.int64),
        torch.arange(old, old + new)[None].expand(batch, new),
        *past,
    )
    with torch.no_grad(), _quiet_tracer():
        decoder = TorchScriptPythonDecoder(_WithPast(model), example_input=example)
    frontend = FrontEndManager().load_by_framework("pytorch")
    graph = frontend.convert(frontend.load(decoder))
    apply_moc_transformations(graph, cf=True)  # with the above, openvino.convert_model less its usage report
    return graph


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Tracing warns of every Python branch on a shape; those of these architectures do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _name_ports(graph: ov.Model, shape: _Shape) -> None:
    inputs = ["input_ids", "attention_mask", "position_ids", *shape.past_names]
    for port, name in zip(graph.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        dims = [-1, shape.heads, -1, shape.width] if name in shape.past_names else [-1, -1]
        port.get_node().set_partial_shape(ov.PartialShape(dims))
    for port, name in zip(graph.outputs, ["logits", *shape.present_names], strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()


def _make_stateful(graph: ov.Model, shape: _Shape) -> None:
    """Turn each pair of past and present into state that starts empty and is reordered by `beam_idx`."""
    beam = ops.parameter([-1], dtype=np.int32, name="beam_idx")
    beam.output(0).get_tensor().add_names({"beam_idx"})
    graph.add_parameters([beam])
    for name in shape.past_names:
        past = graph.input(name)
        readers = list(past.get_target_inputs())
        reordered = ops.gather(past, beam, ops.constant(np.int64(0)))
        for reader in readers:
            reader.replace_source_output(reordered.output(0))
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, dict(zip(shape.past_names, shape.present_names, strict=True)))
    _start_empty(graph, shape)
    graph.validate_nodes_and_infer_types()


def _start_empty(graph: ov.Model, shape: _Shape) -> None:
    tokens = ops.shape_of(graph.input("input_ids"), output_type="i64")
    batch = ops.gather(tokens, ops.constant(np.array([0])), ops.constant(np.int64(0)))
    rest = ops.constant(np.array([shape.heads, 0, shape.width], dtype=np.int64))
    empty = ops.broadcast(ops.constant(np.float32(0.0)), ops.concat([batch, rest], axis=0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty])


def _compress(graph: ov.Model, weights: str, calibration: Sequence[Sequence[int]]) -> ov.Model:
    """Compress the weights by NNCF.

    Source of int4 with calibration: Lin et al. 2024, "AWQ: Activation-aware Weight Quantization", section 3.2.
    """
    if weights == "fp32":
        return graph
    os.environ.setdefault("NNCF_CI", "1")  # read at import: no usage report
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    if weights == "int8":
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    adjusted = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
    looked_at: dict[str, Any] = {}
    if calibration:
        dataset = nncf.Dataset([model_inputs(token_ids) for token_ids in calibration])
        looked_at = {"dataset": dataset, "subset_size": len(calibration), "awq": True, "scale_estimation": True}
    return nncf.compress_weights(
        graph,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        group_size=_INT4_GROUP,
        advanced_parameters=adjusted,
        **looked_at,
    )


def model_inputs(token_ids: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """What an exported model reads of one sequence from its beginning: arrays [1, tokens], and the beam [1]."""
    ids = np.array([list(token_ids)], dtype=np.int64)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1], dtype=np.int64)[None],
        "beam_idx": np.zeros(1, dtype=np.int32),
    }


def _name_nodes(graph: ov.Model) -> None:
    """Name nodes by their place in the graph: by default names carry a counter of the whole process."""
    graph.set_friendly_name("decoder")
    for position, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}_{position}")
    for port in [*graph.inputs, *graph.outputs]:
        port.get_node().set_friendly_name(port.get_any_name())

"""The reference engine: transformers on a Hugging Face folder, wherever nothing else runs.

In: a model folder. Out: an `Engine`. Sequences of a batch are padded on the left and share one cache;
finished ones leave it and new ones join it between two steps, so one class serves both the deterministic
`generate` (fixed batches) and `submit` (continuous batching).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from ragray.artifact import folder_digest
from ragray.engine.adapter_rows import AdapterRows
from ragray.engine.batching import BatchingLoop, Request, RequestHandle, checked_request
from ragray.engine.device import CPU
from ragray.engine.protocol import Completion, EngineInfo, SamplingParams
from ragray.engine.tokens import decode, load_tokenizer, stop_tokens
from ragray.engine.weight_format import INT8_WEIGHT_ONLY, NF4, check_loadable, weights_of
from ragray.errors import EngineError
from ragray.train.adapter import read_adapter

_PACKED_ROWS = 32


def load_model_folder(
    folder: Path | str,
    batch_size: int,
    threads: int,
    digest: str | None = None,
    device_type: str = CPU,
    adapters: Mapping[str, Path] | None = None,
) -> TransformersEngine:
    """The reference engine on a Hugging Face folder, in float32.

    Args:
        folder: config.json, safetensors and tokenizer; quantized checkpoints keep their own number format.
        batch_size: sequences generated at once.
        threads: CPU threads of the whole process, 0: as torch decides.
        digest: sha256 that identifies the folder; computed from its files by default.
        device_type: "cpu", or the accelerator's type: the model goes to the first GPU that torch sees.
        adapters: plain LoRA folders in PEFT's form, made for this model, by the name that requests give.

    Raises:
        EngineError: the folder cannot be loaded, or torch sees no GPU.
        ArtifactError: an adapter is damaged, or of another model.
    """
    if device_type != CPU and not torch.cuda.is_available():
        raise EngineError(
            f"torch {torch.__version__} sees no GPU, and this engine was made for {device_type}",
            "install torch's CUDA build there, or build an engine for the CPU: `ragray build-engine --for cpu`",
        )
    folder = Path(folder)
    if threads > 0:
        torch.set_num_threads(threads)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder)
    if device_type != CPU:
        model.to("cuda")  # type: ignore[arg-type]  # its annotation is that of a decorator
    info = EngineInfo(
        kind="transformers",
        device=device_type,
        weights=weights_of(folder),
        model=f"{model.config.model_type}-{model.num_parameters()}",
        digest=digest or folder_digest(folder),
    )
    rows = AdapterRows(model, {name: read_adapter(path) for name, path in (adapters or {}).items()})
    return TransformersEngine(model, tokenizer, stop_tokens(folder, tokenizer), info, batch_size, rows)


def load_model(folder: Path) -> PreTrainedModel:
    """A folder's model for inference, float32 (of a quantized checkpoint: what is not quantized).

    Raises:
        EngineError: the files are missing, damaged, of an unknown architecture, or quantized by a method that would
            be read wrongly.
    """
    check_loadable(folder)
    if weights_of(folder) == INT8_WEIGHT_ONLY:
        from ragray.engine.weight_only import load_int8

        return load_int8(folder)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise EngineError(
            f"{folder}: cannot be loaded as a language model: {error}", "name a whole Hugging Face model folder"
        ) from None
    if weights_of(folder) == NF4:
        _repack_what_fits(model)
    return model  # from_pretrained leaves it in evaluation mode


def _repack_what_fits(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking layers whose shape its fast kernel does not fit: their first pass would fail.

    Source: bitsandbytes 0.50, functional._convert_weight_packed_for_cpu: blocks of 32 rows, whole blocks of columns.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            blocksize = layer.weight.quant_state.blocksize
            if layer.out_features % _PACKED_ROWS or layer.in_features % blocksize:
                layer.support_avx512bf16_for_cpu = False


class TransformersEngine:
    """A model that decodes in batches; see `protocol.Engine`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stops: frozenset[int],
        info: EngineInfo,
        batch_size: int,
        adapters: AdapterRows | None = None,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self._model = model
        self._stops = stops
        self._batch_size = batch_size
        self._context: int = model.config.max_position_embeddings
        self._adapters = adapters or AdapterRows(model, {})
        self._loop = BatchingLoop(BatchDecoder(model, stops, self._adapters), tokenizer, batch_size)

    def submit(self, token_ids: Sequence[int], params: SamplingParams) -> RequestHandle:
        """Start one request; it joins the running batch at the next step."""
        return self._loop.submit([self._request(token_ids, params)])[0]

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Completion]:
        """Complete all prompts, in batches of similar length, whatever else is running."""
        requests = [self._request(prompt, params) for prompt in prompts]
        by_length = sorted(requests, key=lambda request: len(request.prompt), reverse=True)
        for start in range(0, len(by_length), self._batch_size):
            decoder = BatchDecoder(self._model, self._stops, self._adapters)
            decoder.add(by_length[start : start + self._batch_size])
            while decoder.active:
                decoder.step()
        return [request.completion(decode(self.tokenizer, request.tokens)) for request in requests]

    @torch.inference_mode()
    def log_probabilities(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Log probabilities of the next token after each of one sequence's tokens, float32 [tokens, vocabulary]."""
        ids = torch.tensor([list(token_ids)], device=self._model.device)
        found: npt.NDArray[np.float32] = (
            torch.log_softmax(self._model(input_ids=ids).logits[0].float(), -1).cpu().numpy()
        )
        return found

    def stats(self) -> dict[str, float]:
        """Counts of submitted requests since loading, and how many run or wait now."""
        return self._loop.stats()

    def close(self) -> None:
        """End all requests; those unfinished raise in their readers."""
        self._loop.close()

    def _request(self, token_ids: Sequence[int], params: SamplingParams) -> Request:
        return checked_request(token_ids, params, self._context, self._adapters.names)


class BatchDecoder:
    """Sequences that are decoded together: row r of the cache, mask and next tokens is `self._requests[r]`.

    The cache holds [rows, heads, length, width] per layer; `self._mask` int64 [rows, length] is 0 on the left
    padding. Greedy rows take the arg max; sampled rows draw from a generator of their own, so a row's text
    does not depend on its neighbours. Each row is computed with the adapter of its request.
    """

    def __init__(self, model: PreTrainedModel, stops: frozenset[int], adapters: AdapterRows) -> None:
        self._model = model
        self._adapters = adapters
        self._stops = stops
        self._requests: list[Request] = []
        self._samplers: list[torch.Generator] = []
        self._cache = DynamicCache()
        self._mask = torch.zeros((0, 0), dtype=torch.int64, device=model.device)
        self._next = torch.zeros((0,), dtype=torch.int64, device=model.device)

    @property
    def active(self) -> int:
        """How many sequences are not finished."""
        return len(self._requests)

    def add(self, requests: Sequence[Request]) -> None:
        """Read the prompts, choose each one's first token, and let them join the batch."""
        if not requests:
            return
        longest = max(len(request.prompt) for request in requests)
        ids = torch.zeros((len(requests), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, longest - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, longest - len(request.prompt) :] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        cache = DynamicCache()
        logits = self._forward(requests, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        self._join(cache, mask)
        self._requests.extend(requests)
        self._samplers.extend(torch.Generator().manual_seed(request.params.seed) for request in requests)
        self._next = torch.cat([self._next, self._choose(logits, self._requests[-len(requests) :])])
        self._leave()

    def step(self) -> None:
        """One more token for each sequence; finished ones leave the batch."""
        if not self._requests:
            return
        positions = self._mask.sum(1, keepdim=True)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        logits = self._forward(self._requests, self._next[:, None], self._mask, positions, self._cache)
        self._next = self._choose(logits, self._requests)
        self._leave()

    def drop(self, request: Request) -> None:
        """Take a sequence out of the batch."""
        self._keep([row for row, other in enumerate(self._requests) if other is not request])

    @torch.inference_mode()
    def _forward(
        self,
        requests: Sequence[Request],
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """Logits float32 [rows, vocabulary] after the last of `ids` [rows, new]; `cache` grows by `new`."""
        with self._adapters.of([request.params.adapter for request in requests]):
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _choose(self, logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """The next token of each row, pushed to its request: int64 [rows]."""
        chosen = logits.argmax(-1)
        samplers = self._samplers[-len(requests) :]
        for row, (request, sampler) in enumerate(zip(requests, samplers, strict=True)):
            if request.params.temperature > 0:
                chosen[row] = sample(logits[row].cpu(), request.params, sampler)
        for request, token in zip(requests, chosen.tolist(), strict=True):
            request.push(token, self._stops)
        return chosen

    def _join(self, cache: DynamicCache, mask: torch.Tensor) -> None:
        """Append rows with their cache; the shorter side is padded on the left."""
        if not self._requests:
            self._cache, self._mask = cache, mask
            return
        length = max(mask.shape[1], self._mask.shape[1])
        for mine, theirs in zip(_layers(self._cache), _layers(cache), strict=True):
            mine.keys = torch.cat([_pad_left(mine.keys, length), _pad_left(theirs.keys, length)])
            mine.values = torch.cat([_pad_left(mine.values, length), _pad_left(theirs.values, length)])
        masks = [torch.nn.functional.pad(m, (length - m.shape[1], 0)) for m in (self._mask, mask)]
        self._mask = torch.cat(masks)

    def _leave(self) -> None:
        left = [row for row, request in enumerate(self._requests) if request.finish_reason is None]
        if len(left) < len(self._requests):
            self._keep(left)

    def _keep(self, rows: list[int]) -> None:
        """Keep these rows, and cut off the padding that only the others needed."""
        self._requests = [self._requests[row] for row in rows]
        self._samplers = [self._samplers[row] for row in rows]
        index = torch.tensor(rows, dtype=torch.int64, device=self._mask.device)
        self._mask, self._next = self._mask[index], self._next[index]
        used = self._mask.any(0).nonzero()
        first = int(used[0]) if len(used) else 0
        self._mask = self._mask[:, first:]
        for layer in _layers(self._cache):
            layer.keys, layer.values = layer.keys[index, :, first:], layer.values[index, :, first:]


def sample(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """One token id drawn from logits float32 [vocabulary] by temperature and nucleus sampling.

    Source: Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    probabilities = torch.softmax(logits.cpu() / params.temperature, dim=-1)
    ranked, ids = probabilities.sort(descending=True, stable=True)
    ranked[ranked.cumsum(0) - ranked >= params.top_p] = 0.0
    return int(ids[torch.multinomial(ranked, 1, generator=generator)])


def _layers(cache: DynamicCache) -> list[Any]:
    """The cache's layers, whose `keys` and `values` are tensors once the first prompt was read."""
    return list(cache.layers)


def _pad_left(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """[rows, heads, n, width] -> [rows, heads, length, width], zeros before."""
    return torch.nn.functional.pad(tensor, (0, 0, length - tensor.shape[2], 0))

"""The default engine on CPUs: OpenVINO GenAI with continuous batching and prefix cache.

In: a folder with `openvino_model.xml` and a tokenizer. Out: an `Engine`. One thread calls the pipeline;
requests that share the beginning of their prompt share its attention cache. Answers from passages repeat their words,
so a step may guess several tokens and confirm them together: prompt lookup decoding, a form of speculative decoding
without a draft model (Leviathan, Kalman and Matias 2023, arXiv 2211.17192; Saxena 2023, "Prompt Lookup Decoding").
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai

from ragray.config import EngineConfig
from ragray.engine.batching import BatchingLoop, Request, RequestHandle, checked_request
from ragray.engine.manifest import EngineManifest
from ragray.engine.openvino_settings import CPU_PROPERTIES
from ragray.engine.protocol import Completion, EngineInfo, SamplingParams
from ragray.engine.signal_stack import kept_signal_stack
from ragray.engine.tokens import load_tokenizer, stop_tokens
from ragray.errors import EngineError

_LOOKUP_NGRAM = 2  # tokens that must repeat before those behind them are taken for a guess
_LARGE = 100_000_000  # parameters, from which a wrong guess costs more than a token's fixed costs
_MANY_GUESSES, _FEW_GUESSES = 12, 4
_STEP_TOKENS = 512  # of prompts, read in one step at most: a usual one whole; running answers wait for no longer one
_GUESSED_BESIDE = 5  # tokens that the pipeline reserves for an answer's step beside the guesses, rounded up


class OpenVinoEngine:
    """A compiled model; see `protocol.Engine`.

    `generate` is deterministic as long as nothing else runs. Sampled requests that run together share one
    random generator, so their `seed` holds only for requests that run alone.

    Raises:
        EngineError: the model cannot be read or compiled.
    """

    def __init__(self, files: Path, manifest: EngineManifest, settings: EngineConfig) -> None:
        self.tokenizer = load_tokenizer(files)
        self.info = EngineInfo(
            kind="openvino",
            device=manifest.device.type,
            weights=manifest.weights,
            model=f"{manifest.model.architecture}-{manifest.model.parameters}",
            digest=manifest.digest,
        )
        self._context = manifest.model.context_tokens
        lookup = guesses(settings, manifest.model.parameters)
        pipeline = _pipeline(files, manifest.kv_cache, settings, lookup)
        decoder = PipelineDecoder(pipeline, stop_tokens(files, self.tokenizer), lookup)
        self._loop = BatchingLoop(decoder, self.tokenizer, settings.max_batch_size)

    def submit(self, token_ids: Sequence[int], params: SamplingParams) -> RequestHandle:
        """Start one request; it joins the running batch at the next step."""
        return self._loop.submit([checked_request(token_ids, params, self._context)])[0]

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Completion]:
        """Complete all prompts; they enter the batch together, in their order."""
        requests = [checked_request(prompt, params, self._context) for prompt in prompts]
        return [handle.completion() for handle in self._loop.submit(requests)]

    def stats(self) -> dict[str, float]:
        """Counts since loading, and how many requests run or wait now."""
        return self._loop.stats()

    def close(self) -> None:
        """End all requests; those unfinished raise in their readers."""
        self._loop.close()


def guesses(settings: EngineConfig, parameters: int) -> int:
    """Tokens to guess in a step: what is set, else fewer with a large model, whose wrong guesses cost more."""
    if settings.prompt_lookup_tokens is not None:
        return settings.prompt_lookup_tokens
    return _FEW_GUESSES if parameters >= _LARGE else _MANY_GUESSES


class PipelineDecoder:
    """A continuous-batching pipeline as a `batching.Decoder`.

    Args:
        pipeline: the compiled model.
        stops: tokens that end an answer.
        lookup: tokens guessed in each step from what prompt and answer repeat, as the pipeline was made for; 0: none.
    """

    def __init__(self, pipeline: genai.ContinuousBatchingPipeline, stops: frozenset[int], lookup: int) -> None:
        self._pipeline = pipeline
        self._stops = stops
        self._lookup = lookup
        self._ids = count()
        self._running: dict[Request, genai.GenerationHandle] = {}

    def add(self, requests: Sequence[Request]) -> None:
        """Queue prompts; the pipeline reads them in its next steps."""
        for request in requests:
            ids = ov.Tensor(np.array([request.prompt], dtype=np.int64))
            self._running[request] = self._pipeline.add_request(next(self._ids), ids, self._generation(request.params))

    def step(self) -> None:
        """One step of the pipeline, which reads prompts, advances sequences, or both."""
        self._pipeline.step()
        for request, handle in list(self._running.items()):
            self._read(request, handle)
            if request.ended:
                self.drop(request)  # without effect where the pipeline ended it, too

    def drop(self, request: Request) -> None:
        """Cancel a sequence."""
        self._running.pop(request).cancel()

    def _read(self, request: Request, handle: genai.GenerationHandle) -> None:
        while not request.ended and handle.can_read():
            for output in handle.read().values():
                for token in output.generated_ids:
                    if not request.ended:
                        request.push(token, self._stops)
        status = handle.get_status()
        if not request.ended and status == genai.GenerationStatus.IGNORED:
            request.error = EngineError(
                f"no cache memory left for a prompt of {len(request.prompt)} tokens", "raise engine.kv_cache_gib"
            )
        elif not request.ended and status == genai.GenerationStatus.FINISHED:
            request.finish_reason = "stop"

    def _generation(self, params: SamplingParams) -> genai.GenerationConfig:
        config = genai.GenerationConfig()
        config.max_new_tokens = params.max_new_tokens
        if self._lookup:
            config.num_assistant_tokens, config.max_ngram_size = self._lookup, _LOOKUP_NGRAM
        if params.ignore_stop:
            config.ignore_eos = True
        else:
            config.stop_token_ids = set(self._stops)
            config.eos_token_id = min(self._stops)
        config.do_sample = params.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p, config.top_k = params.temperature, params.top_p, 0
            config.rng_seed = params.seed
        return config


def _pipeline(files: Path, kv_cache: str, settings: EngineConfig, lookup: int) -> genai.ContinuousBatchingPipeline:
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.cache_size = settings.kv_cache_gib
    guessed = lookup + _GUESSED_BESIDE if lookup else 0
    scheduler.max_num_batched_tokens = _STEP_TOKENS + settings.max_batch_size * guessed
    scheduler.max_num_seqs = settings.max_batch_size
    properties: dict[str, str | int | bool] = {
        "KV_CACHE_PRECISION": kv_cache,
        **CPU_PROPERTIES,
        "INFERENCE_NUM_THREADS": settings.cpu_threads or os.cpu_count() or 1,
    }
    if lookup:
        properties["prompt_lookup"] = True
    try:
        with kept_signal_stack():
            return genai.ContinuousBatchingPipeline(str(files), scheduler, "CPU", properties)
    except RuntimeError as error:
        raise EngineError(f"{files}: OpenVINO cannot load this engine: {error}", "build it again") from None

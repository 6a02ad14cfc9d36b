"""The engine of ragray's side whose model runs in an environment of its own, by TensorRT-LLM.

In: an engine's folder and the Python of its environment. Out: an `Engine`. The other side is `tensorrt_llm_runtime`:
token ids go there and come back as JSON lines, and TensorRT-LLM's executor batches them in flight.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any

from ragray.config import EngineConfig
from ragray.engine.batching import BatchingLoop, Request, RequestHandle, checked_request
from ragray.engine.commands import dies_with_parent, tail
from ragray.engine.manifest import EngineManifest
from ragray.engine.protocol import Completion, EngineInfo, SamplingParams
from ragray.engine.tokens import load_tokenizer, stop_tokens
from ragray.errors import EngineError

MODEL_FOLDER = "model"  # configuration and tokenizer, beside the engine
SCRIPT = Path(__file__).with_name("tensorrt_llm_runtime.py")
_START_S = 1800.0  # to load the largest engines from a slow disk
_CLOSE_S = 60.0
_STEP_S = 0.2  # after which the loop looks for requests, cancellations and its end


class TensorRtLlmEngine:
    """A TensorRT-LLM engine in its own process; see `protocol.Engine`.

    Args:
        files: the folder that the builder wrote.
        manifest: the engine's record.
        settings: batch size and cache size.
        python: the interpreter of its environment.
        adapters: LoRA folders in PEFT's form by name; a compiled engine must be built for them.

    Raises:
        EngineError: the environment has another version, the engine cannot be loaded, or takes no adapters.
    """

    def __init__(
        self,
        files: Path,
        manifest: EngineManifest,
        settings: EngineConfig,
        python: str,
        adapters: Mapping[str, str] | None = None,
    ) -> None:
        self.tokenizer = load_tokenizer(files / MODEL_FOLDER)
        self.info = EngineInfo(
            kind=manifest.builder,
            device=manifest.device.type,
            weights=manifest.weights,
            model=f"{manifest.model.architecture}-{manifest.model.parameters}",
            digest=manifest.digest,
        )
        self._adapters = dict(adapters or {})
        self._limits = manifest.limits
        stops = stop_tokens(files / MODEL_FOLDER, self.tokenizer)
        told = worker_settings(files, manifest, settings, stops, self._adapters)
        self._worker = Worker(python, told)
        self._loop = BatchingLoop(WorkerDecoder(self._worker, stops), self.tokenizer, told["max_batch_size"])

    def submit(self, token_ids: Sequence[int], params: SamplingParams) -> RequestHandle:
        """Start one request, by the model with an adapter if one is named; it joins the running batch."""
        return self._loop.submit([self._request(token_ids, params)])[0]

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Completion]:
        """Complete all prompts; they enter the batch together, in their order."""
        requests = [self._request(prompt, params) for prompt in prompts]
        return [handle.completion() for handle in self._loop.submit(requests)]

    def stats(self) -> dict[str, float]:
        """Counts since loading, and how many requests run or wait now."""
        return self._loop.stats()

    def close(self) -> None:
        """End all requests and the process; those unfinished raise in their readers."""
        self._loop.close()
        self._worker.close()

    def _request(self, token_ids: Sequence[int], params: SamplingParams) -> Request:
        longest, context = self._limits.max_input_tokens, self._limits.max_sequence_tokens
        assert longest is not None and context is not None  # the builder's plan sets both
        if len(token_ids) > longest:
            raise EngineError(
                f"a prompt of {len(token_ids)} tokens; this engine was built for {longest} at most",
                "shorten the question, or raise engine.max_input_tokens and build the engine again",
            )
        return checked_request(token_ids, params, context, self._adapters)


def worker_settings(
    files: Path, manifest: EngineManifest, settings: EngineConfig, stops: frozenset[int], adapters: Mapping[str, str]
) -> dict[str, Any]:
    """What the process of the other environment is told.

    Raises:
        EngineError: adapters are given to an engine that was built without, or the cache holds no sequence.
    """
    is_engine = manifest.format == "tensorrt"
    if adapters and is_engine and manifest.lora is None:
        raise EngineError(f"{files}: this engine takes no LoRA adapters", "build it again with a LoRA rank")
    limits = manifest.limits
    tokens = cache_tokens(files / MODEL_FOLDER / "config.json", settings.kv_cache_gib)
    if limits.max_sequence_tokens is not None and tokens < limits.max_sequence_tokens:
        raise EngineError(
            f"engine.kv_cache_gib={settings.kv_cache_gib} holds {tokens} tokens, less than one sequence of "
            f"{limits.max_sequence_tokens}",
            "raise engine.kv_cache_gib",
        )
    return {
        "kind": manifest.builder,
        "version": manifest.versions["tensorrt_llm"] if is_engine else None,
        "model": str(files / "engine" if is_engine else files / MODEL_FOLDER),
        "max_batch_size": min(settings.max_batch_size, limits.max_batch_size or settings.max_batch_size),
        "max_num_tokens": limits.max_num_tokens,
        "max_sequence_tokens": limits.max_sequence_tokens,
        "kv_cache_tokens": tokens,
        "stop_token_ids": sorted(stops),
        "adapters": dict(adapters),
        "max_lora_rank": (manifest.lora or {}).get("max_rank", max(map(adapter_rank, adapters.values()), default=0)),
    }


def cache_tokens(config: Path, gibibytes: int) -> int:
    """Tokens whose attention keys and values fit into a cache in float16.

    Bytes of a token: 2 (keys and values) x layers x key-value heads x head width x 2.
    """
    tree = json.loads(config.read_text(encoding="utf-8"))
    heads = tree.get("num_key_value_heads") or tree["num_attention_heads"]
    width = tree.get("head_dim") or tree["hidden_size"] // tree["num_attention_heads"]
    return int(gibibytes * 2**30 // (2 * tree["num_hidden_layers"] * heads * width * 2))


def adapter_rank(folder: str) -> int:
    """The rank of a LoRA adapter's folder."""
    return int(json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))["r"])


class Worker:
    """The process of the other environment.

    Raises:
        EngineError: it cannot be started, or ended before it was ready.
    """

    def __init__(self, python: str, settings: Mapping[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ragray-engine-")
        self._log = Path(self._folder.name) / "log.txt"
        path = Path(self._folder.name) / "settings.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [python, "-I", str(SCRIPT), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    text=True, encoding="utf-8", preexec_fn=dies_with_parent(),
                )  # fmt: skip
        except OSError as error:
            raise EngineError(
                f"{python} cannot be started: {error.strerror}",
                "set engine.devices.TYPE.interpreters to the Python of a TensorRT-LLM environment; see deploy/",
            ) from None
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        self._wait_until_ready()

    def send(self, **message: Any) -> None:
        """Send one message; a process that has ended tells so by its last event."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended by itself, before what was left to write
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def ended(self) -> EngineError:
        """Why the process ended by itself."""
        said = tail(self._log) if self._log.exists() else ""
        return EngineError(f"the TensorRT-LLM process ended:\n{said}", "see its last lines; then load the engine again")

    def _read(self, lines: IO[str]) -> None:
        with contextlib.suppress(ValueError):  # a line that is no event: nothing after it can be trusted
            for line in lines:
                self.events.put(json.loads(line))
        self.events.put({"event": "gone"})

    def _wait_until_ready(self) -> None:
        try:
            event = self.events.get(timeout=_START_S)
        except queue.Empty:
            event = {"event": "error", "message": f"not ready after {_START_S:.0f} s"}
        if event["event"] == "ready":
            return
        error = self.ended() if event["event"] == "gone" else EngineError(
            event["message"], "name the Python of that version in engine.devices.TYPE.interpreters, or build again"
        )  # fmt: skip
        self._process.kill()
        self.close()
        raise error


class WorkerDecoder:
    """The process as a `batching.Decoder`; TensorRT-LLM decides which sequences advance in a step."""

    def __init__(self, worker: Worker, stops: frozenset[int]) -> None:
        self._worker = worker
        self._stops = stops
        self._numbers = count()
        self._running: dict[int, Request] = {}

    def add(self, requests: Sequence[Request]) -> None:
        """Send requests; they join the batch in flight."""
        for request in requests:
            number = next(self._numbers)
            self._running[number] = request
            params = request.params
            self._worker.send(
                op="submit", id=number, tokens=list(request.prompt), max_tokens=params.max_new_tokens,
                temperature=params.temperature, top_p=params.top_p, seed=params.seed,
                ignore_stop=params.ignore_stop, adapter=params.adapter,
            )  # fmt: skip

    def step(self) -> None:
        """Wait a moment for the next tokens of any sequence."""
        try:
            self._take(self._worker.events.get(timeout=_STEP_S))
        except queue.Empty:
            return
        while not self._worker.events.empty():
            self._take(self._worker.events.get())

    def drop(self, request: Request) -> None:
        """Cancel a sequence."""
        for number, running in list(self._running.items()):
            if running is request:
                del self._running[number]
                self._worker.send(op="cancel", id=number)

    def _take(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "gone":
            raise self._worker.ended()
        request = self._running.get(event["id"])
        if request is None:
            return  # cancelled, or ended by a stop token that TensorRT-LLM counts as text
        for token in event.get("tokens", ()):
            if not request.ended:
                request.push(token, self._stops)
        if event["event"] == "error":
            request.error = EngineError(f"TensorRT-LLM refused a request: {event['message']}", "shorten the prompt")
        elif event["event"] == "end" and not request.ended:
            request.finish_reason = "length" if event["reason"] == "length" else "stop"
        if request.ended:
            self.drop(request) if event["event"] == "tokens" else self._running.pop(event["id"], None)

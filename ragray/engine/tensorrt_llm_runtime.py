"""Serving a TensorRT-LLM engine, run by the interpreter of an environment that has TensorRT-LLM; it imports no ragray.

    python -I tensorrt_llm_runtime.py SETTINGS.json

In: requests as JSON lines on standard input, token ids inside. Out: events as JSON lines on standard output, tokens as
they come. The executor batches in flight (a new request joins at the next step), reuses the KV-cache blocks of equal
prompt beginnings, and applies a LoRA adapter of each request's choice.

    {"op": "submit", "id": 7, "tokens": [...], "max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "seed": 0,
     "adapter": null}
    {"op": "cancel", "id": 7}                                the end of the input ends the process
    {"event": "ready", "version": "1.2.1"}
    {"event": "tokens", "id": 7, "tokens": [...]}
    {"event": "end", "id": 7, "reason": "stop"}              or "length", "cancelled"
    {"event": "error", "id": 7, "message": "..."}            id null: the process cannot go on

Written against the LLM API of 1.2 (tensorrt_llm._tensorrt_engine) and of the PyTorch backend from 1.3 on; see
docs/engines.md for what was checked. It has not been run on a GPU in this project's tests.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

ENGINE_KIND = "tensorrt_llm"
_NO_TOKEN = -1  # as the end's id: nothing ends an answer but its length


class Events:
    """Where events go: the process's standard output, which libraries no longer reach."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)  # what libraries print goes to the log

    def send(self, event: str, **values: Any) -> None:
        """Write one event."""
        self._stream.write(json.dumps({"event": event, **values}) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Load the engine and serve it until the input ends; the exit code."""
    settings = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    events = Events()
    version = importlib.metadata.version("tensorrt_llm")
    if settings["version"] not in (None, version):
        message = f"built by tensorrt_llm {settings['version']}; {sys.executable} has {version}"
        events.send("error", id=None, message=message)
        return 1
    llm = load(settings)
    events.send("ready", version=version)
    try:
        asyncio.run(serve(llm, settings, events))
    finally:
        llm.shutdown()
    return 0


def load(settings: Mapping[str, Any]) -> Any:
    """The LLM of the settings: of the engine line for a TensorRT engine, else of the PyTorch backend."""
    from tensorrt_llm.llmapi import KvCacheConfig

    if settings["kind"] == ENGINE_KIND:
        from tensorrt_llm._tensorrt_engine import LLM
    else:
        from tensorrt_llm import LLM
    return LLM(
        model=settings["model"],
        skip_tokenizer_init=True,  # token ids in, token ids out
        max_batch_size=settings["max_batch_size"],
        max_num_tokens=settings["max_num_tokens"],
        max_seq_len=settings["max_sequence_tokens"],
        kv_cache_config=KvCacheConfig(enable_block_reuse=True, max_tokens=settings["kv_cache_tokens"]),
        enable_chunked_prefill=True,
        **lora_arguments(settings),
    )


def lora_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the PyTorch backend must be told of adapters; an engine holds it already, from its build."""
    adapters = settings["adapters"]
    if not adapters or settings["kind"] == ENGINE_KIND:
        return {}
    from tensorrt_llm.lora_helper import LoraConfig

    paths, count = list(adapters.values()), len(adapters)
    rank = settings["max_lora_rank"]
    return {"lora_config": LoraConfig(lora_dir=paths, max_lora_rank=rank, max_loras=count, max_cpu_loras=count)}


async def serve(llm: Any, settings: Mapping[str, Any], events: Events) -> None:
    """Take in lines until there are no more; each request is a task of its own."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    threading.Thread(target=read_lines, args=(loop, lines), daemon=True).start()
    outputs: dict[int, Any] = {}
    tasks: set[asyncio.Task[None]] = set()
    while (line := await lines.get()) is not None:
        message = json.loads(line)
        if message["op"] == "submit":
            task = asyncio.create_task(answer(llm, message, settings, events, outputs))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif message["id"] in outputs:
            outputs[message["id"]].abort()


def read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str | None]) -> None:
    """Hand the lines of standard input to the event loop, None at their end."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(lines.put_nowait, line)
    loop.call_soon_threadsafe(lines.put_nowait, None)


async def answer(
    llm: Any, message: Mapping[str, Any], settings: Mapping[str, Any], events: Events, outputs: dict[int, Any]
) -> None:
    """Run one request and send its tokens as they come."""
    number, sent = message["id"], 0
    try:
        output = llm.generate_async(
            message["tokens"], sampling(message, settings["stop_token_ids"]),
            lora_request=lora_request(message["adapter"], settings["adapters"]), streaming=True,
        )  # fmt: skip
        outputs[number] = output
        async for step in output:
            tokens = list(step.outputs[0].token_ids)
            if len(tokens) > sent:
                events.send("tokens", id=number, tokens=tokens[sent:])
                sent = len(tokens)
        events.send("end", id=number, reason=output.outputs[0].finish_reason or "stop")
    except (RuntimeError, ValueError) as error:  # RequestError of tensorrt_llm is a RuntimeError
        events.send("error", id=number, message=str(error))
    finally:
        outputs.pop(number, None)


def sampling(message: Mapping[str, Any], stops: Sequence[int]) -> Any:
    """TensorRT-LLM's SamplingParams of a request; temperature 0 takes the most probable token."""
    from tensorrt_llm import SamplingParams

    if message["temperature"] > 0:
        chosen = {key: message[key] for key in ("temperature", "top_p", "seed")}
    else:
        chosen = {"top_k": 1}
    end, *more = [_NO_TOKEN] if message["ignore_stop"] else stops
    return SamplingParams(
        end_id=end, pad_id=stops[0], stop_token_ids=more or None, max_tokens=message["max_tokens"],
        detokenize=False, add_special_tokens=False, **chosen,
    )  # fmt: skip


def lora_request(adapter: str | None, adapters: Mapping[str, str]) -> Any:
    """TensorRT-LLM's LoRARequest for an adapter's name; its number is its place in the settings, from 1 on."""
    if adapter is None:
        return None
    from tensorrt_llm.executor import LoRARequest

    return LoRARequest(adapter, 1 + list(adapters).index(adapter), adapters[adapter])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

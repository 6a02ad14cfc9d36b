"""LLM, KvCacheConfig and the outputs of generate_async."""

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

STEP_S = 0.002


@dataclass
class KvCacheConfig:
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    host_cache_size: int | None = None


@dataclass
class CompletionOutput:
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


class RequestOutput:
    def __init__(self, prompt, params, shift, slots):
        self.outputs = [CompletionOutput()]
        self._prompt, self._params, self._shift, self._slots = prompt, params, shift, slots
        self._aborted = False

    def abort(self):
        self._aborted = True

    async def __aiter__(self):
        async with self._slots:
            stops = {self._params.end_id, *(self._params.stop_token_ids or ())}
            output = self.outputs[0]
            while output.finish_reason is None:
                await asyncio.sleep(STEP_S)
                token = (sum(self._prompt) + self._shift + len(output.token_ids)) % 300
                if self._aborted:
                    output.finish_reason = "cancelled"
                elif token in stops:
                    output.finish_reason = "stop"
                else:
                    output.token_ids.append(token)
                    if len(output.token_ids) == self._params.max_tokens:
                        output.finish_reason = "length"
                yield self


class LLM:
    """The PyTorch backend: a Hugging Face folder."""

    def __init__(self, model, *, skip_tokenizer_init=False, max_batch_size=2048, max_num_tokens=8192, max_seq_len=None,
                 kv_cache_config=None, enable_chunked_prefill=False, lora_config=None):  # fmt: skip
        os.write(1, b"[TensorRT-LLM] what the library prints must not reach the events\n")
        self._check(Path(model))
        assert skip_tokenizer_init and kv_cache_config.enable_block_reuse and kv_cache_config.max_tokens >= max_seq_len
        assert enable_chunked_prefill and max_num_tokens >= max_batch_size
        self._longest = max_seq_len
        self._adapters = len(lora_config.lora_dir) if lora_config else 0
        self._slots = asyncio.Semaphore(max_batch_size)

    def _check(self, model):
        assert list(model.glob("*.safetensors")), "no weights"

    def generate_async(self, inputs, sampling_params=None, lora_request=None, streaming=False):
        assert streaming and not sampling_params.detokenize and not sampling_params.add_special_tokens
        greedy = sampling_params.top_k == 1 and sampling_params.temperature is None
        assert greedy or (sampling_params.temperature > 0 and sampling_params.seed is not None)
        if len(inputs) + sampling_params.max_tokens > self._longest:
            raise RuntimeError("the sequence is longer than max_seq_len")
        shift = 7 * lora_request.lora_int_id if lora_request else 0
        if lora_request and not self._adapters:
            raise RuntimeError("no LoRA")
        return RequestOutput(inputs, sampling_params, shift, self._slots)

    def shutdown(self):
        os.write(1, b"shut down\n")


class EngineLLM(LLM):
    """The engine line: a folder with rank0.engine; LoRA is told by the engine's own configuration."""

    def __init__(self, model, **arguments):
        assert "lora_config" not in arguments
        super().__init__(model, **arguments)
        config = json.loads((Path(model) / "config.json").read_text())
        self._adapters = int(config["build_config"]["plugin_config"].get("lora_plugin", "disable") != "disable")

    def _check(self, model):
        assert (model / "rank0.engine").is_file(), "no engine"

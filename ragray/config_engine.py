"""The settings of engines: what generates the answers, and how it is built for each type of device.

In: nothing. Out: a part of `config.RunConfig`, typed, frozen models with their defaults and limits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ragray.config_data import Positive, Section

Kind = Literal["openvino", "transformers", "tensorrt_llm", "tensorrt_llm_torch"]


class DeviceEngineConfig(Section):
    """How an engine is built for one type of device; what is not set is as in `engine`.

    Paths are those of the machines that have this device.
    """

    kind: Kind | None = Field(
        None, description="builder; by default engine.kind where it supports the device, else the first that does"
    )
    weights: str | None = Field(
        None, description="weight format, in the builder's words; by default engine.weights for openvino, else the "
        "builder's choice for the device",
    )  # fmt: skip
    num_cpus: Positive = Field(1, description="CPUs that the build reserves")
    num_gpus: Positive = Field(1, description="GPUs that the build reserves; on cpu none")
    memory_gib: Positive | None = Field(None, description="memory that the build reserves, GiB; none: not counted")
    py_executable: str | None = Field(
        None, description="the Python that runs the build's task, with this Ray and ragray; by default Ray's own"
    )
    image_uri: str | None = Field(
        None, description="container image that runs the build's task, with this Ray and ragray; not with py_executable"
    )
    env: dict[str, str] = Field({}, description="environment variables of the build's task")
    interpreters: dict[str, str] = Field(
        {}, description="Pythons of the environments that a builder runs commands in, by the environment's name"
    )

    @model_validator(mode="after")
    def _check_environment(self) -> DeviceEngineConfig:
        if self.py_executable and self.image_uri:
            raise ValueError("engine.devices: set py_executable or image_uri, not both")
        return self


class EngineConfig(Section):
    """What generates the answers."""

    kind: Kind = "openvino"
    weights: Literal["fp32", "int8", "int4"] = Field("int8", description="weight format of an openvino engine")
    cpu_threads: int = Field(0, ge=0, description="0: as many as there are cores")
    max_batch_size: Positive = Field(64, description="sequences generated at once")
    prompt_lookup_tokens: int | None = Field(
        None, ge=0, le=32, description="an openvino engine guesses this many tokens from repeated words and confirms "
        "them in one step; the answers stay the same; 0: one token a step; by default 12 with a model of less than 100 "
        "million parameters, else 4",
    )  # fmt: skip
    kv_cache_gib: Positive = Field(1, description="memory for attention keys and values, GiB")
    max_input_tokens: Positive = Field(2048, description="longest prompt that a compiled engine takes, tokens")
    max_new_tokens: Positive = Field(512, description="longest answer that a compiled engine gives, tokens")
    wait_s: Positive = Field(600, description="how long a build waits for a free device of its type, seconds")
    build_s: Positive = Field(3600, description="how long a build may run once it has its device, seconds")
    devices: dict[str, DeviceEngineConfig] = Field(
        {}, description="by device type: cpu, or Ray's accelerator type such as H100"
    )

    @field_validator("devices")
    @classmethod
    def _check_types(cls, devices: dict[str, DeviceEngineConfig]) -> dict[str, DeviceEngineConfig]:
        for name in devices:
            if not name or name != name.strip() or name in ("CPU", "GPU", "all"):
                raise ValueError(
                    f"engine.devices: {name!r} is no device type; write cpu, or an accelerator type such as H100"
                )
        return devices

    def device(self, device_type: str) -> DeviceEngineConfig:
        """How engines for a type of device are built."""
        return self.devices.get(device_type, DeviceEngineConfig())

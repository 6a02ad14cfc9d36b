"""Stands in for TensorRT-LLM 1.2.1 in tests on machines without a GPU: its interface, with arithmetic for a model.

Signatures are those of the API stability records of TensorRT-LLM (tests/unittest/api_stability/references*, read
2026-11-26); an argument that these do not have is a TypeError. The "model" continues a prompt by
(sum of the prompt + 7 * adapter + position) mod 300.
"""

from .llmapi import LLM as LLM
from .sampling import SamplingParams as SamplingParams

__version__ = "1.2.1"

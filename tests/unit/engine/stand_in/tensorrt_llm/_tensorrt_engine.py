"""The engine line's LLM."""

from .llmapi import EngineLLM as LLM

__all__ = ["LLM"]

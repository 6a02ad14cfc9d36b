"""The parts of a question: quoted strings, flags, Chinese runs, words, and the signs that say something.

In: a question. Out: its tokens in their order. A sign is whatever is no letter, digit or space: operators, brackets,
a minus before a number. Those that only end or divide a sentence are left out.
"""

from __future__ import annotations

import re

from ragray.retrieval.phrases import CJK

_QUOTES = ('"', '"'), ("“", "”"), ("`", "`"), ("「", "」"), ("『", "』"), ("《", "》"), ("‘", "’")
_QUOTED = "|".join([*(rf"{a}[^{b}]+{b}" for a, b in _QUOTES), r"(?<!\w)'[^']+'(?!\w)"])
_FLAG = r"(?<![\w-])--?[A-Za-z][\w-]*"
_TOKEN = re.compile(
    rf"(?P<quoted>{_QUOTED})"
    rf"|(?P<flag>{_FLAG})"
    rf"|(?P<cjk>[{CJK}]+)"
    rf"|(?P<word>[$€£¥]?[^\W{CJK}]+(?:[.,\-/:@'’_][^\W{CJK}]+)*(?:\+\+|#(?!\w)|%|°)?)"
    rf"|(?P<sign>(?:(?!{_QUOTED}|{_FLAG}|[$€£¥]\w)[^\w\s])+)"
)
_OF_SENTENCES = ".,;:!?…。、·"
_QUOTE_MARKS = "\"'“”‘’`"
_IS_CJK = re.compile(f"[{CJK}]")
_OPERAND = re.compile(r"(?:\d|\b[A-Za-z])$")  # what a factorial or an inch mark stands behind


def tokens(text: str) -> list[re.Match[str]]:
    """What says something, in its order; `lastgroup` is quoted, flag, cjk, word or sign."""
    return [token for token in _TOKEN.finditer(text) if token.lastgroup != "sign" or sign(text, token)]


def sign(text: str, token: re.Match[str]) -> str:
    """What a run of signs says, without quotation marks and without what ends or divides sentences; "" for nothing."""
    run, before, after = token.group(), text[: token.start()], text[token.end() :]
    if before[-1:].strip() == "" and after[:1].isspace() and after.strip():
        return run  # alone between words, as in `what does ; do`
    if _OPERAND.search(before) and run[0] in "!'\"":
        return run[0] if run[0] == "!" or before[-1].isdigit() else ""
    run = run.strip(_QUOTE_MARKS)
    is_between_words = after[:1].strip() and not _IS_CJK.search(before[-1:] + after[:1])
    return run if is_between_words else run.rstrip(_OF_SENTENCES)

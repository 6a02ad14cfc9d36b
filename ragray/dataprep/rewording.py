"""What a model is asked when it writes question variants, and how its reply is read.

In: a question, its language and how many variants are wanted. Out: chat messages, and of the reply the questions it
holds, or why it is of no use. The words of the prompt are part of the cache's key: change `PROMPT_VERSION` with them.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

PROMPT_VERSION = 1
LONGEST = 500  # characters of a question that a reply may hold

_SYSTEM = {
    "en": "You reword questions that people ask a help desk. Keep the meaning, every name, number and condition."
    " Do not answer. Reply with a JSON array of {count} strings and nothing else.",
    "zh": "你负责改写用户向客服提出的问题。保持原意，保留所有名称、数字和条件。不要回答问题。"
    "只回复一个包含{count}个字符串的JSON数组，不要写其他内容。",
}
_USER = {
    "en": "Write {count} different ways in which people would ask this, from short and casual to long and polite:\n"
    "{question}",
    "zh": "写出{count}种不同的问法，从简短随意到完整礼貌：\n{question}",
}
_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n```$", re.DOTALL)


class BadReplyError(ValueError):
    """A reply that does not hold what was asked for; its text is the reason, a short code."""


def rewording_messages(question: str, lang: str, count: int) -> list[dict[str, str]]:
    """Chat messages that ask for `count` variants; `lang` is "zh" or "en"."""
    return [
        {"role": "system", "content": _SYSTEM[lang].format(count=count)},
        {"role": "user", "content": _USER[lang].format(count=count, question=question)},
    ]


def rewording_key(model: str, question: str, lang: str, count: int) -> str:
    """What a reply depends on, as 64 hexadecimal digits."""
    parts = json.dumps([PROMPT_VERSION, model, lang, count, question], ensure_ascii=False)
    return hashlib.sha256(parts.encode()).hexdigest()


def read_json(reply: str) -> Any:
    """What a reply of JSON holds; a code fence around it and a reasoning model's thoughts before it are allowed.

    Raises:
        BadReplyError: "not_json".
    """
    text = _THOUGHTS.sub("", reply).strip()
    fenced = _FENCE.match(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):  # brackets nested beyond Python's stack
        raise BadReplyError("not_json") from None


def parse_rewordings(reply: str, count: int) -> list[str]:
    """The questions of a reply: exactly `count` strings of one line, as a JSON array and nothing else.

    A code fence around the array and a reasoning model's thoughts before it are allowed.

    Raises:
        BadReplyError: "not_json", "not_an_array", "wrong_count", "not_text" or "too_long".
    """
    found = read_json(reply)
    if not isinstance(found, list):
        raise BadReplyError("not_an_array")
    if len(found) != count:
        raise BadReplyError("wrong_count")
    for item in found:
        if (
            not isinstance(item, str)
            or not item.strip()
            or len(item.strip().splitlines()) > 1
            or not item.isprintable()
        ):
            raise BadReplyError("not_text")
        if len(item) > LONGEST:
            raise BadReplyError("too_long")
    return [item.strip() for item in found]

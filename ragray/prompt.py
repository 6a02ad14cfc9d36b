"""The one prompt template, for pretraining, training, evaluation and serving.

In: a question and passages in ranked order. Out: chat messages for `tokenizer.apply_chat_template`,
and `parse_answer`, which reads the model's text back.

The question stands before and after the passages, so that a causal model reads them knowing what is
asked (query-aware contextualization). Source: Liu et al. 2023, "Lost in the Middle", section 4.2.
An answer opens with the number of the passage that it rests on: choosing the source is the first
thing that the model decides, and the citation comes with every answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ragray.dataprep.normalize import remove_invisible

TEMPLATE_VERSION = 1

SYSTEM = {
    "en": "Answer from the passages and begin with the number of the one you use.",
    "zh": "根据资料回答，先写所用资料的编号。",
}
SYSTEM_CLOSED_BOOK = {"en": "Answer the question.", "zh": "回答问题。"}
QUESTION = {"en": "Question: ", "zh": "问题："}
DECLINE = {
    "en": "The documents do not answer this question.",
    "zh": "文档没有回答这个问题。",
}

# The first character of a control token, which a space after it breaks.
_CONTROL = re.compile(
    r"[<＜](?=[|｜])|[|｜](?=[>＞])"  # <|im_start|> of Qwen, Phi, Llama 3 and our own; <｜User｜> of DeepSeek
    r"|[<＜](?=/?(?:s|unk|pad|bos|eos|start_of_turn|end_of_turn|think|tool_call|tool_response)[>＞])"  # Llama 2, Gemma
    r"|[<＜](?=[<＜]/?SYS[>＞])"
    r"|[\[［](?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)[\]］])"  # Mistral
)
_TAGS = re.compile("[\U000e0000-\U000e007f]")  # an unseen copy of ASCII, in which instructions are hidden
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\ufe00-\ufe0f\U000e0080-\U000e0fff]")
_NUMBERED = re.compile(r"\s*\[\s*\d{1,2}\s*\]")
_BRACKET = re.compile(r"[\[\]［］﹇﹈]")
_ASKS = re.compile(r"\s*(?:question|问题|問題)\s*:", re.IGNORECASE)
_COLON = re.compile(r"[:：︓﹕]")
_ROLE = re.compile(r"\s*###\s*(?:system|instruction|input|response|user|human|assistant)\s*(?::|$)", re.IGNORECASE)
_HASH = re.compile(r"[#＃﹟]")
_CITATION = re.compile(r"^\s*\[(\d{1,2})\]\s*")
_ANY_CITATION = re.compile(r"\[(\d{1,2})\]")


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What a model's text says: the answer without its leading mark, the numbers cited, declined or not."""

    text: str
    cited: tuple[int, ...]
    declined: bool


def template_language(lang: str) -> str:
    """The language of the fixed sentences: Chinese for "zh", else English."""
    return "zh" if lang == "zh" else "en"


def escape(text: str) -> str:
    """Text that cannot pose as a control token, as another passage's number or as the question.

    Control tokens of common model families are broken by a space, and lines that begin as those of a passage or of the
    question are changed, however they are spelt: characters that nobody sees are left out or not looked at, and forms
    that NFKC makes equal count as equal.
    """
    text = _CONTROL.sub(r"\g<0> ", _TAGS.sub("", remove_invisible(text)))
    return "\n".join(map(_harmless, text.split("\n")))


def _harmless(line: str) -> str:
    """A line that does not begin as one of the template's does."""
    seen = line if line.isascii() else _UNSEEN.sub("", unicodedata.normalize("NFKC", line))
    if _NUMBERED.match(seen):
        return _BRACKET.sub(lambda bracket: ")" if bracket[0] in "]］﹈" else "(", line, count=2)
    if _ASKS.match(seen):
        return _COLON.sub(" -", line, count=1)
    if _ROLE.match(seen):  # of Alpaca and Vicuna, which have no control tokens
        return _HASH.sub(r"\g<0> ", line, count=1)
    return line


def cut(text: str, limit: int) -> str:
    """`text` shortened to at most `limit` characters, at the end of a sentence or word where there is one."""
    if len(text) <= limit:
        return text
    head = text[:limit]
    for pattern in (r"[。！？.!?](?=\s|$|[^\x00-\x7f])", r"[\s，,;；]"):
        ends = [m.end() for m in re.finditer(pattern, head)]
        if ends and ends[-1] >= limit // 2:
            return head[: ends[-1]].rstrip()
    return head


def render_passage(number: int, title: str, text: str) -> str:
    """One passage as the model sees it: title, then the number and the text that it numbers."""
    return f"{escape(title)}\n[{number}] {escape(text)}"


def user_message(question: str, passages: Sequence[tuple[str, str]], lang: str) -> str:
    """The user turn: question, numbered passages `(title, text)` in ranked order, question again."""
    asked = QUESTION[template_language(lang)] + escape(question)
    if not passages:
        return asked
    shown = (render_passage(n, title, text) for n, (title, text) in enumerate(passages, 1))
    return "\n\n".join([asked, *shown, asked])


def messages(question: str, passages: Sequence[tuple[str, str]] | None, lang: str) -> list[dict[str, str]]:
    """Chat messages for one question; `passages=None` asks without retrieval."""
    system = SYSTEM_CLOSED_BOOK if passages is None else SYSTEM
    return [
        {"role": "system", "content": system[template_language(lang)]},
        {"role": "user", "content": user_message(question, passages or (), lang)},
    ]


def target(answer: str, number: int | None) -> str:
    """The text that training teaches: the cited passage's number (None without retrieval), then the answer."""
    return answer if number is None else f"[{number}] {answer}"


def parse_answer(text: str) -> ParsedAnswer:
    """Read a model's text: leading citation removed, all cited numbers listed, a decline recognised."""
    body = _CITATION.sub("", text).strip()
    cited = tuple(dict.fromkeys(int(n) for n in _ANY_CITATION.findall(text)))
    declined = not body or any(body.startswith(sentence.rstrip(".。")) for sentence in DECLINE.values())
    return ParsedAnswer(text=body, cited=() if declined else cited, declined=declined)

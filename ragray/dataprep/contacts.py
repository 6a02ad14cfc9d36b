"""Advertising and contact lines: "Contact us at ...", "如需咨询请加微信 ...".

In: an answer and its question. Out: the answer without the sentences at its end that are nothing else. A sentence with
one word more ("拨打急救电话 120") stays, and so does everything where the question asks for a contact or where
nothing else answers.
"""

from __future__ import annotations

import re

from ragray.dataprep.normalize import tidy_spaces

_SENTENCE = re.compile(r"(?:[^。！？!?；;.]+|\.(?=\S))+(?:[。！？!?；;]+|\.|$)[”’\"')）】]*\s*")
_CHINESE_TRIGGERS = ("联系", "咨询", "热线", "微信", "电话", "客服", "来电", "扫码", "公众号")
_LATIN_TRIGGER = re.compile(
    "(?<![a-z\u00c0-\u024f])(?:qq|contact|call|e?mail|phone|tel|whatsapp|wechat|hotline)(?![a-z\u00c0-\u024f])"
)
_ASKED = re.compile(
    "联系|咨询|热线|微信|电话|客服|邮箱|地址|官网|QQ|contact|phone|e-?mail|call|reach|address|support|website|whom?|number",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"https?://[^\s，。；）)]+|www\.[^\s，。；）)]+|[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}|"
    r"(?:微信号?|wechat|vx|qq|QQ群?)[:： ]{0,3}[A-Za-z0-9_-]{5,20}|\+?\(?\d(?:[()（） -]{0,2}\d){6,15}",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    "联系方式|联系|取得|我们|本院|我院|本站|专家|医生|在线|电话|手机|号码|微信号?|公众号|二维码|扫码|扫一扫|客服|人员|"
    "进行咨询|咨询|热线|添加|关注|欢迎|来电|来院|拨打|随时|免费|详情|更多|信息|了解|点击|官网|网站|邮箱|邮件|发送|"
    "如果|如有|如需|若有|若需|任何|其他|其它|需要|疑问|疑虑|问题|帮助|协助|情况|进一步|直接|通过|这里|此处|一下|方便|"
    "可以|可|请|您|你|我|加|致电|至|到|与|和|或|的|也|再|有|打|为|及|时|本|QQ群?|号|群"
)
_ENGLISH = re.compile(
    r"\b(?:please|feel|free|to|contact|call|us|our|me|at|on|by|via|or|and|e-?mail|mail|phone|telephone|tel|fax|whatsapp|"
    r"wechat|hotline|toll|number|for|more|further|information|info|details|help|assistance|support|team|service|customer|"
    r"visit|website|web|site|page|the|you|can|have|any|other|questions?|if|with|today|now|here|online|anytime|directly)\b",
    re.IGNORECASE,
)
_US = re.compile(r"\b(?:contact|call|e-?mail|phone) (?:us|our (?:team|support|customer service))\b", re.IGNORECASE)
_SAYS_MORE = re.compile(r"[^\W_]")


def without_contacts(answer: str, question: str) -> str:
    """`answer` without contact lines and sentences."""
    if not _has_trigger(answer) or _ASKED.search(question):
        return answer
    lines = answer.split("\n")
    while lines and (not lines[-1].strip() or _has_trigger(lines[-1])):
        rest = _without_last_sentences(lines[-1])
        if rest.strip():
            lines[-1] = rest
            break
        lines.pop()
    cleaned = "\n".join(lines)
    return tidy_spaces(cleaned) if len(cleaned) < len(answer) and _SAYS_MORE.search(cleaned) else answer


def _without_last_sentences(line: str) -> str:
    """`line` up to its last sentence that is no contact; white space counts as none."""
    end = len(line)
    for match in reversed(list(_SENTENCE.finditer(line))):
        if match.end() < end or not is_contact(match[0]):
            break
        end = match.start()
    return line[:end]


def is_contact(sentence: str) -> bool:
    """Whether a sentence says how to get in touch and nothing else."""
    if not _has_trigger(sentence):
        return False
    rest, addresses = _ADDRESS.subn(" ", sentence)
    if not addresses and not _has_chinese(sentence) and not _US.search(sentence):
        return False
    return _SAYS_MORE.search(_ENGLISH.sub("", _CHINESE.sub("", rest))) is None


def _has_chinese(text: str) -> bool:
    return any(word in text for word in _CHINESE_TRIGGERS)


def _has_trigger(text: str) -> bool:
    return _has_chinese(text) or _LATIN_TRIGGER.search(text.lower()) is not None

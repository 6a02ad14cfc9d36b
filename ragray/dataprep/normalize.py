"""Text as people write it: one form for each character, no markup, no remnants of templates.

In: a raw text. Out: the same text for a reader. What changes meaning is left alone: superscripts, units,
Chinese punctuation, code between backticks, and `<name>` or `List<int>` that only look like HTML.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Mapping

from ragray.dataprep.language import has_han

Step = Callable[[str], str]
EVERYWHERE = frozenset({"", "mojibake", "invisible"})  # steps that see code, too

_TAGS = (
    "a|abbr|address|article|aside|b|big|blockquote|br|caption|center|code|col|colgroup|dd|del|details|div|dl|dt|em|"
    "figcaption|figure|font|footer|h1|h2|h3|h4|h5|h6|header|hr|i|iframe|img|ins|kbd|li|main|mark|nav|nobr|ol|p|pre|s|"
    "section|small|span|strike|strong|style|script|sub|summary|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul|var|wbr"
)
STANDALONE = frozenset(
    {"br", "hr", "img", "p", "li", "tr", "td", "th", "dt", "dd", "wbr", "col"}
)  # need no closing tag
_BLOCK = "p,div,hr,li,dt,dd,tr,h1,h2,h3,h4,h5,h6,blockquote,section,article,header,footer,figure,caption"
BLOCKS = frozenset(_BLOCK.split(",")) | {"br"}
INLINE = (
    "b",
    "strong",
    "i",
    "em",
    "u",
    "s",
    "span",
    "small",
    "big",
    "sub",
    "sup",
    "font",
    "mark",
    "abbr",
    "ul",
    "ol",
    "dl",
)
_SIMPLE_TAG = re.compile(
    rf"</?(?:{'|'.join(sorted(BLOCKS, key=len, reverse=True))}|{'|'.join(INLINE)})\s*/?>", re.IGNORECASE
)
_VALUE = r"\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>=]+)"
_TAG = re.compile(rf"<(/?)({_TAGS})((?:\s+[\w:@.-]+(?:{_VALUE})?)*\s*/?)>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")  # not "&region=cn" of an address
CODE = re.compile(
    r"^[^\S\n]*(?:```|~~~).*?^[^\S\n]*(?:```|~~~)[^\S\n]*$|(?P<ticks>(?<!`)`{1,2})[^\n]+?(?<!`)(?P=ticks)(?!`)",
    re.MULTILINE | re.DOTALL,
)
_ONE_TEMPLATE = r"(?:\{\{\{[^{}\n]{0,200}\}\}\}|\{\{[^{}\n]{0,200}\}\}|\{%[^\n]{0,200}?%\})"
_TEMPLATE = re.compile(
    rf"^[^\S\n]*(?:{_ONE_TEMPLATE}[^\S\n]*)+$|\{{\{{(?:<[^<>\n]{{0,200}}>|%[^%\n]{{0,200}}%)\}}\}}", re.MULTILINE
)
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ue000\ue001]"
)
_INVISIBLE_BUT_MARKS = re.compile(INVISIBLE.pattern.replace("\ue000\ue001", ""))
LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_HELD = re.compile("\ue000(\\d+)\ue001")
_CHINESE_PUNCTUATION = "！（），：；？～"
_OPEN, _CLOSE = "\ue000", "\ue001"
_HELD_WHOLE = re.compile("(\ue000\\d+\ue001)")
_MOJIBAKE = re.compile(r"[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6-\u02dc\u2013-\u203a\u20ac\u2122]")
_KEPT = "℃℉…‥ﬀ"
_KEPT_FORMS = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>", "<small>", "<vertical>")


def clean_text(text: str) -> str:
    """`text` without markup, control characters and template remnants, in normal form, with tidy white space."""
    return run_steps(text, TEXT_STEPS)[0]


def run_steps(text: str, steps: Mapping[str, Step]) -> tuple[str, list[str]]:
    """`text` after the steps, in their order, and the names of those that changed it.

    All but `EVERYWHERE` leave code (fenced, or between backticks) as it is.
    """
    changed: list[str] = []
    code: list[str] | None = None
    for name, step in {"": _without_marks, **steps}.items():
        before = (text, tuple(code or ()))
        if name in EVERYWHERE:
            code = [step(piece) for piece in code] if code else code
        elif code is None:
            text, code = _hold_code(text)
            before = (text, tuple(code))
        text = step(text)
        if name == "html" and code is not None and "```" in text:  # from <pre>
            text, more = _hold_code(text, len(code))
            code += more
        if (text, tuple(code or ())) != before:
            changed.append(name or "invisible")
    whole = _HELD.sub(lambda match: (code or [])[int(match[1])], text) if code else text
    stripped = whole.strip()
    if len(stripped) != len(whole):
        changed.append("whitespace")
    return stripped, list(dict.fromkeys(changed))


def clean_line(text: str) -> str:
    """`clean_text` on one line: the form of a question or a title."""
    return " ".join(clean_text(text).split())


def normal_form(text: str) -> str:
    """Unicode NFKC except where it would change meaning or Chinese typography.

    Full-width letters, digits and signs become half-width; `²`, `½`, `①`, `℃`, `㎡` and `…` stay, and so do
    `！（），：；？～` in a text with Chinese characters.
    """
    if text.isascii():
        return text
    table = compatibility_table()
    if has_han(text):
        table = chinese_table()
    return unicodedata.normalize("NFC", text.translate(table))


def tidy_spaces(text: str) -> str:
    """One space between words, no space at line ends, at most one blank line."""
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def remove_invisible(text: str) -> str:
    """`text` with "\\n" line breaks and without control and zero-width characters."""
    return INVISIBLE.sub("", LINE_BREAK.sub("\n", text))


def repair_mojibake(text: str) -> str:
    """UTF-8 that was read as a one-byte encoding, read again; a text without its marks is returned as it is."""
    if not _MOJIBAKE.search(text):
        return text
    from ftfy import fix_encoding

    return fix_encoding(text)


def without_markup(text: str) -> str:
    """The text of an HTML fragment, entities resolved; what only looks like HTML is left as it is."""
    text = _without_tags(text)
    if "&" not in text:
        return text
    # What stands for code is not part of an entity, and an entity must not come to stand for code.
    pieces = _HELD_WHOLE.split(text)
    pieces[::2] = [remove_invisible(_resolved(piece)) if "&" in piece else piece for piece in pieces[::2]]
    return "".join(pieces)


def _resolved(text: str) -> str:
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text)


def without_templates(text: str) -> str:
    """`text` without remnants of Jinja, Liquid, Mustache or Hugo that fill a line, and Hugo's shortcodes anywhere.

    Within a line `{{ name }}` may be what the text is about.
    """
    return _TEMPLATE.sub("", text) if "{" in text else text


def _invisible_step(text: str) -> str:
    return _INVISIBLE_BUT_MARKS.sub("", LINE_BREAK.sub("\n", text))


def _without_marks(text: str) -> str:
    """`text` without the two private characters that stand for held code."""
    return text.replace(_OPEN, "").replace(_CLOSE, "") if _OPEN in text or _CLOSE in text else text


def _hold_code(text: str, held: int = 0) -> tuple[str, list[str]]:
    """`text` with a mark in the place of each piece of code, and the pieces; `held` of them have marks already."""
    code: list[str] = []
    if "`" not in text and "~~~" not in text:
        return text, code

    def hold(match: re.Match[str]) -> str:
        code.append(match[0])
        return f"{_OPEN}{held + len(code) - 1}{_CLOSE}"

    return CODE.sub(hold, text), code


def _without_tags(text: str) -> str:
    """The text of an HTML fragment; a text without real tags is returned as it is."""
    if "<" not in text:
        return text
    found = [(match, _is_markup(match, text)) for match in _TAG.finditer(text)]
    if not any(is_markup for _, is_markup in found):
        return text
    if all(_SIMPLE_TAG.fullmatch(match[0]) for match, is_markup in found if is_markup):
        shown = iter([_shown_tag(match) if is_markup else match[0] for match, is_markup in found])
        return _TAG.sub(lambda match: next(shown), text)
    pieces, end = [], 0
    for match, is_markup in found:
        pieces.append(text[end : match.start()].replace("<", "&lt;"))
        pieces.append(match[0] if is_markup else match[0].replace("<", "&lt;"))
        end = match.end()
    pieces.append(text[end:].replace("<", "&lt;"))
    return _text_of("".join(pieces))


def _shown_tag(match: re.Match[str]) -> str:
    """What a tag without attributes is to a reader: a new line, or nothing."""
    return "\n" if match[2].lower() in BLOCKS else ""


def _text_of(fragment: str) -> str:
    from selectolax.lexbor import LexborHTMLParser

    # "&" is doubled so that entities are resolved once, by the caller, for marked and unmarked text alike.
    tree = LexborHTMLParser(re.sub("&(?!lt;)", "&amp;", fragment))
    body = tree.body
    if body is None:
        return ""
    for node in body.css("script,style"):
        node.decompose()
    for node in body.css("pre"):
        node.insert_before("\n```\n")
        node.insert_after("\n```\n")
    for node in body.css("a[href^=http]"):
        address = node.attributes["href"] or ""
        if address not in node.text():
            node.insert_after(f" ({address})")
    for node in body.css("td,th"):
        node.insert_after(" ")
    for node in body.css(_BLOCK):
        node.insert_before("\n")
        node.insert_after("\n")
    for node in body.css("br"):
        node.insert_before("\n")
    return str(body.text())


def _is_markup(match: re.Match[str], text: str) -> bool:
    """Whether a tag-like piece is HTML: a comment, a tag with attributes, or one that is also closed."""
    name = match[2]
    if name is None or "=" in match[3] or match[3].endswith("/"):
        return True
    if name.lower() in STANDALONE:
        return match.start() == 0 or not (text[match.start() - 1].isalnum() and len(name) == 1 and not match[1])
    other = rf"<{name}[\s/>]" if match[1] else f"</{name}>"
    return re.search(other, text, re.IGNORECASE) is not None


@functools.cache
def compatibility_table() -> dict[int, str]:
    """NFKC of each character that it changes, except those that must stay."""
    table = {}
    for code in range(0xA0, 0x20000):
        char = chr(code)
        form = unicodedata.decomposition(char)
        if not form.startswith("<") or form.startswith(_KEPT_FORMS) or char in _KEPT:
            continue
        normal = unicodedata.normalize("NFKC", char)
        if normal != char and not (normal.startswith(" ") and len(normal) > 1):  # a spacing accent
            table[code] = normal
    return table


@functools.cache
def chinese_table() -> dict[int, str]:
    """`compatibility_table` for a text with Chinese characters."""
    return {code: form for code, form in compatibility_table().items() if chr(code) not in _CHINESE_PUNCTUATION}


TEXT_STEPS: Mapping[str, Step] = {
    "invisible": _invisible_step,
    "html": without_markup,
    "templates": without_templates,
    "unicode": normal_form,
    "whitespace": tidy_spaces,
}

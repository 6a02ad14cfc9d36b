"""Filters: is a cleaned text worth keeping?

In: a text. Out: None to keep it, or a reason code and one sentence that says why not. The rules are Gopher's (Rae et
al. 2021, "Scaling Language Models", table A1) and C4's (Raffel et al. 2020, section 2.2), adapted: a word is a run of
letters and digits, or one Chinese character; n-grams of Chinese are twice as long; a short text may repeat itself.
"""

from __future__ import annotations

import re
from collections import Counter

from ragray.config_data import CleanConfig, RepetitionConfig
from ragray.dataprep.language import HAN
from ragray.dataprep.normalize import CODE

Verdict = tuple[str, str] | None

MARKS = frozenset(".,;:!?'\"()-/，。、；：？！“”‘’（）《》〈〉【】「」『』—–…·～")  # a text may be full of these
FREE_MARKERS = 3  # hash signs and ellipses that any text may have
MIN_REPEATS = 3  # of the most frequent n-gram
MIN_LINES = 4
MIN_LINE_CHARS = 20  # a shorter one ("Click Save.") may be needed twice
TOP_SIZES, REPEAT_SIZES = (2, 3, 4), (5, 6, 7, 8, 9, 10)

_WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
_HAN = re.compile(f"[{HAN}]")
_SIGN = re.compile(rf"[^\w\s{re.escape(''.join(sorted(MARKS)))}]|_")
_HASH = re.compile(r"(?<![\w*#\n])#+(?![\w*#])")
_ELLIPSIS = re.compile(r"\.\.\.|…")
_FENCED = re.compile(r"^[^\S\n]*(?:```|~~~).*?^[^\S\n]*(?:```|~~~)[^\S\n]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\w+://[^\s，。；）)]+|(?<=\])\([^()\s]*\)")
_CUT = "\x00"  # no cleaned text has it
_PLACEHOLDER = re.compile(r"\blorem ipsum\b", re.IGNORECASE)


def verdict(name: str, text: str, settings: CleanConfig) -> Verdict:
    """The first filter's answer that is not "keep". `name` is "question" or "answer"."""
    return (
        symbols(name, text, settings.max_symbol_share)
        or _markers(name, text, settings.max_marker_share)
        or (("placeholder", f"the {name} is placeholder text (lorem ipsum)") if _PLACEHOLDER.search(text) else None)
        or repeats(name, text, settings)
    )


def repeats(name: str, text: str, settings: CleanConfig) -> Verdict:
    """The answer of the filters of repeated lines and n-grams."""
    return _repeated_lines(name, text, settings.repetition) or _repeated_ngrams(name, text, settings.repetition)


def prose_of(text: str) -> list[str]:
    """The pieces of `text` between code and addresses: options and paths repeat, and that is no noise."""
    if "`" not in text and "~~~" not in text and "://" not in text and "](" not in text:
        return [text]
    return [piece for part in CODE.sub(_CUT, text).split(_CUT) for piece in _LINK.split(part)]


def symbols(name: str, text: str, limit: float) -> Verdict:
    """More signs than letters, as in a table's rest or a row of stars. Code has fewer."""
    prose = CODE.sub(" ", text) if "`" in text or "~~~" in text else text
    share = len(_SIGN.findall(prose)) / max(1, len("".join(prose.split())))
    if share <= limit:
        return None
    return "symbols", f"{share:.0%} of the {name} are signs, data.clean.max_symbol_share is {limit:.0%}"


def _markers(name: str, text: str, limit: float) -> Verdict:
    """Hash signs and ellipses for each word (Gopher: 0.1), where there are more than `FREE_MARKERS`.

    A heading's mark, `C#`, `#21#` and a colour are none.
    """
    found = len(_HASH.findall(text)) + (len(_ELLIPSIS.findall(text)) if "…" in text or ".." in text else 0)
    if found <= FREE_MARKERS:
        return None
    words = len(_WORD.findall(text))
    if found <= limit * words:
        return None
    return "markers", f"the {name} has {found} # and ellipses for {words} words, data.clean.max_marker_share is {limit}"


def _repeated_lines(name: str, text: str, limits: RepetitionConfig) -> Verdict:
    unfenced = _FENCED.sub("", text) if "```" in text or "~~~" in text else text
    lines = [line.strip() for line in unfenced.split("\n") if _WORD.search(line)]
    if len(lines) < MIN_LINES:
        return None
    seen: set[str] = set()
    repeated = [
        line
        for line in lines
        if len(line) >= MIN_LINE_CHARS and (line in seen or seen.add(line))  # type: ignore[func-returns-value]
    ]
    share, chars = len(repeated) / len(lines), sum(map(len, repeated)) / sum(map(len, lines))
    for part, limit, setting in ((share, limits.lines, "lines"), (chars, limits.line_chars, "line_chars")):
        if part > limit:
            what = "lines" if setting == "lines" else "characters"
            return "repeated_lines", (
                f"{part:.0%} of the {name}'s {what} repeat a line, data.clean.repetition.{setting} is {limit:.0%}"
            )
    return None


def _repeated_ngrams(name: str, text: str, limits: RepetitionConfig) -> Verdict:
    words = _WORD.findall(text)
    scale = ngram_scale(sum(map(len, filter(_HAN.match, words))), len(words))
    if len(words) < limits.min_words * scale:
        return None
    pieces, chars = [_WORD.findall(piece) for piece in prose_of(text)], sum(map(len, words))
    for setting, sizes, shares, measure in (
        ("top_ngrams", TOP_SIZES, limits.top_ngrams, _top_chars),
        ("ngrams", REPEAT_SIZES, limits.ngrams, _repeated_chars),
    ):
        for size, limit in zip(sizes, shares, strict=False):
            share = measure(pieces, size * scale) / chars
            if share > limit:
                return "repeated_words", (
                    f"{share:.0%} of the {name} are repeated sequences of {size * scale} words, "
                    f"data.clean.repetition.{setting} allows {limit:.0%}"
                )
            if not share:  # nor are longer n-grams repeated
                break
    return None


def ngram_scale(han: int, words: int) -> int:
    """By what n is multiplied: 2 where most words are Chinese characters, of which a Chinese word has about two."""
    return 2 if 2 * han > words else 1


def _top_chars(pieces: list[list[str]], n: int) -> int:
    """Characters in the n-gram that, with all its repetitions, takes the most of the text."""
    counts = Counter(gram for words in pieces for gram in _ngrams(words, n))
    return max((count * sum(map(len, gram)) for gram, count in counts.items() if count >= MIN_REPEATS), default=0)


def _repeated_chars(pieces: list[list[str]], n: int) -> int:
    """Characters in n-grams that were there before, each character counted once."""
    grams = [_ngrams(words, n) for words in pieces]
    if len(set().union(*grams)) == sum(map(len, grams)):
        return 0
    seen: set[tuple[str, ...]] = set()
    repeated = 0
    for listed in grams:
        place = 0
        while place < len(listed):
            if listed[place] in seen:
                repeated += sum(map(len, listed[place]))
                place += n
            else:
                seen.add(listed[place])
                place += 1
    return repeated


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[k:] for k in range(n)), strict=False))

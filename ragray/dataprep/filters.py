"""Filters: is a cleaned text worth keeping?

In: a text. Out: None to keep it, or a reason code and one sentence that says why not. The rules are Gopher's (Rae et
al. 2021, "Scaling Language Models", table A1) and C4's (Raffel et al. 2020, section 2.2), adapted: a word is a run of
letters and digits, or one Chinese character; n-grams of Chinese are twice as long; a short text may repeat itself.
"""

from __future__ import annotations

import re
from collections import Counter

from ragray.config import CleanConfig, RepetitionConfig
from ragray.dataprep.language import HAN
from ragray.dataprep.normalize import CODE

Verdict = tuple[str, str] | None

MARKS = frozenset(".,;:!?'\"()-/，。、；：？！“”‘’（）《》〈〉【】「」『』—–…·～")  # a text may be full of these
MIN_REPEATS = 3  # of the most frequent n-gram
MIN_LINES = 4
TOP_SIZES, REPEAT_SIZES = (2, 3, 4), (5, 6, 7, 8, 9, 10)

_WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
_HAN = re.compile(f"[{HAN}]")
_ELLIPSIS = re.compile(r"\.\.\.|…")
_LINK = re.compile(r"\w+://[^\s，。；）)]+|(?<=\])\([^()\s]*\)")
_PLACEHOLDER = re.compile(r"\blorem ipsum\b", re.IGNORECASE)


def verdict(name: str, text: str, settings: CleanConfig) -> Verdict:
    """The first filter's answer that is not "keep". `name` is "question" or "answer"."""
    words = _WORD.findall(text)
    prose = without_code_and_links(text)
    prose_words = words if prose is text else _WORD.findall(prose)
    return (
        _symbols(name, text, settings.max_symbol_share)
        or _markers(name, text, len(words), settings.max_marker_share)
        or (("placeholder", f"the {name} is placeholder text (lorem ipsum)") if _PLACEHOLDER.search(text) else None)
        or _repeated_lines(name, prose, settings.repetition)
        or _repeated_ngrams(name, prose_words, settings.repetition)
    )


def without_code_and_links(text: str) -> str:
    """`text` without code and addresses: options and paths repeat, and that is no noise."""
    if "`" not in text and "~~~" not in text and "://" not in text and "](" not in text:
        return text
    return _LINK.sub(" ", CODE.sub(" ", text))


def _symbols(name: str, text: str, limit: float) -> Verdict:
    """More signs than letters, as in a table's rest or a row of stars. Code has fewer."""
    chars = "".join(text.split())
    share = sum(not char.isalnum() and char not in MARKS for char in chars) / max(1, len(chars))
    if share <= limit:
        return None
    return "symbols", f"{share:.0%} of the {name} are signs, data.clean.max_symbol_share is {limit:.0%}"


def _markers(name: str, text: str, words: int, limit: float) -> Verdict:
    """Hash signs and ellipses for each word (Gopher: 0.1); three of them are always allowed."""
    found = text.count("#") + len(_ELLIPSIS.findall(text)) if "#" in text or "…" in text or ".." in text else 0
    if found <= 3 or found <= limit * words:
        return None
    return "markers", f"the {name} has {found} # and ellipses for {words} words, data.clean.max_marker_share is {limit}"


def _repeated_lines(name: str, text: str, limits: RepetitionConfig) -> Verdict:
    lines = [line.strip() for line in text.split("\n") if _WORD.search(line)]
    if len(lines) < MIN_LINES:
        return None
    seen: set[str] = set()
    repeated = [line for line in lines if line in seen or seen.add(line)]  # type: ignore[func-returns-value]
    share, chars = len(repeated) / len(lines), sum(map(len, repeated)) / sum(map(len, lines))
    for part, limit, setting in ((share, limits.lines, "lines"), (chars, limits.line_chars, "line_chars")):
        if part > limit:
            what = "lines" if setting == "lines" else "characters"
            return "repeated_lines", (
                f"{part:.0%} of the {name}'s {what} repeat a line, data.clean.repetition.{setting} is {limit:.0%}"
            )
    return None


def _repeated_ngrams(name: str, words: list[str], limits: RepetitionConfig) -> Verdict:
    scale = ngram_scale(sum(map(len, filter(_HAN.match, words))), len(words))
    if len(words) < limits.min_words * scale:
        return None
    for setting, sizes, shares, measure in (
        ("top_ngrams", TOP_SIZES, limits.top_ngrams, _top_share),
        ("ngrams", REPEAT_SIZES, limits.ngrams, _repeated_share),
    ):
        for size, limit in zip(sizes, shares, strict=False):
            share = measure(words, size * scale)
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


def _top_share(words: list[str], n: int) -> float:
    """Share of characters in the n-gram that, with all its repetitions, takes the most of the text."""
    counts = Counter(zip(*(words[k:] for k in range(n)), strict=False))
    most = max((count * sum(map(len, gram)) for gram, count in counts.items() if count >= MIN_REPEATS), default=0)
    return most / sum(map(len, words))


def _repeated_share(words: list[str], n: int) -> float:
    """Share of characters in n-grams that were there before, each character counted once."""
    grams = list(zip(*(words[k:] for k in range(n)), strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = place = 0
    while place < len(grams):
        if grams[place] in seen:
            repeated += sum(map(len, grams[place]))
            place += n
        else:
            seen.add(grams[place])
            place += 1
    return repeated / sum(map(len, words))

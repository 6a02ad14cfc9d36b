"""What the counts of `scan` say of a record, in compiled code: its language, its script, and what may refuse it.

In: `scan`'s counts of questions and of answers. Out: for each record numbers in `LANGUAGES` and `SCRIPTS`, and whether
a filter may refuse it. The languages are those of `clean.language_of`, for every record.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ragray.compiled import inlined, kernel
from ragray.config_data import CleanConfig
from ragray.dataprep.clean import language_of
from ragray.dataprep.filters import FREE_MARKERS
from ragray.dataprep.language import HAN_SHARE, LATIN_SHARE, OTHER_SHARE, reads_english
from ragray.dataprep.scan import (
    ACCENTED,
    BLANKS,
    CHARS,
    DIGITS,
    ENGLISHES,
    F_AT,
    F_CODE,
    F_CONTACT,
    F_LINK,
    F_SLOW,
    F_STRONG_CONTACT,
    F_WEB,
    FLAGS,
    FOREIGNS,
    HANS_CHARS,
    KANAS,
    LATIN_WORDS,
    LATINS,
    LETTERS,
    MARKERS,
    SYMBOLS,
    TRADITIONAL,
    WORDS,
    Counts,
)  # fmt: skip

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int8]

LANGUAGES = ("other", "en", "zh")
SCRIPTS = ("", "Hans", "Hant")

_OTHER, _ENGLISH, _CHINESE = range(3)
_NOT_GIVEN = -1
_CONTACT_DIGITS = 7  # of a telephone number
_reads_english = inlined(reads_english)


def languages(given: pa.Array, question: Counts, answer: Counts) -> tuple[Numbers, Numbers]:
    """(number in `LANGUAGES`, number in `SCRIPTS`) of each record.

    Args:
        given: the languages that a column gives, "" where it gives none.
        question: of the questions.
        answer: of the answers.
    """
    lang, script = np.full(len(question), _NOT_GIVEN, np.int8), np.zeros(len(question), np.int8)
    if pc.any(pc.not_equal(given, "")).as_py():
        codes = given.dictionary_encode()
        named = [language_of(code, "", "") if code else "" for code in codes.dictionary.to_pylist()]
        known = np.array([LANGUAGES.index(name) if name else _NOT_GIVEN for name in named], np.int8)
        lang = known[np.asarray(codes.indices)]
    _name(question, answer, lang, script)
    return lang, script


def may_be_refused(question: Counts, answer: Counts, lang: Numbers, settings: CleanConfig) -> Mask:
    """bool [records]: which a filter may refuse, or cannot be judged from these counts."""
    refused: Mask = ~np.array([name in settings.languages for name in LANGUAGES])[lang]
    for found, shortest, longest in (
        (question, settings.min_question_chars, settings.max_question_chars),
        (answer, settings.min_answer_chars, settings.max_answer_chars),
    ):
        _refuse(found, shortest, longest, float(settings.max_symbol_share), float(settings.max_marker_share), refused)
    return refused


def has_signs_and_code(found: Counts) -> Mask:
    """bool [texts]: which have code, and signs that may be outside of it: code is not judged."""
    both: Mask = (found[:, FLAGS] & F_CODE > 0) & (found[:, SYMBOLS] > 0)
    return both


def may_be_contact(found: Counts) -> Mask:
    """bool [texts]: which may have a line that only says how somebody is reached."""
    flags = found[:, FLAGS]
    address = (flags & (F_AT | F_WEB | F_LINK) > 0) | (found[:, DIGITS] >= _CONTACT_DIGITS)
    contact: Mask = (flags & F_STRONG_CONTACT > 0) | ((flags & F_CONTACT > 0) & address)
    return contact


@inlined
def _language(found: npt.NDArray[np.int32]) -> int:
    """`language.detect_language` from the counts of one text."""
    latin, han, kana = found[LATINS], found[HANS_CHARS], found[KANAS]
    letters = latin + han + kana + found[LETTERS]
    lang = _OTHER
    if letters > 0 and kana < OTHER_SHARE * letters:
        if han >= HAN_SHARE * letters:
            lang = _CHINESE
        elif latin >= LATIN_SHARE * letters and _reads_english(
            found[LATIN_WORDS], found[ENGLISHES], found[FOREIGNS], found[ACCENTED], letters
        ):
            lang = _ENGLISH
    return lang


@kernel
def _name(question: Counts, answer: Counts, lang: Numbers, script: Numbers) -> None:
    for row in range(len(question)):
        found = np.int64(lang[row])
        if found == _NOT_GIVEN:
            found = _language(question[row])
            if found == _OTHER:
                found = _language(answer[row])
            lang[row] = found
        if found == _CHINESE:
            script[row] = 2 if question[row, TRADITIONAL] + answer[row, TRADITIONAL] > 0 else 1


@kernel
def _refuse(
    found: Counts, shortest: int, longest: int, symbol_share: float, marker_share: float, refused: Mask
) -> None:  # fmt: skip
    """Set what these texts may be refused for."""
    for row in range(len(found)):
        one = found[row]
        chars, says = one[CHARS], one[LATINS] + one[HANS_CHARS] + one[KANAS] + one[LETTERS] + one[DIGITS]
        refused[row] |= (
            (chars < shortest) | (chars > longest) | (says == 0) | ((one[FLAGS] & F_SLOW) != 0)
            | (one[SYMBOLS] > symbol_share * max(1, chars - one[BLANKS]))
            | ((one[MARKERS] > FREE_MARKERS) & (one[MARKERS] > marker_share * one[WORDS]))
        )  # fmt: skip

"""Slips of typing: neighbouring keys, characters that sound alike, letters of another width.

In: a question and a source of randomness. Out: the question as hurried or careless people type it, or unchanged
where the rule does not apply. Longer questions get more slips, about one for every twenty letters or eight Chinese
characters.
"""

from __future__ import annotations

import functools
import re
from random import Random

from ragray.dataprep.wording import word_table

_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_SHIFTS = (0.0, 0.5, 0.75, 1.25)  # of each row to the right, in keys, on a standard keyboard
_LETTER = re.compile(r"(?<=[a-z])[a-z]")  # never the first of a word, and none of an abbreviation
_HAN = re.compile("[\u4e00-\u9fff]")
_WORD = re.compile(r"[A-Za-z']+")
_ASCII_RUN = re.compile(r"[!-~]+")
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_NARROW_MARKS = str.maketrans("，。？！：；（）“”、", ',.?!:;()"",')
_LETTERS_PER_SLIP, _HAN_PER_SLIP = 20, 8

_ALIKE = word_table(
    """
to: too, two; too: to; two: to; for: four; four: for; there: their; their: there; your: you're; its: it's
by: buy; buy: by; know: no; no: know; new: knew; right: write; write: right; read: red; hear: here; here: hear
where: wear; which: witch; whether: weather; than: then; then: than; weights: waits; weight: wait; wait: weight
byte: bite; bytes: bites; site: sight; route: root; root: route; cache: cash; kernel: colonel; queue: cue
break: brake; mail: male; whole: hole; hole: whole; piece: peace; past: passed; passed: past; cell: sell; sell: cell
see: sea; seen: scene; week: weak; one: won; our: hour; hour: our; eight: ate; would: wood; some: sum; sum: some
plain: plane; principal: principle; affect: effect; effect: affect; lose: loose; accept: except; tokens: toque ins
through: threw; threads: treads; sequence: sequins; allowed: aloud; made: maid; main: mane; meet: meat; wear: where
"""
)


@functools.cache
def _neighbours() -> dict[str, str]:
    """For each letter the letters and digits whose keys touch its key."""
    places = {
        key: (column + shift, row)
        for row, (keys, shift) in enumerate(zip(_ROWS, _SHIFTS, strict=True))
        for column, key in enumerate(keys)
    }
    return {
        key: "".join(o for o, (u, v) in places.items() if o != key and abs(y - v) <= 1 and abs(x - u) <= 1)
        for key, (x, y) in places.items()
        if key.isalpha()
    }


def keyboard(question: str, chance: Random) -> str:
    """With letters struck on, or beside, a key next to the right one."""
    places = [match.start() for match in _LETTER.finditer(question)]
    for at in _chosen(places, _LETTERS_PER_SLIP, chance):
        wrong = chance.choice(_neighbours()[question[at]])
        right = question[at]
        question = question[:at] + chance.choice((wrong, right + wrong, wrong + right)) + question[at + 1 :]
    return question


def homophones_en(question: str, chance: Random) -> str:
    """With one or two words replaced by others that sound alike."""
    places = [match for match in _WORD.finditer(question) if match[0].lower() in _ALIKE]
    chosen = chance.sample(range(len(places)), min(len(places), chance.randint(1, 2)))
    for number in sorted(chosen, reverse=True):
        match = places[number]
        question = question[: match.start()] + chance.choice(_ALIKE[match[0].lower()]) + question[match.end() :]
    return question


@functools.cache
def _by_sound() -> dict[str, str]:
    """The characters of each syllable with its tone.

    Only the 3,755 frequent ones of GB 2312, level 1 (rows 16 to 55), as an input method would offer them.
    """
    from pypinyin import Style, pinyin

    codes = (bytes((row + 0xA0, cell + 0xA0)) for row in range(16, 56) for cell in range(1, 95))
    characters = [code.decode("gb2312", "ignore") for code in codes]
    table: dict[str, str] = {}
    for character in filter(None, characters):
        sound = pinyin(character, style=Style.TONE3)[0][0]
        table[sound] = table.get(sound, "") + character
    return table


def homophones_zh(question: str, chance: Random) -> str:
    """With characters replaced by frequent ones of the same syllable and tone, as read in this question."""
    from pypinyin import Style, pinyin

    places = [match.start() for match in _HAN.finditer(question)]
    sounds = {at: pinyin(question[at], style=Style.TONE3)[0][0] for at in places}
    runs = re.finditer("[\u4e00-\u9fff]+", question)
    for run in runs:  # words decide how a character is read
        for at, (sound,) in enumerate(pinyin(run[0], style=Style.TONE3), run.start()):
            sounds[at] = sound
    others = {at: _by_sound().get(sounds[at], "").replace(question[at], "") for at in places}
    for at in _chosen([at for at in places if others[at]], _HAN_PER_SLIP, chance):
        question = question[:at] + chance.choice(others[at]) + question[at + 1 :]
    return question


def width_en(question: str, chance: Random) -> str:
    """With full-width letters, digits or marks, as a Chinese input method leaves them."""
    runs = list(_ASCII_RUN.finditer(question))
    if not runs:
        return question
    match = chance.choice(runs)
    marks = question.translate({ord(mark): _WIDE[ord(mark)] for mark in "?!,:;()"})
    wide = question[: match.start()] + match[0].translate(_WIDE) + question[match.end() :]
    return chance.choice([form for form in (marks, wide) if form != question])


def width_zh(question: str, chance: Random) -> str:
    """With full-width letters and digits, or half-width marks, inside Chinese text."""
    forms = {question.translate(_WIDE), question.translate(_NARROW_MARKS)} - {question}
    return chance.choice(sorted(forms)) if forms else question


def _chosen(places: list[int], per_slip: int, chance: Random) -> list[int]:
    """Some of the places, the last first."""
    count = max(1, round(len(places) / per_slip))
    return sorted(chance.sample(places, min(len(places), count)), reverse=True)

"""Words and synonyms that a user gives the analyzer: read, checked, and cut into rules.

In: a UTF-8 file, or the lines of one. Out: lines without comments, and `SynonymRule`. Settings hold what was read,
never the path: an index that records its settings can be opened when the file has changed or is gone.

    a dictionary, one word a line       synonyms, one rule a line
    K8s集群                             GPU, 显卡, graphics card        # all the same
    湖仓一体                            notebook => laptop computer     # the left is read as the right
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

MOST_BYTES = 1 << 20  # of one file: an index records it twice
LONGEST = 64  # characters of a word or phrase, as of a term
_COMMA = re.compile("[,，、]")
_ARROW = "=>"


class SynonymRule(NamedTuple):
    """What one line of synonyms says."""

    line: str
    phrases: tuple[str, ...]  # each of them is read as `right`; where that is empty, all mean the same
    right: tuple[str, ...]


def read_lines(path: Path, where: str) -> tuple[str, ...]:
    """The lines of a file, without empty ones and those that begin with `#`.

    Args:
        path: a UTF-8 file of at most 1 MiB.
        where: the setting that names it, for errors.

    Raises:
        ValueError: it cannot be used; the message says why, and what to do.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{where}: {path} is a folder; name a text file in it")
        if path.exists() and not path.is_file():
            raise ValueError(f"{where}: {path} is not a plain file; name a text file")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{where}: {path} has more than {MOST_BYTES:,} bytes; leave out what texts do not hold")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{where}: {path}: no such file; paths are relative to the working directory") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {path} is not UTF-8 at byte {error.start:,}; save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{where}: {path} cannot be read: {error.strerror}; name a readable file") from None
    lines = [line.strip() for line in text.splitlines()]
    return tuple(line for line in lines if line and not line.startswith("#"))


def check_words(words: Iterable[str], where: str) -> tuple[str, ...]:
    """Words of a dictionary, each once.

    Raises:
        ValueError: one is empty, too long or holds white space; or they are too many.
    """
    found = tuple(dict.fromkeys(word.strip() for word in words))
    _check_size(found, where)
    for word in found:
        _check_length(word, word, where)
        if len(word.split()) > 1:
            raise ValueError(
                f"{where}: {word!r} holds white space; write one word a line, without frequency or tag, and phrases "
                "in retrieval.analyzer.synonyms"
            )
    return found


def check_synonyms(lines: Iterable[str], where: str) -> tuple[str, ...]:
    """Lines of synonyms.

    Raises:
        ValueError: one cannot be read, or two contradict each other.
    """
    found = tuple(line.strip() for line in lines)
    _check_size(found, where)
    line_of: dict[str, str] = {}
    rules = [synonym_rule(line, where) for line in found]
    for rule in rules:
        for phrase in rule.phrases:
            other = line_of.setdefault(_folded(phrase), rule.line)
            if other != rule.line:
                raise ValueError(contradiction(where, phrase, other, rule.line))
    rewritten = {_folded(phrase): rule for rule in rules if rule.right for phrase in rule.phrases}
    for rule in rules:
        for phrase in rule.right:
            if (other_rule := rewritten.get(_folded(phrase), rule)) != rule:
                raise ValueError(chain(where, phrase, rule.line, other_rule.line))
    return found


def synonym_rule(line: str, where: str) -> SynonymRule:
    """The rule of one line.

    Raises:
        ValueError: it cannot be read.
    """
    left, *right = line.split(_ARROW)
    if len(right) > 1:
        raise ValueError(f"{where}: {line!r} has two {_ARROW}; write one rule a line")
    phrases, others = _phrases(left, line, where), _phrases(right[0], line, where) if right else ()
    if not right and len(phrases) < 2:
        raise ValueError(f"{where}: {line!r} is one phrase; write at least two with a comma between, or a {_ARROW} b")
    if {_folded(phrase) for phrase in phrases} == {_folded(phrase) for phrase in others}:
        raise ValueError(f"{where}: {line!r} reads a phrase as itself; leave it out")
    return SynonymRule(line, phrases, others)


def contradiction(where: str, phrase: str, one: str, other: str) -> str:
    """Says that two lines begin with the same phrase."""
    return f"{where}: {phrase!r} is in two lines, {one!r} and {other!r}; write it in one of them, or make them one"


def chain(where: str, phrase: str, one: str, other: str) -> str:
    """Says that a line leads to a phrase that another line leads away from."""
    return (
        f"{where}: {one!r} leads to {phrase!r}, which {other!r} reads as something else; write what is meant at the "
        "right of both, or `a, b` where they mean the same"
    )


def _phrases(part: str, line: str, where: str) -> tuple[str, ...]:
    found = tuple(" ".join(phrase.split()) for phrase in _COMMA.split(part))
    for phrase in found:
        _check_length(phrase, line, where)
    if len({_folded(phrase) for phrase in found}) < len(found):
        raise ValueError(f"{where}: {line!r} names a phrase twice; write it once")
    return found


def _check_length(phrase: str, line: str, where: str) -> None:
    if not phrase:
        raise ValueError(f"{where}: {line!r} has an empty place; write a word there, or leave it out")
    if len(phrase) > LONGEST:
        raise ValueError(f"{where}: {phrase[:20] + '...'!r} has {len(phrase):,} characters; write at most {LONGEST}")


def _check_size(lines: Sequence[str], where: str) -> None:
    if sum(len(line.encode()) + 1 for line in lines) > MOST_BYTES + 1:
        raise ValueError(f"{where}: more than {MOST_BYTES:,} bytes; leave out what texts do not hold")


def _folded(phrase: str) -> str:
    return unicodedata.normalize("NFKC", phrase).lower()

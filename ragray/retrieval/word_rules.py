"""What a user's dictionary and synonyms change in how text becomes terms.

In: settings, and the analyzer that reads their words as it reads texts. Out: `WordRules`. They are made in three steps,
because phrases of synonyms may hold words of the dictionary, and the right of a rewriting may name a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ragray.config import AnalyzerConfig
from ragray.config_words import SynonymRule, chain, contradiction, synonym_rule
from ragray.errors import ConfigError
from ragray.retrieval.phrases import Phrases, Told, Units, is_chinese

_DICTIONARY, _SYNONYMS = "retrieval.analyzer.dictionary", "retrieval.analyzer.synonyms"
_LEAVE_OUT = "leave it out, or write it as texts hold it between other words"
_CORRECT = "correct one of the lines"


@dataclass(frozen=True, slots=True)
class WordRules:
    """Which words and phrases stand for other terms than they would by themselves."""

    words: Phrases = field(default_factory=lambda: Phrases({}))  # of Chinese characters, not to be cut
    singles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # other single words -> what they stand for
    phrases: Phrases = field(default_factory=lambda: Phrases({}))  # all others, and `words`, which stay as they are

    @property
    def joins_words(self) -> bool:
        """Whether a phrase reaches across white space."""
        return any(character.isspace() for units in self.phrases.told for unit in units for character in unit)

    def also(self, told: Mapping[Units, tuple[str, ...]]) -> WordRules:
        """These rules with phrases that stand for terms; those of one Latin word are found in identifiers too."""
        singles = {units[0]: terms for units, terms in told.items() if len(units) == 1 and not is_chinese(units[0])}
        phrases = {units: terms for units, terms in told.items() if len(units) > 1 or units[0] not in singles}
        return WordRules(self.words, {**self.singles, **singles}, Phrases({**self.phrases.told, **phrases}))


class Reader(Protocol):
    """What is needed of an analyzer."""

    def normal(self, text: str) -> str:
        """A text in the characters that terms are made of."""

    def units(self, normal: str) -> tuple[list[str], list[tuple[int, int]]]:
        """(units of a normal text, where each begins and ends)."""

    def terms(self, text: str) -> list[str]:
        """The terms of a text by the rules so far."""


def with_words(known: WordRules, settings: AnalyzerConfig, reader: Reader) -> WordRules:
    """The rules with those of the dictionary. A single word in Latin letters stays whole without any.

    Raises:
        ConfigError: a word begins or ends with a mark, or has white space.
    """
    words: dict[Units, Told] = {}
    mixed: dict[Units, Told] = {}
    for word in settings.dictionary:
        units, normal = _units_of(word, _DICTIONARY, reader), reader.normal(word)
        if is_chinese(normal):
            words[units] = None
        elif len(normal.split()) > 1:
            raise ConfigError(f"{_DICTIONARY}: {word!r} has a mark that stands for white space", _LEAVE_OUT)
        elif len(units) > 1:
            mixed[units] = (normal.lower(), *reader.terms(word))
    return WordRules(Phrases(words), known.singles, Phrases({**known.phrases.told, **words, **mixed}))


def with_groups(known: WordRules, settings: AnalyzerConfig, reader: Reader) -> WordRules:
    """The rules with groups of synonyms: each phrase becomes the first one's name, one term.

    Raises:
        ConfigError: a phrase has no terms.
    """
    told: dict[Units, tuple[str, ...]] = {}
    for rule in _rules(settings):
        if not rule.right:
            units = [_synonym(phrase, reader) for phrase in rule.phrases]
            told |= dict.fromkeys(units, ("".join("".join(units[0]).split()),))
    return known.also(told)


def with_rewritings(known: WordRules, settings: AnalyzerConfig, reader: Reader) -> WordRules:
    """The rules with rewritings: each phrase at the left becomes the terms of those at the right.

    Raises:
        ConfigError: a phrase has no terms, two lines begin with the same terms, or a line leads to another's left.
    """
    rules = _rules(settings)
    told: dict[Units, tuple[str, ...]] = {}
    line_of: dict[Units, str] = {}
    for rule in rules:
        right = tuple(term for phrase in rule.right for term in reader.terms(phrase))
        for phrase in rule.phrases:
            units = _synonym(phrase, reader)
            if (other := line_of.setdefault(units, rule.line)) != rule.line:
                raise ConfigError(contradiction(_SYNONYMS, phrase, other, rule.line), _CORRECT)
            if rule.right:
                told[units] = right
    lefts = Phrases(told)
    for rule in rules:
        for phrase in rule.right:
            units = _synonym(phrase, reader)
            if units in line_of and units not in told:
                continue  # a whole phrase of a group
            lines = (line_of[units[begin:end]] for begin, end, _ in lefts.found(units))
            if other := next((line for line in lines if line != rule.line), ""):
                raise ConfigError(chain(_SYNONYMS, phrase, rule.line, other), _CORRECT)
    return known.also(told)


def _rules(settings: AnalyzerConfig) -> Sequence[SynonymRule]:
    return [synonym_rule(line, _SYNONYMS) for line in settings.synonyms]


def _units_of(phrase: str, where: str, reader: Reader) -> Units:
    normal = reader.normal(phrase)
    units, edges = reader.units(normal)
    if not edges or (edges[0][0], edges[-1][1]) != (0, len(normal)):
        raise ConfigError(f"{where}: {phrase!r} begins or ends with a mark, which is no part of a word", _LEAVE_OUT)
    return tuple(units)


def _synonym(phrase: str, reader: Reader) -> Units:
    units = _units_of(phrase, _SYNONYMS, reader)
    if not reader.terms(phrase):
        raise ConfigError(f"{_SYNONYMS}: {phrase!r} has no terms: it is a frequent function word", _LEAVE_OUT)
    return units

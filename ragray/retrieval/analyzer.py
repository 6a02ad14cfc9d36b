"""How text becomes terms: one analyzer, for the index and for the query.

In: any text. Out: a list of terms, repeated as often as they occur. An index records the analyzer's name,
version and options, and opening it with another analyzer is an error: terms made in two ways do not meet.

    Latin words    lower-cased, without stop words, stemmed   "the Training clusters" -> train cluster
    identifiers    whole and by their parts                   train.lora.rank -> train.lora.rank train lora rank
                   - and _ in them left out, digits apart     IL-6, IL6 -> il6 il 6
    versions       whole and shortened                        2.60.1 -> 2.60.1 2.60
    Chinese        dictionary words, bigrams, or both         K8s集群 -> k8s 8 集群

A user's dictionary and synonyms are part of the options, by their content: `terms` reads them as `WordRules`.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

from ragray.config import AnalyzerConfig
from ragray.errors import ArtifactError, ConfigError
from ragray.retrieval.phrases import CJK
from ragray.retrieval.stopwords import CHINESE, ENGLISH
from ragray.retrieval.word_rules import WordRules, with_groups, with_rewritings, with_words

NAME = "ragray"
VERSION = 2

_WORD = rf"[^\W{CJK}]+"  # letters, digits and underscores of any script that is not written without spaces
_TOKEN = re.compile(rf"(?P<cjk>[{CJK}]+)|(?P<word>{_WORD}(?:[.\-/:]{_WORD})*(?:\+\+|#(?!\w))?)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_JOINT = re.compile(r"[.\-/:_]+")
_LINK = re.compile(r"[-_]")
_DIGITS = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_MOST_PARTS = 6  # what falls into more at its digits is a digest or a key
_NUMBERS = re.compile(r"v?(\d+(?:\.\d+)+)")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SHORTEST_HUMP = 3  # "TorchTrainer" is two words, "LoRA" is one
_IRREGULAR = {"gpus": "gpu", "cpus": "cpu", "tpus": "tpu"}  # Snowball takes them for Latin words in -us
_LONGEST_TERM = 64  # characters; longer runs are data, not words


class Analyzer:
    """Turns text into terms by the given options; safe to share between threads.

    Raises:
        ConfigError: words or synonyms have no terms or contradict each other, or a package is missing.
    """

    def __init__(self, settings: AnalyzerConfig) -> None:
        self.settings = settings
        self._english = ENGLISH if settings.stop_words else frozenset()
        self._chinese = CHINESE if settings.stop_words else frozenset()
        self._local = threading.local()
        self._word_terms = lru_cache(maxsize=1 << 16)(self._split_word)
        self._key = lru_cache(maxsize=1 << 16)(self._find_key)
        self._converted = _simplifier() if settings.simplified else None
        self._rules, self._replaces = WordRules(), False
        for learn in (with_words, with_groups, with_rewritings):  # each reads by the rules before it
            self._rules = learn(self._rules, settings, self)
            self._replaces = any(told is not None for told in self._rules.phrases.told.values())
            self._word_terms.cache_clear()
        self.joins_words = self._rules.joins_words

    def describe(self) -> dict[str, Any]:
        """What an index records about its analyzer."""
        return {"name": NAME, "version": VERSION, "options": self.settings.model_dump()}

    def terms(self, text: str) -> list[str]:
        """The terms of `text` in their order, repeated as they occur."""
        normal = self.normal(text)
        if not self._replaces:
            return self._plain_terms(normal, 0, len(normal))
        terms, at = list[str](), 0
        units, edges = self.units(normal)
        for begin, end, told in self._rules.phrases.found(units):
            if told is not None:
                terms += [*self._plain_terms(normal, at, edges[begin][0]), *told]
                at = edges[end - 1][1]
        return terms + self._plain_terms(normal, at, len(normal))

    def normal(self, text: str) -> str:
        """A text in the characters that terms are made of."""
        normal = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text))
        return self._converted(normal) if self._converted else normal

    def _plain_terms(self, normal: str, begin: int, end: int) -> list[str]:
        """The terms of a part of a text, in which no phrase is looked for."""
        terms: list[str] = []
        for match in _TOKEN.finditer(normal, begin, end):
            if match.lastgroup == "cjk":
                terms.extend(self._split_chinese(match.group()))
            else:
                terms.extend(self._word_terms(match.group()))
        return terms

    def _split_word(self, word: str) -> tuple[str, ...]:
        whole = word.lower()[:_LONGEST_TERM].strip("_")
        if not whole:
            return ()
        if self._rules.singles and (stands_for := self._rules.singles.get(self._key(word))):
            return stands_for
        if numbers := _NUMBERS.fullmatch(whole):
            return tuple(_shortened(numbers[1]))
        parts = _parts(word)
        if len(parts) == 1:
            return tuple(self._plain(whole))
        told = (part.lower()[:_LONGEST_TERM] for part in parts if len(part) > 1 or part.isdigit())
        return (_LINK.sub("", whole), *(term for part in told for term in self._plain(part)))

    def _plain(self, word: str) -> Iterator[str]:
        if word not in self._english:
            stem = self._stemmed(word)
            yield from self._rules.singles.get(stem, (stem,))

    def _stemmed(self, word: str) -> str:
        if not (self.settings.stem and word.isascii() and word.isalpha()):
            return word
        stem: Callable[[str], str] | None = getattr(self._local, "stem", None)
        if stem is None:
            import Stemmer

            stem = self._local.stem = Stemmer.Stemmer("english").stemWord  # a stemmer belongs to one thread
        return _IRREGULAR.get(word) or stem(word)

    def _split_chinese(self, run: str) -> Iterator[str]:
        if self.settings.chinese != "words":
            yield from (pair for pair in _bigrams(run) if pair not in self._chinese)
        at, known = 0, self._rules.words
        for begin, end, _ in known.found(run) if known.told else ():
            yield from self._dictionary_words(run[at:begin])
            yield run[begin:end]
            at = end
        yield from self._dictionary_words(run[at:])

    def _dictionary_words(self, run: str) -> list[str]:
        if self.settings.chinese == "bigrams" or not run:
            return []
        import rjieba

        shorter = 0 if self.settings.chinese == "words" else 1  # a word of two characters counts twice
        return [w for w in rjieba.cut(run) if len(w) > shorter and w not in self._chinese]

    def _find_key(self, word: str) -> str:
        """What a word is recognized by in phrases: its term, or where it has several, that of the whole."""
        whole = word.lower()[:_LONGEST_TERM].strip("_")
        if numbers := _NUMBERS.fullmatch(whole):
            return numbers[1]
        return self._stemmed(whole) if whole and len(_parts(word)) == 1 else _LINK.sub("", whole)

    def units(self, normal: str) -> tuple[list[str], list[tuple[int, int]]]:
        """(keys of words, Chinese characters, and what stands between any of them; where each begins and ends)."""
        units: list[str] = []
        edges: list[tuple[int, int]] = []
        for match in _TOKEN.finditer(normal):
            begin, end = match.span()
            if edges and edges[-1][1] < begin:
                between = normal[edges[-1][1] : begin]
                units.append(" " if between.isspace() else between)
                edges.append((edges[-1][1], begin))
            if match.lastgroup == "cjk":
                units += match.group()
                edges += ((place, place + 1) for place in range(begin, end))
            else:
                units.append(self._key(match.group()))
                edges.append((begin, end))
        return units, edges


def _simplifier() -> Callable[[str], str]:
    """What turns traditional Chinese into simplified.

    Raises:
        ConfigError: opencc is not installed.
    """
    try:
        import opencc  # noqa: F401
    except ImportError:
        raise ConfigError(
            "retrieval.analyzer.simplified: the package opencc is not installed",
            "pip install 'ragray[data]', or set retrieval.analyzer.simplified to false and build the index again",
        ) from None
    from ragray.dataprep.language import convert_chinese

    return partial(convert_chinese, target="simplified")


def words_of(text: str) -> list[str]:
    """The words of a text as they stand: Chinese by the dictionary, others as they are separated."""
    words: list[str] = []
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "cjk":
            import rjieba

            words.extend(rjieba.cut(match.group()))
        else:
            words.append(match.group())
    return words


@lru_cache(maxsize=4)
def analyzer_of(settings: AnalyzerConfig) -> Analyzer:
    """The analyzer with these options, made once in a process: one with many synonyms takes seconds."""
    return Analyzer(settings)


def check_analyzer(recorded: Mapping[str, Any], where: str) -> Analyzer:
    """The analyzer that an index was made with.

    Raises:
        ArtifactError: this ragray's analyzer is another one, or knows other options.
        ConfigError: see `Analyzer`.
    """
    if recorded.get("name") != NAME or recorded.get("version") != VERSION:
        raise ArtifactError(
            f"{where}: made with analyzer {recorded.get('name')} version {recorded.get('version')}, "
            f"this ragray has {NAME} version {VERSION}",
            "build the index again: remove its folder, then `ragray index --config FILE`",
        )
    try:
        return analyzer_of(AnalyzerConfig.model_validate(recorded.get("options")))
    except ValueError as error:
        raise ArtifactError(
            f"{where}: its analyzer options are unknown here: {error}",
            "build the index again: remove its folder, then `ragray index --config FILE`",
        ) from None


def _bigrams(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def _shortened(version: str) -> Iterator[str]:
    """`2.60.1` and `2.60`: all but the bare first number."""
    parts = version.split(".")
    for count in range(len(parts), 1, -1):
        yield ".".join(parts[:count])


def _parts(word: str) -> list[str]:
    """What is joined in a word: at marks, at humps, and between letters and digits."""
    parts = [hump for part in _JOINT.split(word) if part for hump in _humps(part)]
    finer = [piece for part in parts for piece in _DIGITS.split(part)]
    return finer if len(finer) <= _MOST_PARTS else parts


def _humps(word: str) -> list[str]:
    parts = _HUMP.split(word)
    return parts if min(map(len, parts)) >= _SHORTEST_HUMP else [word]

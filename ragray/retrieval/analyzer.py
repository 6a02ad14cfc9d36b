"""How text becomes terms: one analyzer, for the index and for the query.

In: any text. Out: a list of terms, repeated as often as they occur. An index records the analyzer's name,
version and options, and opening it with another analyzer is an error: terms made in two ways do not meet.

    Latin words    lower-cased, without stop words, stemmed   "the Training clusters" -> train cluster
    identifiers    whole and by their parts                   train.lora.rank -> train.lora.rank train lora rank
                   - and _ in them left out, digits apart     IL-6, IL6 -> il6 il 6
    versions       whole and shortened                        2.60.1 -> 2.60.1 2.60
    Chinese        dictionary words, bigrams, or both         K8s集群 -> k8s 8 集群
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from ragray.config import AnalyzerConfig
from ragray.errors import ArtifactError
from ragray.retrieval.stopwords import CHINESE, ENGLISH

NAME = "ragray"
VERSION = 2

_CJK = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = rf"[^\W{_CJK}]+"  # letters, digits and underscores of any script that is not written without spaces
_TOKEN = re.compile(rf"(?P<cjk>[{_CJK}]+)|(?P<word>{_WORD}(?:[.\-/:]{_WORD})*(?:\+\+|#(?!\w))?)")
_IDEOGRAPH = re.compile(rf"[{_CJK}]")
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
    """Turns text into terms by the given options; safe to share between threads."""

    def __init__(self, settings: AnalyzerConfig) -> None:
        self.settings = settings
        self._english = ENGLISH if settings.stop_words else frozenset()
        self._chinese = CHINESE if settings.stop_words else frozenset()
        self._local = threading.local()
        self._word_terms = lru_cache(maxsize=1 << 16)(self._split_word)

    def describe(self) -> dict[str, Any]:
        """What an index records about its analyzer."""
        return {"name": NAME, "version": VERSION, "options": self.settings.model_dump()}

    def terms(self, text: str) -> list[str]:
        """The terms of `text` in their order, repeated as they occur."""
        terms: list[str] = []
        normal = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text))
        for match in _TOKEN.finditer(normal):
            if match.lastgroup == "cjk":
                terms.extend(self._split_chinese(match.group()))
            else:
                terms.extend(self._word_terms(match.group()))
        return terms

    def _split_word(self, word: str) -> tuple[str, ...]:
        whole = word.lower()[:_LONGEST_TERM].strip("_")
        if not whole:
            return ()
        if numbers := _NUMBERS.fullmatch(whole):
            return tuple(_shortened(numbers[1]))
        parts = _parts(word)
        if len(parts) == 1:
            return tuple(self._plain(whole))
        told = (part.lower()[:_LONGEST_TERM] for part in parts if len(part) > 1 or part.isdigit())
        return (_LINK.sub("", whole), *(term for part in told for term in self._plain(part)))

    def _plain(self, word: str) -> Iterator[str]:
        if word not in self._english:
            yield self._stemmed(word) if self.settings.stem and word.isascii() and word.isalpha() else word

    def _stemmed(self, word: str) -> str:
        stem: Callable[[str], str] | None = getattr(self._local, "stem", None)
        if stem is None:
            import Stemmer

            stem = self._local.stem = Stemmer.Stemmer("english").stemWord  # a stemmer belongs to one thread
        return _IRREGULAR.get(word) or stem(word)

    def _split_chinese(self, run: str) -> Iterator[str]:
        if self.settings.chinese != "words":
            yield from (pair for pair in _bigrams(run) if pair not in self._chinese)
        if self.settings.chinese != "bigrams":
            import rjieba

            shorter = 0 if self.settings.chinese == "words" else 1  # a word of two characters counts twice
            yield from (w for w in rjieba.cut(run) if len(w) > shorter and w not in self._chinese)


def is_chinese(character: str) -> bool:
    """Whether a character belongs to a script written without spaces: Chinese, or Japanese syllables."""
    return _IDEOGRAPH.match(character) is not None


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


def check_analyzer(recorded: Mapping[str, Any], where: str) -> Analyzer:
    """The analyzer that an index was made with.

    Raises:
        ArtifactError: this ragray's analyzer is another one, or knows other options.
    """
    if recorded.get("name") != NAME or recorded.get("version") != VERSION:
        raise ArtifactError(
            f"{where}: made with analyzer {recorded.get('name')} version {recorded.get('version')}, "
            f"this ragray has {NAME} version {VERSION}",
            "build the index again: remove its folder, then `ragray index --config FILE`",
        )
    try:
        return Analyzer(AnalyzerConfig.model_validate(recorded.get("options")))
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

"""All rules that reword a question, by method and language.

In: a method's name and a language. Out: the rule, a function of a question and a source of randomness. The names are
those of `config.Method`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from ragray.dataprep import wording_en, wording_zh
from ragray.dataprep.speech import speech_en, speech_zh
from ragray.dataprep.spelling import homophones_en, homophones_zh, keyboard, width_en, width_zh
from ragray.dataprep.switching import switch

Rule = Callable[[str, Random], str]

# Of the first kind a round tries all, of the second one: a slip is not another way to ask.
REWORDINGS: Mapping[str, Mapping[str, Rule]] = {
    "pattern": {"en": wording_en.pattern, "zh": wording_zh.pattern},
    "synonyms": {"en": wording_en.synonyms, "zh": wording_zh.synonyms},
    "politeness": {"en": wording_en.politeness, "zh": wording_zh.politeness},
    "colloquial": {"en": wording_en.colloquial, "zh": wording_zh.colloquial},
    "dropped_words": {"en": wording_en.dropped_words, "zh": wording_zh.dropped_words},
    "word_order": {"en": wording_en.word_order, "zh": wording_zh.word_order},
    "keywords": {"en": wording_en.keywords, "zh": wording_zh.keywords},
    "omitted_subject": {"en": wording_en.omitted_subject, "zh": wording_zh.omitted_subject},
    "code_switching": {"en": switch, "zh": switch},
}
SLIPS: Mapping[str, Mapping[str, Rule]] = {
    "typo": {"en": wording_en.typo, "zh": wording_zh.typo},
    "keyboard": {"en": keyboard, "zh": keyboard},
    "homophones": {"en": homophones_en, "zh": homophones_zh},
    "width": {"en": width_en, "zh": width_zh},
    "speech": {"en": speech_en, "zh": speech_zh},
}
RULES: Mapping[str, Mapping[str, Rule]] = {**REWORDINGS, **SLIPS}
LANGUAGES = ("en", "zh")

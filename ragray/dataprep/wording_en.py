"""Other ways to ask an English question, by rule.

In: a question and a source of randomness. Out: the question in other words, or unchanged where the rule does
not apply. Each function is one method of `dataprep.augment`.
"""

from __future__ import annotations

import re
from random import Random

# Pattern of a question -> forms of the same question; \1 is its topic.
_PATTERNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"how (?:do|can|should|would) (?:i|you|we|one) (.+)", (
        r"what is the way to \1", r"how to \1", r"what do I have to do to \1", r"what are the steps to \1",
        r"I want to \1, what do I do",
    )),
    (r"how to (.+)", (r"how do I \1", r"what is the way to \1", r"what are the steps to \1")),
    (r"what (?:is|are)(?: \(are\))? (.+)", (
        r"can you explain \1", r"what does \1 mean", r"tell me about \1", r"\1, what is that", r"meaning of \1",
    )),
    (r"what does (.+?) mean", (r"what is \1", r"what is meant by \1", r"can you explain \1")),
    (r"what does (.+?) do", (r"what is \1 for", r"what happens with \1", r"purpose of \1")),
    (r"what happens (?:if|when) (.+)", (r"what is the effect when \1", r"what follows if \1", r"suppose \1, what then")),
    (r"why (?:do|does|did|is|are|was) (.+)", (r"what is the reason for \1", r"\1 - why", r"how come \1")),
    (r"(?:can|may|could) (?:i|you|we|one) (.+)", (r"is it possible to \1", r"am I able to \1", r"is there a way to \1")),
    (r"(?:is|are) there (.+)", (r"do you have \1", r"does it come with \1", r"can I find \1")),
    (r"where (?:do|can|should) (?:i|you|we) (.+)", (r"what is the place to \1", r"in which place do I \1")),
    (r"where (?:is|are) (.+)", (r"in which place is \1", r"how do I find \1", r"location of \1")),
    (r"which (.+?) (?:is|are) (.+)", (r"what \1 is \2", r"what kind of \1 is \2")),
    (r"(?:do|must|should) (?:i|you|we) (?:need|have) to (.+)", (r"is it necessary to \1", r"is it required to \1")),
    (r"do (?:i|you|we) need (.+)", (r"is \1 required", r"is \1 necessary", r"can I do without \1")),
    (r"how (?:much|many) (.+)", (r"what amount of \1", r"what number of \1")),
    (r"how long (?:does|do|will) (.+)", (r"how much time does \1", r"what time does \1")),
    (r"does (.+?) (support|work|run|need|use) (.+)", (r"will \1 \2 \3", r"is it so that \1 can \2 \3")),
    (r"who is at risk for (.+)", (r"who can get \1", r"risk factors for \1")),
)  # fmt: skip
_RULES = [(re.compile(pattern, re.IGNORECASE), forms) for pattern, forms in _PATTERNS]

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "install": ("set up", "get"), "installed": ("set up",), "installing": ("setting up",),
    "remove": ("delete", "get rid of"), "delete": ("remove", "erase"), "change": ("modify", "adjust", "alter"),
    "set": ("configure", "choose"), "start": ("launch", "begin"), "run": ("execute", "start"), "stop": ("halt", "end"),
    "use": ("work with", "make use of"), "create": ("make", "produce"), "make": ("create", "produce"),
    "show": ("display", "list"), "find": ("locate", "look up"), "check": ("verify", "inspect"), "fix": ("solve", "repair"),
    "error": ("failure", "problem"), "problem": ("issue", "trouble"), "folder": ("directory",), "file": ("document",),
    "setting": ("option", "parameter"), "settings": ("options", "parameters"), "option": ("setting",),
    "default": ("standard value", "preset"), "computer": ("machine",), "machine": ("computer", "host"),
    "fast": ("quick",), "faster": ("quicker",), "slow": ("sluggish",), "big": ("large",), "large": ("big",),
    "needed": ("required", "necessary"), "need": ("require",), "needs": ("requires",), "allowed": ("permitted",),
    "different": ("other",), "kind": ("type",), "kinds": ("types",), "happens": ("occurs",), "get": ("obtain",),
    "many": ("a lot of",), "several": ("multiple",), "only": ("just",), "supported": ("available",), "available": ("offered",),
    "train": ("fine-tune",), "training": ("fine-tuning",), "tune": ("adapt",), "answer": ("reply", "response"),
    "answers": ("replies", "responses"), "question": ("query",), "questions": ("queries",), "save": ("store", "keep"),
    "written": ("stored", "saved"), "choose": ("select", "pick"), "chosen": ("selected", "picked"), "mean": ("stand for",),
    "doctor": ("physician",), "illness": ("disease",), "disease": ("illness", "condition"), "treatments": ("therapies",),
    "treatment": ("therapy",), "symptoms": ("signs",), "causes": ("leads to",), "drug": ("medicine",), "buy": ("purchase",),
}  # fmt: skip

_FUNCTION_WORDS = frozenset(
    "a an the is are am was were be been do does did can could should would will may might must i you we it its my your "
    "our to of in on at for with by from as and or if so that this these those there what which who whose where when how "
    "why have has had me us them they he she not any some".split()
)
_DROPPABLE = frozenset("a an the is are do does did i my your to of".split())
_POLITE = (
    "could you tell me: {}", "please, {}", "hi, {}", "hello, I would like to know: {}", "sorry to ask, {}", "{} thanks!",
    "quick question: {}",
)  # fmt: skip
_COLLOQUIAL = (
    (r"\bwhat is\b", "what's"), (r"\bhow is\b", "how's"), (r"\bwhere is\b", "where's"), (r"\bdo not\b", "don't"),
    (r"\bdoes not\b", "doesn't"), (r"\bcannot\b", "can't"), (r"\bwant to\b", "wanna"), (r"\bhow do i\b", "how'd I"),
    (r"\bshould i\b", "do I gotta"), (r"\bcan i\b", "am I able to"), (r"\bis there\b", "do you guys have"),
    (r"\bwhy\b", "how come"), (r"\bhow can i\b", "any idea how to"), (r"\bplease\b", "pls"),
)  # fmt: skip
_FRONTED = re.compile(r"^(.{8,}?)\s((?:on|in|with|for|from|without|after|before|during|when|if)\s.{3,40})$", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*|\S+")
_LONG_WORD = re.compile(r"\b[a-z]{5,}\b")


def pattern(question: str, chance: Random) -> str:
    """Another form of the same kind of question: "how do I X" becomes "what is the way to X"."""
    bare = _bare(question)
    for rule, forms in _RULES:
        match = rule.fullmatch(bare)
        if match:
            return _finish(match.expand(chance.choice(forms)))
    return question


def synonyms(question: str, chance: Random) -> str:
    """One to three words replaced by others of the same meaning."""
    places = [match for match in _WORD.finditer(question) if match[0].lower() in _SYNONYMS]
    chosen = set(chance.sample(range(len(places)), min(len(places), chance.randint(1, 3))))
    for number in sorted(chosen, reverse=True):
        match = places[number]
        other = chance.choice(_SYNONYMS[match[0].lower()])
        question = question[: match.start()] + _same_case(other, match[0]) + question[match.end() :]
    return question


def politeness(question: str, chance: Random) -> str:
    """With words of courtesy around it."""
    return _capital(chance.choice(_POLITE).format(_small(question)))


def colloquial(question: str, chance: Random) -> str:
    """As people type to each other: contractions, lower case, no final mark."""
    text = question.lower() if not re.search(r"[A-Z]{2,}|[a-z][A-Z]", question) else _small(question)
    applicable = [(found, other) for found, other in _COLLOQUIAL if re.search(found, text, re.IGNORECASE)]
    if applicable:
        found, other = chance.choice(applicable)
        text = re.sub(found, other, text, count=1, flags=re.IGNORECASE)
    return _bare(text)


def dropped_words(question: str, chance: Random) -> str:
    """Without some of its articles and auxiliaries."""
    words = question.split()
    places = [n for n, word in enumerate(words) if word.lower() in _DROPPABLE]
    chosen = set(chance.sample(places, min(len(places), chance.randint(1, 3))))
    return " ".join(word for n, word in enumerate(words) if n not in chosen)


def word_order(question: str, chance: Random) -> str:
    """With the circumstance first: "how do I X on Y" becomes "on Y, how do I X"."""
    match = _FRONTED.match(_bare(question))
    return _finish(f"{match[2]}, {_small(match[1])}") if match else question


def keywords(question: str, chance: Random) -> str:
    """The content words alone, as typed into a search box."""
    words = [word for word in _bare(question).split() if word.lower().strip(",:;()") not in _FUNCTION_WORDS]
    return " ".join(words).lower() if len(words) >= 2 else question


def typo(question: str, chance: Random) -> str:
    """With two neighbouring letters of one long word exchanged, or one letter lost or doubled."""
    places = list(_LONG_WORD.finditer(question))
    if not places:
        return question
    match = chance.choice(places)
    at = match.start() + chance.randrange(1, len(match[0]) - 2)
    left, right = question[at], question[at + 1]
    wrong = chance.choice((right + left, left, left + left + right))
    return question[:at] + wrong + question[at + 2 :]


def _bare(question: str) -> str:
    return question.strip().rstrip("?!. ").strip()


def _finish(text: str) -> str:
    return _capital(text.strip()) + "?"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    """With a small first letter, unless the first word is an abbreviation, a name in capitals, or "I"."""
    first = text.split(" ", 1)[0]
    return text if first == "I" or first[1:] != first[1:].lower() else text[:1].lower() + text[1:]


def _same_case(word: str, like: str) -> str:
    return _capital(word) if like[:1].isupper() else word

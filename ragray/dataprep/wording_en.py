"""Other ways to ask an English question, by rule.

In: a question and a source of randomness. Out: the question in other words, or unchanged where the rule does
not apply. Each function is one method of `dataprep.augment`.
"""

from __future__ import annotations

import re
from random import Random

from ragray.dataprep.wording import apply_rules, items, pairs, replace_some, rules, word_table

# A kind of question, and below it forms that ask the same; \1 is its topic.
_RULES = rules(
    r"""
how (?:do|can|should|would) (?:i|you|we|one) (.+)
    what is the way to \1
    how to \1
    what do I have to do to \1
    what are the steps to \1
    I want to \1, what do I do

how to (.+)
    how do I \1
    what is the way to \1
    what are the steps to \1

what (?:is|are)(?: \(are\))? (.+)
    can you explain \1
    what does \1 mean
    tell me about \1
    \1, what is that
    meaning of \1

what does (.+?) mean
    what is \1
    what is meant by \1
    can you explain \1

what does (.+?) do
    what is \1 for
    what happens with \1
    purpose of \1

what happens (?:if|when) (.+)
    what is the effect when \1
    what follows if \1
    suppose \1, what then

why (?:do|does|did|is|are|was) (.+)
    what is the reason for \1
    \1 - why
    how come \1

(?:can|may|could) (?:i|you|we|one) (.+)
    is it possible to \1
    am I able to \1
    is there a way to \1

(?:is|are) there (.+)
    do you have \1
    does it come with \1
    can I find \1

where (?:do|can|should) (?:i|you|we) (.+)
    what is the place to \1
    in which place do I \1

where (?:is|are) (.+)
    in which place is \1
    how do I find \1
    location of \1

which (.+?) (?:is|are) (.+)
    what \1 is \2
    what kind of \1 is \2

(?:do|must|should) (?:i|you|we) (?:need|have) to (.+)
    is it necessary to \1
    is it required to \1

do (?:i|you|we) need (.+)
    is \1 required
    is \1 necessary
    can I do without \1

how (?:much|many) (.+)
    what amount of \1
    what number of \1

how long (?:does|do|will) (.+)
    how much time does \1
    what time does \1

does (.+?) (support|work|run|need|use) (.+)
    will \1 \2 \3
    is it so that \1 can \2 \3

who is at risk for (.+)
    who can get \1
    risk factors for \1
"""
)

_NO_SUBJECT = rules(
    r"""
(how|where|when) (?:do|does|can|should|could|would|must) (?:i|we|you|one) (.+)
    \1 to \2

(?:do|must|should) (?:i|we|you) (need|have) to (.+)
    \1 to \2

(?:can|could|may) (?:i|we|you|one) (.+)
    possible to \1
    ok to \1

is it (possible|necessary|required|safe|allowed|ok) to (.+)
    \1 to \2

(?:is|are) there (.+)
    any \1

(?:does|will|can) (?:it|this|that|they) (.+)
    \1

what (?:do|should|must|can) (?:i|we|you) (.+)
    what to \1

(?:i|we) (?:want|need|would like) to (.+)
    want to \1
    need to \1
"""
)

_SYNONYMS = word_table(
    """
install: set up, get; installed: set up; installing: setting up; remove: delete, get rid of
delete: remove, erase; change: modify, adjust, alter; set: configure, choose; start: launch, begin
run: execute, start; stop: halt, end; use: work with, make use of; create: make, produce
make: create, produce; show: display, list; find: locate, look up; check: verify, inspect
fix: solve, repair; error: failure, problem; problem: issue, trouble; folder: directory; file: document
setting: option, parameter; settings: options, parameters; option: setting; default: standard value, preset
computer: machine; machine: computer, host; fast: quick; faster: quicker; slow: sluggish; big: large
large: big; needed: required, necessary; need: require; needs: requires; allowed: permitted
different: other; kind: type; kinds: types; happens: occurs; get: obtain; many: a lot of; several: multiple
only: just; supported: available; available: offered; train: fine-tune; training: fine-tuning; tune: adapt
answer: reply, response; answers: replies, responses; question: query; questions: queries; save: store, keep
written: stored, saved; choose: select, pick; chosen: selected, picked; mean: stand for; doctor: physician
illness: disease; disease: illness, condition; treatments: therapies; treatment: therapy; symptoms: signs
causes: leads to; drug: medicine; buy: purchase
"""
)

_FUNCTION_WORDS = frozenset(
    items(
        """
a; am; an; and; any; are; as; at; be; been; by; can; could; did; do; does; for; from; had; has; have; he
how; i; if; in; is; it; its; may; me; might; must; my; not; of; on; or; our; she; should; so; some; that
the; them; there; these; they; this; those; to; us; was; we; were; what; when; where; which; who; whose; why
will; with; would; you; your
"""
    )
)
_DROPPABLE = frozenset(items("a; an; are; did; do; does; i; is; my; of; the; to; your"))
_POLITE = items("""
could you tell me: {}; please, {}; hi, {}; hello, I would like to know: {}; sorry to ask, {}; {} thanks!
quick question: {}
""")
_COLLOQUIAL = pairs(
    r"""
\bwhat is\b: what's; \bhow is\b: how's; \bwhere is\b: where's; \bdo not\b: don't; \bdoes not\b: doesn't
\bcannot\b: can't; \bwant to\b: wanna; \bhow do i\b: how'd I; \bshould i\b: do I gotta
\bcan i\b: am I able to; \bis there\b: do you guys have; \bwhy\b: how come; \bhow can i\b: any idea how to
\bplease\b: pls
"""
)
_FRONTED = re.compile(
    r"^(.{8,}?)\s((?:on|in|with|for|from|without|after|before|during|when|if)\s.{3,40})$", re.IGNORECASE
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*|\S+")
_LONG_WORD = re.compile(r"\b[a-z]{5,}\b")


def pattern(question: str, chance: Random) -> str:
    """Another form of the same kind of question: "how do I X" becomes "what is the way to X"."""
    other = apply_rules(_RULES, _bare(question), chance)
    return _finish(other) if other else question


def synonyms(question: str, chance: Random) -> str:
    """One to three words replaced by others of the same meaning."""
    places = [match for match in _WORD.finditer(question) if match[0].lower() in _SYNONYMS]
    return replace_some(question, places, _SYNONYMS, chance)


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


def omitted_subject(question: str, chance: Random) -> str:
    """Without the one who asks or what is asked about: "how do I X" becomes "how to X"."""
    other = apply_rules(_NO_SUBJECT, _bare(question), chance)
    return _finish(other) if other else question


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

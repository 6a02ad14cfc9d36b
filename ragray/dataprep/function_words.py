"""Short words that tell English from other languages in Latin letters.

In: nothing. Out: `ENGLISH` and `FOREIGN`, lower case, of at most eight bytes. Words that English shares with another
language (die, an, in, was, so) count for neither or for English.
"""

from __future__ import annotations


def _words(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


ENGLISH = _words(
    """
    the what how and with why which when where are does can you your it its this that these those from have has had
    should there not if my be been will would who whom whose use used using between than by or at get im of is for
    did we they she his her their our us them then but about into out up because while after before during each
    other some any all more most much many such only also just cannot could may might must shall being having
    without within through over under both same make made need want work doesn t don s isn difference best way
    explain define list tell give mean causes symptoms please change create delete install
    """
)
_GERMAN = """
    der das und ist wie ich nicht ein eine einen einem einer zu mit von für sind kann auf den dem des wird werden
    oder auch bei welche welcher welches warum wo wann wer wenn mich mir mein meine sie wir ihr es im vom zum zur
    aus nach über gibt gilt muss darf soll haben habe hat sich noch nur schon als aber durch um man bin unter gegen
    wieso dauert lange nein hierzu bietet beim statt diese dieser keine wurde sowie
    """
_FRENCH = """
    le les des une est que qui quoi comment pourquoi quand dans pour avec sur pas je vous nous il elle ce cette ces
    mon ma mes votre vos sont peut faire fait du au aux et où plus être quel quelle quels quelles ou par ne se si
    """
_SPANISH = """
    el los las una que qué quién cómo como cuándo cuál cuáles dónde por para con del al es son está están puede
    puedo hacer se su sus mi más sin este esta y pero lo le hay tengo ser si sobre entre cuánto
    """
_PORTUGUESE = """
    uma que quem como quando qual quais onde por para com da é são está não pode em na um meu
    """
_ITALIAN = """
    il lo gli della delle dei degli del di che chi come cosa quando quali quale dove perché per con sono è può posso
    devo nel nella una un uno si non mio mia alla al allo alle ai dal dalla e ho ci se anche più questo questa fare
    ecco tutti quanto possono deve devono presso
    """
_DUTCH = """
    het een ik niet hoe wat waarom wanneer wie waar welke zijn met voor naar dat deze dit mijn je bij ook
    """
_NORDIC = """
    och att det som en ett är jag hur vad varför när vem vilka vilken kan inte på med av för till om har ska måste
    og hva hvordan hvorfor når hvem er ikke til jeg man mig mitt min den de eller från vid hvad mot ge hel ingen
    finns också bara mer mellan
    """
_POLISH = """
    jak czy co nie się jest są na z w do dla od po przez ze i o kto kiedy gdzie dlaczego jakie jaki jaka mogę można
    mam ma te ten ta to lub oraz przed przy bez które który która za już mój moje być ile tak może osób przypadku
    jeśli należy tym tylko jej jego jakim
    """
_OTHERS = """
    co jak je se na že proč kdy kde nebo jsou mám ve bir ne nasıl için mi mı var neden apa yang dan di bagaimana
    untuk dengan tidak là của và không có cách tôi như thế nào mikä miten on ja ei voi mitä ovat hogy nem és az egy
    hogyan ce este și cum nu pentru care din în sunt
    """
# Also English words, or parts of commands and file names.
_AMBIGUOUS = """
    die was an in am on so man per den dan son sin con pas var de la my or no om os as at bin ab es si se me mi ma
    he do to i e o y z u w s d l a by min et al ten be come more our not him can all one has have for sur par les ce
    du sunt pot most van dos das est ha au ai en te ta kan sous main import sans
    """
FOREIGN = (
    _words(_GERMAN, _FRENCH, _SPANISH, _PORTUGUESE, _ITALIAN, _DUTCH, _NORDIC, _POLISH, _OTHERS)
    - ENGLISH
    - _words(_AMBIGUOUS)
)

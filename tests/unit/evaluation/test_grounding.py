"""Support by the cited passages, by hand, in English and Chinese."""

import pytest

from ragray.evaluation.answers import Given
from ragray.evaluation.grounding import Support, statements, support, units
from ragray.evaluation.scoring import score_fully

INSTALL = "How is it installed?\nRun make demo; it creates an environment with Python 3.11."
PORT = "Which port?\nThe API listens on port 8000."
ZH = "怎么安装？\n运行安装命令即可。"


def test_units_are_words_numbers_and_pairs_of_characters():
    assert units("The API listens on port 8000, version 2.60!") == ["api", "listens", "port", "8000", "version", "2.60"]
    assert units("运行命令。好") == ["运行", "行命", "命令", "好"]
    assert units("用Ray２.60训练") == ["用", "ray", "2.60", "训练"]
    assert units("It is the one.") == ["one"]


def test_a_copied_answer_is_grounded():
    assert support("Run make demo. [1]", [INSTALL, PORT]) == Support(1.0, 1.0, 1.0)
    assert support("运行安装命令即可。 [1]", [ZH]) == Support(1.0, 1.0, 1.0)


def test_what_is_not_in_the_cited_passage_is_not_grounded():
    # run, make, demo, python, 3.12, needed: four of six stand in passage 1.
    found = support("Run make demo. Python 3.12 is needed. [1]", [INSTALL, PORT])
    assert found.groundedness == pytest.approx(4 / 6)
    assert found.recall == 0.5  # the second statement has one of three
    assert found.precision == 0.5  # the citation counts once for each statement
    assert support("The API listens on port 8000. [1]", [INSTALL, PORT]) == Support(0.0, 0.0, 0.0)
    # pairs of characters: 运行 行命 命令 令即 即可, of which 行命 does not stand in "运行安装命令即可"
    assert support("运行命令即可。 [1]", [ZH]).groundedness == pytest.approx(4 / 5)


def test_an_answer_without_citations_rests_on_nothing():
    assert support("Run make demo.", [INSTALL]) == Support(0.0, None, 0.0)
    assert support("Run make demo. [7]", [INSTALL]) == Support(0.0, 0.0, 0.0)  # no such passage was shown


def test_an_answer_that_says_nothing_is_not_measured():
    assert support("It is. [1]", [INSTALL]) == Support(None, None, None)


def test_each_statement_rests_on_its_own_marks():
    answer = "Run make demo. [1] The API listens on port 8000. [2]"
    assert [s.cited for s in statements(answer)] == [(1,), (2,)]
    assert support(answer, [INSTALL, PORT]) == Support(1.0, 1.0, 1.0)
    assert support("Run make demo. [2] The API listens on port 8000. [1]", [INSTALL, PORT]) == Support(0.0, 0.0, 0.0)
    assert [s.cited for s in statements("运行 [1]。停止 [2][3]。然后")] == [(1,), (2, 3), ()]


def test_marks_at_the_end_cover_what_has_none_of_its_own():
    assert [s.cited for s in statements("One two. Three four. [1]")] == [(1,), (1,)]
    assert [s.cited for s in statements("One two. [2] Three four. Five six. [1]")] == [(2,), (1,), (1,)]
    assert [s.cited for s in statements("One two. Three four [1].")] == [(), (1,)]  # not at the very end: its own


def test_a_needless_citation_costs_precision():
    answer = "Run make demo. [1][2]"
    found = support(answer, [INSTALL, PORT])
    assert (found.recall, found.precision) == (1.0, 0.5)  # passage 2 neither supports it nor is needed
    both = support("Run make demo, port 8000. [1][2]", [INSTALL, PORT])
    assert (both.recall, both.precision) == (1.0, 1.0)  # neither suffices, together they do


def test_sentences_end_where_they_should():
    texts = ["Python 3.11 works. v2.60 too", "行吗？行！好；对", "one\ntwo", "e.g. ray"]
    assert [len(statements(text)) for text in texts] == [2, 4, 2, 2]


def test_support_is_part_of_the_scores_of_answered_questions():
    answered = score_fully(Given("Run make demo. [1]", False, ("d1",)), ["Run make demo."], {"d1"}, "en", [INSTALL])
    assert (answered.groundedness, answered.support_precision, answered.support_recall) == (1.0, 1.0, 1.0)
    assert (answered.bleu, answered.chrf) == pytest.approx((100.0, 100.0))
    invented = score_fully(Given("Run make demo. [1]", False, ("d1",)), [], (), "en", [PORT])
    assert (invented.groundedness, invented.bleu) == (0.0, None)
    unstated = score_fully(Given("Run. [1]", False, ("d1",)), [""], {"d1"}, "en", [INSTALL])
    assert (unstated.bleu, unstated.groundedness) == (None, 1.0)  # nothing to hold it against
    declined = score_fully(Given("No.", True), ["Run make demo."], {"d1"}, "en", [INSTALL])
    assert (declined.groundedness, declined.bleu, declined.chrf) == (None, 0.0, 0.0)
    closed = score_fully(Given("Run make demo.", False, closed_book=True), ["Run make demo."], {"d1"}, "en", [])
    assert (closed.groundedness, closed.support_recall) == (None, None)

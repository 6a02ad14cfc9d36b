"""Answer metrics against hand-computed values and the SQuAD script's published behaviour."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.evaluation import answers
from ragray.evaluation.answers import Given, longest_common_subsequence, normalize, score, tokens

WORDS = st.lists(st.sampled_from("abcd"), max_size=9)


def test_english_is_normalized_like_the_squad_script():
    # SQuAD v1.1 normalize_answer: lower case, punctuation deleted (not replaced), articles, white space.
    assert normalize("The   Cat's an idea, a U.S. one!", "en") == "cats idea us one"
    assert normalize("24-hour  (anti-)theft", "en") == "24hour antitheft"  # "the" inside a word stays
    assert normalize("the", "en") == ""


def test_articles_stay_outside_english():
    assert tokens("方案 A 和 B", "zh") == ["方", "案", "a", "和", "b"]
    assert tokens("a table", "other") == ["a", "table"]


def test_mixed_text_becomes_characters_words_and_numbers():
    assert tokens("用 Ray 2.60 训练，LoRA（r=16）。", "zh") == ["用", "ray", "260", "训", "练", "lorar16"]
    assert tokens("使用Ray集群", "zh") == tokens("使用 ray 集群！", "zh") == ["使", "用", "ray", "集", "群"]


def test_full_width_forms_equal_their_ascii_forms():
    assert tokens("ＡＢＣ１２３：ｏｋ", "zh") == ["abc123ok"]
    assert tokens("「你好」，《世界》……", "zh") == ["你", "好", "世", "界"]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("rock", "Rock n  Roll.", 2 * 1 * (1 / 3) / (1 + 1 / 3)),
        ("the rock and roll", "rock n roll", 2 / 3),  # 2 of 3 and 2 of 3 after "the" is gone
        ("to to be", "to be to be to", 2 * 3 / (3 + 5)),  # counted with multiplicity
        ("Denver Broncos", "Denver Broncos", 1.0),
        ("Carolina", "Denver Broncos", 0.0),
        ("", "Denver", 0.0),
    ],
)
def test_token_f1_by_hand(prediction, reference, expected):
    assert answers.token_f1(prediction, [reference], "en") == pytest.approx(expected)


def test_chinese_f1_counts_characters():
    # 4 of the prediction's 4 characters are among the reference's 6: P = 1, R = 4/6.
    assert answers.token_f1("运行命令", ["运行这个命令。"], "zh") == pytest.approx(2 * 4 / (4 + 6))


def test_exact_match_takes_any_reference():
    assert answers.exact_match("The Broncos.", ["Denver Broncos", "broncos"], "en") == 1.0
    assert answers.exact_match("Broncos won", ["Denver Broncos", "broncos"], "en") == 0.0


def test_the_best_reference_counts():
    references = ["install torch", "run make demo", "make"]
    assert answers.token_f1("run make demo now", references, "en") == pytest.approx(2 * 3 / 7)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("运行命令", "运行这个命令。", 2 * 2 / (4 + 6)),  # the longest run has 2 of 4 and of 6; token F1 counts 4
        ("《红楼梦》", "红楼梦", 1.0),  # marks of the script's list go
        ("B-C-D", "bcd", 1.0),  # also "-", and letter case
        ("安装 Ray 2.60 版", "ray 2.60", 2 * 2 / (5 + 2)),  # a word and a number are a segment each
        ("甲a乙", "甲b乙", 2 * 1 / (3 + 3)),
        ("什么", "别的", 0.0),
        ("", "", 0.0),  # as the script has it; token F1 gives 1
        ("。", "！", 0.0),
    ],
)
def test_cmrc_f1_by_hand(prediction, reference, expected):
    assert answers.cmrc_f1(prediction, [reference]) == pytest.approx(expected)
    assert answers.cmrc_f1(prediction, ["无关", reference]) == pytest.approx(expected)


@given(WORDS, WORDS)
def test_cmrc_f1_never_exceeds_token_f1(first, second):
    one, two = " ".join(first), " ".join(second)
    assert answers.cmrc_f1(one, [two]) <= answers.rouge_l(one, [two], "other") + 1e-12


def test_rouge_l_of_lin_2004():
    # Lin 2004, section 3.1: against "police killed the gunman", S2 shares a subsequence of 3, S3 of 2.
    reference = ["police killed the gunman"]
    assert answers.rouge_l("police kill the gunman", reference, "other") == pytest.approx(3 / 4)
    assert answers.rouge_l("the gunman kill police", reference, "other") == pytest.approx(2 / 4)
    assert answers.token_f1("the gunman kill police", reference, "other") == pytest.approx(3 / 4)


@given(WORDS, WORDS)
def test_longest_common_subsequence_equals_the_definition(first, second):
    subsequences = {s for size in range(len(first) + 1) for s in itertools.combinations(first, size)}
    best = max(len(s) for s in subsequences if _is_subsequence(s, second))
    assert longest_common_subsequence(first, second) == best


def _is_subsequence(short, long):
    rest = iter(long)
    return all(token in rest for token in short)


@given(WORDS, WORDS)
def test_metrics_are_symmetric_bounded_and_ordered(first, second):
    one, two = " ".join(first), " ".join(second)
    f1, rouge = answers.token_f1(one, [two], "other"), answers.rouge_l(one, [two], "other")
    assert f1 == answers.token_f1(two, [one], "other")
    assert 0.0 <= rouge <= f1 <= 1.0
    assert answers.exact_match(one, [two], "other") <= rouge


def test_citation_marks_are_not_scored():
    scores = score(Given("Run make demo. [2]", False, ("d2",)), ["run make demo"], {"d2"}, "en")
    assert (scores.exact_match, scores.f1, scores.rouge_l) == (1.0, 1.0, 1.0)
    assert answers.strip_citations("rows[0] and 运行。[3]").split() == ["rows[0]", "and", "运行。"]
    assert answers.strip_citations("both [1][2], and 运行 [1] [3]").split() == ["both", ",", "and", "运行"]


def test_a_declined_answerable_question_scores_nothing():
    scores = score(Given("The documents do not answer this question.", True), ["yes"], {"d1"}, "en")
    assert (scores.exact_match, scores.f1, scores.rouge_l) == (0.0, 0.0, 0.0)
    assert (scores.declined_answerable, scores.decline_precision) == (1.0, 0.0)
    assert scores.declined_unanswerable is None
    assert scores.citation_precision is None


def test_an_unanswerable_question_counts_only_in_declines():
    declined = score(Given("...", True), [], (), "en")
    invented = score(Given("Yes. [1]", False, ("d1",)), [], (), "en")
    assert (declined.declined_unanswerable, declined.decline_precision) == (1.0, 1.0)
    assert (invented.declined_unanswerable, invented.decline_precision) == (0.0, None)
    for scores in (declined, invented):
        assert scores.exact_match is scores.f1 is scores.rouge_l is scores.declined_answerable is None
        assert scores.citation_precision is scores.citation_recall is None


def test_citations():
    half = score(Given("x", False, ("d1", "d9")), ["x"], {"d1", "d2"}, "en")
    none = score(Given("x", False), ["x"], {"d1"}, "en")
    closed = score(Given("x", False, closed_book=True), ["x"], {"d1"}, "en")
    assert (half.citation_precision, half.citation_recall) == (0.5, 1.0)
    assert (none.citation_precision, none.citation_recall) == (None, 0.0)
    assert (closed.citation_precision, closed.citation_recall) == (None, None)


def test_a_column_leaves_out_what_is_not_counted():
    scores = [
        score(Given("yes", False), ["yes"], {"d"}, "en"),
        score(Given("no", True), [], (), "en"),
        score(Given("no", True), ["yes"], {"d"}, "en"),
    ]
    assert answers.column(scores, "f1") == [1.0, 0.0]
    assert answers.column(scores, "decline_precision") == [1.0, 0.0]
    assert answers.column(scores, "declined_unanswerable") == [1.0]

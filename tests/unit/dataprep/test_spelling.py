import unicodedata
from random import Random

import pytest
from pypinyin import lazy_pinyin
from rapidfuzz.distance import Levenshtein

from ragray.dataprep import spelling

SEEDS = range(30)


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_that_touch(seed: int) -> None:
    question = "installation"
    wrong = spelling.keyboard(question, Random(seed))
    assert wrong[0] == "i"  # a word's first letter stays
    assert 1 <= Levenshtein.distance(question, wrong) <= 1
    assert set(wrong) - set(question) <= set("yuhjkbnm890op[l;,qwsz45rtdgcvxfe6i")


def test_neighbours_of_one_key() -> None:
    # on a standard keyboard G lies between F and H, below T and Y, above V and B
    assert set("fhtyvb") <= set(spelling._neighbours()["g"]) and "a" not in spelling._neighbours()["g"]
    for key, near in spelling._neighbours().items():
        assert all(key in spelling._neighbours()[other] for other in near if other.isalpha()), key


def test_longer_questions_get_more_slips() -> None:
    question = "how to install the package on another machine without the network connection of the company"
    changed = [Levenshtein.distance(question, spelling.keyboard(question, Random(seed))) for seed in SEEDS]
    assert min(changed) >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_homophones_sound_the_same(seed: int) -> None:
    question = "怎样设置训练的参数和银行账号"
    wrong = spelling.homophones_zh(question, Random(seed))
    differing = [(a, b) for a, b in zip(question, wrong, strict=True) if a != b]
    assert 1 <= len(differing) <= 2
    for right, other in differing:
        assert lazy_pinyin(right) == lazy_pinyin(other) or right == "行"
        other.encode("gb2312")


def test_a_word_decides_how_a_character_is_read() -> None:
    # 行 is hang2 in 银行, so that it never becomes one of xing2
    found = {spelling.homophones_zh("银行", Random(seed))[1] for seed in range(200)} - {"行"}
    assert found and all("hang" in lazy_pinyin(character) for character in found)


def test_english_homophones() -> None:
    assert spelling.homophones_en("Is there a kernel?", Random(1)) in {
        "Is their a kernel?",
        "Is there a colonel?",
        "Is their a colonel?",
    }
    assert spelling.homophones_en("Install packages", Random(1)) == "Install packages"


@pytest.mark.parametrize("seed", SEEDS)
def test_width_is_the_same_in_nfkc(seed: int) -> None:
    for question, change in (("Ray 2.60 怎么装？", spelling.width_zh), ("How (much) memory?", spelling.width_en)):
        wide = change(question, Random(seed))
        assert wide != question
        assert unicodedata.normalize("NFKC", wide) == unicodedata.normalize("NFKC", question)


@pytest.mark.parametrize(
    "rule",
    [spelling.keyboard, spelling.homophones_en, spelling.homophones_zh, spelling.width_en, spelling.width_zh],
)
@pytest.mark.parametrize(
    "question", ["", " ", "？", "\U0001f600", "a", "中", "\ud800".encode("utf-8", "ignore").decode()]
)
def test_odd_questions_do_no_harm(rule, question: str) -> None:
    for seed in range(5):
        assert isinstance(rule(question, Random(seed)), str)

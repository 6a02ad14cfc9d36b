from random import Random

from ragray.dataprep.switching import switch


def found(question: str) -> set[str]:
    return {switch(question, Random(seed)) for seed in range(60)}


def test_terms_change_their_language() -> None:
    assert found("怎么训练？") == {"怎么training？", "怎么 training？", "怎么train？", "怎么 train？"}
    assert found("Is the index big?") == {"Is the 索引 big?", "Is the索引big?"} - {"Is the索引big?"}
    assert found("安卓手机怎么下载") >= {"Android手机怎么下载", "安卓手机怎么download", "Android手机怎么download"}


def test_the_longest_term_counts() -> None:
    assert all("dataset" in text for text in found("哪些数据集？"))


def test_parts_of_words_and_names_stay() -> None:
    for question in ("indexing", "train.epochs", "pre-train", "reindex", "data/faq", "file_name", "服"):
        assert found(question) == {question}

import pytest

from ragray.config_data import GuardConfig
from ragray.dataprep.negatives import Negatives, Scored, answers_too, refusal, triples, tuples
from ragray.schema import Passage, QARecord

RECORD = QARecord("a", "What?", "Set the port to 8000 in the file.", "en", "f", 1, "g", "train")
OTHER = "Logs are below the output folder."
GUARD = GuardConfig(first_rank=2, last_rank=10, margin=0.1, max_likeness=0.2, covering=0.6)
GROUPS = {"a": "g", "same-group": "g", "other": "h"}


def passage(doc_id: str, text: str) -> Passage:
    return Passage(doc_id, "", text, "en", "f", "faq")


def why(
    doc_id: str = "n", text: str = OTHER, rank: int = 5, bm25: float = 1.0, cosine: float = 0.1, likeness: float = 0.0
) -> str:
    return refusal(RECORD, Scored(passage(doc_id, text), rank, bm25, cosine, likeness), (10.0, 0.5), GROUPS, GUARD)


def test_each_reason() -> None:
    assert why() == "" and why("other") == ""
    assert why("a") == why("same-group") == "same_group"
    assert why(text="set the PORT to 8000 in the file") == "same_answer"
    assert why(text="In the config file, set the port to 8000, then restart.") == "containment"
    assert why(rank=1) == why(rank=11) == "rank_window"
    assert why(rank=2) == why(rank=10) == why(rank=0) == ""
    assert why(likeness=0.21) == "likeness" and why(likeness=0.2) == ""
    # 10 % below the answer's BM25 of 10 and cosine of 0.5: at most 9 and 0.45
    assert why(bm25=9.1) == why(cosine=0.46) == "margin"
    assert why(bm25=9.0, cosine=0.45) == ""


def test_records_without_groups_are_not_all_of_one() -> None:
    alone = QARecord("a", "What?", "Set it.", "en", "f", 1)
    found = Scored(passage("n", OTHER), 5, 0.0, 0.0, 0.0)
    assert refusal(alone, found, (1.0, 1.0), {}, GUARD) == ""


def test_no_margin_refuses_nothing() -> None:
    found = Scored(passage("n", OTHER), 5, 99.0, 1.0, 0.0)
    assert refusal(RECORD, found, (1.0, 0.1), {}, GUARD.model_copy(update={"margin": 0.0})) == ""


def test_covering() -> None:
    # the answer's words: set the port to 8000 in file = 7; 5 of 7 = 0.71, 4 of 7 = 0.57
    assert answers_too(passage("x", "port 8000 in file: set"), RECORD)
    assert not answers_too(passage("x", "port 8000 in file"), RECORD)


ROWS = [
    Negatives("a", "What?", "a", ["n1", "n2"], [0.4, 0.1], ["hard", "random"], 0.9),
    Negatives("b", "Why?", "b", ["n1"], [0.3], ["hard"], 0.8),
]
TEXTS = {"a": "answer a", "b": "answer b", "n1": "one", "n2": "two"}


def test_triples() -> None:
    assert triples(ROWS, TEXTS).to_pylist() == [
        {"anchor": "What?", "positive": "answer a", "negative": "one"},
        {"anchor": "What?", "positive": "answer a", "negative": "two"},
        {"anchor": "Why?", "positive": "answer b", "negative": "one"},
    ]


def test_tuples_are_whole_and_their_scores_in_the_order_of_the_texts() -> None:
    found = tuples(ROWS, TEXTS, 2)
    # sentence-transformers takes columns in their order as inputs, and `label` apart from them
    assert found.column_names == ["anchor", "positive", "negative_1", "negative_2", "label"]
    assert found.to_pylist() == [
        {"anchor": "What?", "positive": "answer a", "negative_1": "one", "negative_2": "two", "label": [0.9, 0.4, 0.1]}
    ]
    assert [row["negative_1"] for row in tuples(ROWS, TEXTS, 1).to_pylist()] == ["one", "one"]


@pytest.mark.parametrize("count", [0, 3])
def test_no_rows_keep_the_columns(count: int) -> None:
    assert tuples([], TEXTS, count).num_columns == 3 + count

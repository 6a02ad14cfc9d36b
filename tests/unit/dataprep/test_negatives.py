from ragray.dataprep.negatives import answers_too, choose_negatives
from ragray.schema import Passage, QARecord

RECORD = QARecord("a", "What?", "Set the port to 8000 in the file.", "en", "f", 1, "g", "train")


def passage(doc_id: str, text: str) -> Passage:
    return Passage(doc_id, "", text, "en", "f", "faq")


def test_passages_that_answer_are_no_negatives() -> None:
    found = [
        (passage("a", RECORD.answer), 4.0),
        (passage("same-group", "Something else."), 3.5),
        (passage("copy", "set the PORT to 8000 in the file"), 3.0),
        (passage("n1", "Logs are below the output folder."), 2.0),
        (passage("n2", "Nothing."), 1.0),
    ]
    chosen = choose_negatives(RECORD, found, {"a": "g", "same-group": "g"}, 1)
    assert (chosen.negative_ids, chosen.negative_scores, chosen.positive_id) == (["n1"], [2.0], "a")


def test_covering() -> None:
    # the answer's words: set the port to 8000 in file = 7; 5 of 7 = 0.71, 4 of 7 = 0.57
    assert answers_too(passage("x", "port 8000 in file: set"), RECORD)
    assert not answers_too(passage("x", "port 8000 in file"), RECORD)

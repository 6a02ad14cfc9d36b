import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.config_data import DataConfig, DocumentSourceConfig
from ragray.dataprep.normalize import normal_form
from ragray.dataprep.passages import document_files, read_passages, split_text
from ragray.errors import DataError

SETTINGS = DataConfig.model_validate({"faq": [{"path": "x"}], "passage_chars": 100, "passage_overlap_chars": 20})


def test_headings_become_titles_and_ids(tmp_path: Path) -> None:
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide/run.md").write_text(
        "---\na: 1\n---\nPreface.\n# Guide\nIntro.\n## Run\nDo it.\n### Deep\nMore.\n## End\nBye.\n"
    )
    passages = read_passages(document_files([DocumentSourceConfig(path=str(tmp_path))]), SETTINGS)
    assert [(p.doc_id, p.title, p.text) for p in passages] == [
        ("guide/run#1", "run", "Preface."),
        ("guide/run#2", "Guide", "Intro."),
        ("guide/run#3", "Guide > Run", "Do it."),
        ("guide/run#4", "Guide > Run > Deep", "More."),
        ("guide/run#5", "Guide > End", "Bye."),
    ]
    assert {p.kind for p in passages} == {"document"}


def test_code_and_table_rows_are_not_divided() -> None:
    code = "```sh\n" + "command --with arguments\n" * 8 + "# comment\n```"
    row = "| " + "cell " * 30 + "|"
    pieces = split_text(f"Before. {'Word ' * 10}\n{code}\nAfter.\n{row}\n{row}\n", 100, 20)
    assert sum(code in piece for piece in pieces) == 1
    assert sum(piece.count(row) for piece in pieces) >= 2


def test_overlap_is_the_end_of_the_piece_before() -> None:
    text = "".join(f"Sentence number {n}. " for n in range(12))
    pieces = split_text(text, 60, 20)
    assert all(len(piece) <= 60 for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        assert before.endswith(after.split(". ")[0] + ".")


@given(st.text("ab. \n。，字", max_size=300))
def test_nothing_is_lost_without_overlap(text: str) -> None:
    pieces = split_text(text, 20, 0)
    assert all(len(piece) <= 20 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(normal_form(text).split())


def test_document_errors(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Only a title\n")
    with pytest.raises(DataError, match="holds no text"):
        read_passages(document_files([DocumentSourceConfig(path=str(tmp_path / "a.md"))]), SETTINGS)
    with pytest.raises(DataError, match=r"data\.documents\.0\.path"):
        document_files([DocumentSourceConfig(path=str(tmp_path / "b.md"))])

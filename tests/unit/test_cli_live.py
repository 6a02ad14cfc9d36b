"""`ragray live`: an index that changes, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from ragray.cli import main
from ragray.config import RetrievalConfig
from ragray.retrieval.writing import build_index
from ragray.schema import Passage


@pytest.fixture
def store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "built").mkdir()
    passages = [Passage(f"d{n}", f"title{n}", f"text{n} common", "en", "faq", "faq") for n in range(5)]
    build_index(passages, RetrievalConfig(), tmp_path / "built")
    assert run("create", tmp_path / "store", "--from", tmp_path / "built", capsys=capsys) == {
        "version": 1, "documents": 5, "segments": 1,
    }  # fmt: skip
    return tmp_path / "store"


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> Any:
    try:
        main(["live", *map(str, arguments)])
    except SystemExit as done:
        assert not done.code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def fails(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["live", *map(str, arguments)])
    return int(ended.value.code or 0), capsys.readouterr().err


def test_the_life_of_a_store(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old = tmp_path / "new.jsonl", tmp_path / "old.txt"
    new.write_text('{"id": "d1", "title": "title1", "text": "fresh"}\n{"_id": "n", "text": "new common"}\n')
    old.write_text("d2\n\nd3\n")
    changed = run("update", store, "--add", new, "--delete-from", old, "--delete", "d4", capsys=capsys)
    assert changed == {
        "version": 2, "added": 1, "replaced": 1, "deleted": 3, "documents": 3, "segments": 2,
    }  # fmt: skip
    assert {hit["doc_id"] for hit in run("search", store, "common fresh", "--json", capsys=capsys)} == {
        "d0", "d1", "n",
    }  # fmt: skip
    assert run("compact", store, "--all", capsys=capsys) == {
        "version": 3,
        "merged": True,
        "documents": 3,
        "segments": 1,
    }
    assert run("compact", store, "--all", capsys=capsys)["merged"] is False
    assert run("roll-back", store, 1, capsys=capsys)["documents"] == 5
    assert run("versions", store, capsys=capsys)["versions"] == [1, 2, 3]
    assert run("prune", store, "--keep", 1, capsys=capsys)["removed"] == [2]


def test_mistakes_say_what_to_do(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "x", "text": "y"}\n{"id": \n')
    for arguments, code, message in (
        (("update", store), 2, "nothing to change"),
        (("update", store, "--delete", "absent"), 3, "'absent'"),
        (("update", store, "--add", broken), 3, "broken.jsonl:2"),
        (("update", store, "--delete-from", tmp_path), 2, "cannot be read"),
        (("update", tmp_path / "none", "--delete", "d0"), 4, "no changing index here"),
        (("create", store, "--from", tmp_path / "built"), 4, "not an empty folder"),
        (("create", tmp_path / "other", "--from", tmp_path), 4, "no index here"),
        (("roll-back", store, 7), 4, "no version 7"),
    ):
        found, said = fails(*arguments, capsys=capsys)
        assert (found, message in said) == (code, True), said
    assert run("versions", store, capsys=capsys)["versions"] == [1]

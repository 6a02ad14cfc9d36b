"""Tokenizing with Ray Data: the same bytes for any number of tasks, what is there reused, errors as ours."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ragray.artifact import folder_digest
from ragray.distributed import tokens
from ragray.distributed.tokens import make_tokens
from ragray.errors import EngineError
from ragray.train.stored_examples import open_store
from ragray.train.token_store import TokenSource, make_store

pytestmark = pytest.mark.usefixtures("ray_local")

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "unit" / "train" / "conftest.py")))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny.make_tiny_model(folder / "tiny")
    return TokenSource(tiny.write_examples(folder / "e.parquet", tiny.example_rows(30, 6)), model, 512, "all", 5)


def test_any_number_of_tasks_gives_the_bytes_of_one_process(source, tmp_path):
    digests = set()
    for tasks in (None, 1, 3):
        work = tmp_path / str(tasks)
        work.mkdir()
        digests.add(folder_digest(make_tokens(source, work, tasks)))
    (tmp_path / "plain").mkdir()
    plain = make_store(source, tmp_path / "plain")
    assert digests == {folder_digest(plain)}
    assert len(open_store(plain, source)[0]) == 25


def test_parts_that_are_there_are_not_made_again(source, tmp_path, monkeypatch):
    folder = make_tokens(source, tmp_path, 2)
    before = folder_digest(folder)
    parts = sorted(folder.glob("*.arrow"))
    kept = {path: path.stat().st_ino for path in parts[2:]}
    for path in parts[:2]:
        path.unlink()
    (folder / "store.json").unlink()
    make_tokens(source, tmp_path, 2)
    assert folder_digest(folder) == before
    assert {path: path.stat().st_ino for path in kept} == kept
    monkeypatch.setattr(tokens, "connect", lambda: pytest.fail("Ray is not needed"))
    make_tokens(source, tmp_path)
    parts[0].unlink()
    make_tokens(source, tmp_path)
    assert folder_digest(folder) == before


def test_an_error_of_a_task_comes_out_as_ours(source, tmp_path):
    broken = shutil.copytree(source.model_folder, tmp_path / "model")
    (broken / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="no chat template") as caught:
        make_tokens(TokenSource(source.examples_file, broken, 512, "all", 5), tmp_path)
    assert "Traceback" not in str(caught.value)

"""Questions answered in parts by Ray Data: the same answers however many workers, and errors as they were raised."""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ray import cloudpickle
from test_evaluate import QUESTIONS, model_maker

from ragray.config import EngineConfig
from ragray.distributed import cell_runs
from ragray.distributed.cell_runs import Asked, answer_cells, model_key, parts_of
from ragray.distributed.cells import Cell, answer_part, load
from ragray.engine.assistant import Citation, Retrieved
from ragray.errors import EngineError, WorkError
from ragray.evaluation.report import Answerer
from ragray.schema import EvalQuestion

MANY = tuple(
    replace(QUESTIONS[n % 2], query_id=f"q{n}", question=f"{QUESTIONS[n % 2].question} {n}") for n in range(11)
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    parent = tmp_path_factory.mktemp("models")
    return tuple(str(model_maker()(parent / f"tiny{seed}", seed=seed)) for seed in (0, 1))


def cell(name: str, folder: str, batch_size: int = 2) -> Cell:
    return Cell(name, "model", folder, batch_size, 5, EngineConfig(kind="transformers", weights="fp32", cpu_threads=1))


def retrieved(question: EvalQuestion, answerable: bool = True) -> Retrieved:
    citation = Citation(1, "f-1", "title", "Run make demo.", "f.csv", 1, 1.0, 0.0, 1, 1.0, 1, 1.0)
    return Retrieved(question.question, question.lang, (citation,), 0.9, answerable, 0.0)


@pytest.fixture(scope="module")
def asked(folders) -> list[Asked]:
    found = tuple(retrieved(q, answerable=n != 3) for n, q in enumerate(MANY))
    return [
        Asked(cell("closed", folders[0]), MANY, None),
        Asked(cell("other", folders[1]), MANY[:5], found[:5]),
        Asked(cell("open", folders[0]), MANY, found),
    ]


def texts(answered) -> dict[str, list[str]]:
    return {name: [answer.given.text for answer in one.answers] for name, one in answered.items()}


@pytest.fixture(scope="module")
def alone(ray_local, asked):
    told = []
    answered = answer_cells(asked, 1, lambda name, one: told.append((name, len(one.answers))))
    assert sorted(told) == [("closed", 11), ("open", 11), ("other", 5)]
    return answered


def test_answers_stand_in_the_order_of_questions(alone, asked):
    assert list(alone) == ["closed", "other", "open"]
    by_gate = [answer.declined_by == "retrieval" for answer in alone["open"].answers]
    assert by_gate == [n == 3 for n in range(11)]
    assert alone["open"].answers[0].given.closed_book is False and alone["closed"].answers[0].given.closed_book
    assert texts(alone)["open"][:5] != texts(alone)["other"]  # another model
    assert len(set(texts(alone)["closed"])) > 1


def test_the_number_of_workers_changes_nothing(alone, asked):
    both = answer_cells(asked, 2)
    assert {name: one.answers for name, one in both.items()} == {name: one.answers for name, one in alone.items()}
    assert {name: one.answerer for name, one in both.items()} == {name: one.answerer for name, one in alone.items()}


def test_a_part_answers_as_the_same_questions_do_alone(alone, asked):
    """What Ray Data gives equals what one process gives for each part's questions."""
    one = asked[2]
    engine = load(one.cell)
    for part in (p for p in parts_of(asked) if p["cell"] == 2):
        some = slice(part["start"], part["stop"])
        here = answer_part(engine, one.cell.max_new_tokens, one.questions[some], one.retrieved[some])
        assert tuple(here) == alone["open"].answers[some]
    engine.close()
    assert Answerer(**asdict(engine.info)) == alone["open"].answerer


def test_parts_hold_every_question_once_and_go_by_model(asked):
    parts = parts_of(asked)
    assert [part["cell"] for part in parts] == [0, 0, 2, 2, 1]  # 0 and 2 have the same model
    size = cell_runs.PART_BATCHES * 2
    assert [(p["start"], p["stop"]) for p in parts if p["cell"] == 0] == [(0, size), (size, 11)]
    assert model_key(asked[0].cell) == model_key(asked[2].cell) != model_key(asked[1].cell)


def test_an_error_of_a_worker_comes_back_as_it_was_raised(ray_local, asked, tmp_path):
    (tmp_path / "empty").mkdir()
    broken = Asked(cell("broken", str(tmp_path / "empty")), MANY[:1], None)
    with pytest.raises(EngineError) as caught:
        answer_cells([broken], 1)
    assert caught.value.fix and "ray::" not in str(caught.value)


def test_a_cell_without_questions_is_a_mistake_of_the_caller(asked):
    with pytest.raises(ValueError, match="closed: no question"):
        answer_cells([replace(asked[0], questions=())], 1)


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not import tests


class DyingOnce(cell_runs.CellWorker):
    """A worker that is killed at the first part of all; the first question names the file that remembers it."""

    def __call__(self, batch):
        mark = Path(self._asked[0].questions[0].question)
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return super().__call__(batch)


class DyingAlways(cell_runs.CellWorker):
    """A worker that is killed at each part."""

    def __call__(self, batch):
        os._exit(1)


def test_a_killed_worker_is_started_again(ray_local, asked, tmp_path, monkeypatch):
    first = replace(MANY[0], question=str(tmp_path / "mark"))
    some = [Asked(asked[0].cell, (first, *MANY[1:]), None)]
    monkeypatch.setattr(cell_runs, "CellWorker", DyingOnce)
    killed = answer_cells(some, 1)
    assert (tmp_path / "mark").exists()
    monkeypatch.undo()
    assert killed["closed"].answers == answer_cells(some, 1)["closed"].answers


def test_a_worker_that_is_lost_for_good_is_told(ray_local, asked, monkeypatch):
    monkeypatch.setattr(cell_runs, "CellWorker", DyingAlways)
    with pytest.raises(WorkError, match="evaluate: answering: its worker was lost 4 times") as caught:
        answer_cells(asked[:1], 1)
    assert "evaluate.workers" in caught.value.fix

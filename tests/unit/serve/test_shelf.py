"""Parts of several releases: shared where artifacts are the same, never three at once, closed after their answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ragray.engine.protocol import SamplingParams
from ragray.serve.artifacts import Served
from ragray.serve.closed_book import ClosedBook
from ragray.serve.current import Behind, Current
from ragray.serve.generator import Generator, NoGenerator
from ragray.serve.releases import Release
from ragray.serve.shelf import Shelf

SERVED = Served("i1", False, "c1", "e1", {"engine": "e1"}, 0)


def released(number: int, engine: str) -> Release:
    return Release(number, replace(SERVED, engine=engine, lineage={"engine": engine}))


class Part:
    """What was opened, whether an answer runs on it, and whether it was closed."""

    def __init__(self, served: Served) -> None:
        if served.engine == "damaged":
            raise OSError("damaged")
        self.engine, self.runs, self.closed = served.engine, False, False

    def close(self) -> bool:
        self.closed = not self.runs
        return self.closed


@pytest.fixture
def shelf() -> Shelf[Part]:
    shelf = Shelf(Part, lambda served: served.engine, Part.close)
    assert shelf.load(released(1, "a"))
    shelf.switch(released(1, "a"))
    return shelf


def test_a_part_is_closed_after_its_last_answer(shelf: Shelf[Part]) -> None:
    former = shelf[1]
    assert shelf.load(released(2, "b")) and shelf.loaded() == (1, 2)
    former.runs = True
    shelf.switch(released(2, "b"))
    for _ in range(3):
        shelf.keep({2})
        assert (shelf.loaded(), former.closed) == ((2,), False)
    assert shelf[1] is shelf[2]  # whoever asks for what is gone gets what there is
    assert not shelf.load(released(3, "c"))  # a third one would be in memory
    former.runs = False
    shelf.keep({2})
    assert former.closed and shelf.load(released(3, "c")) and not shelf[2].closed


def test_releases_with_the_same_artifacts_share_a_part(shelf: Shelf[Part]) -> None:
    part = shelf[1]
    assert shelf.load(released(2, "a")) and shelf[2] is part
    shelf.keep({2})
    shelf.keep({2})
    assert not part.closed


def test_what_is_dropped_before_it_answers_is_closed(shelf: Shelf[Part]) -> None:
    shelf.load(released(2, "b"))
    loaded = shelf[2]
    shelf.keep({1})
    shelf.keep({1})
    assert loaded.closed and not shelf[1].closed


def test_what_cannot_be_opened_is_not_there(shelf: Shelf[Part]) -> None:
    with pytest.raises(OSError, match="damaged"):
        shelf.load(released(2, "damaged"))
    assert shelf.loaded() == (1,)


def test_a_generator_is_closed_when_its_last_answer_has_ended(engine: Any) -> None:
    generator = Generator(engine, 4096, lineage={"engine": "e1"})
    engine.gate.clear()

    async def answered() -> dict[str, str]:
        answer = asyncio.create_task(
            generator.complete(await ClosedBook().retrieve("?"), SamplingParams(max_new_tokens=8))
        )
        await asyncio.sleep(0.05)
        assert not generator.close()
        engine.gate.set()
        return dict((await answer).lineage)

    assert asyncio.run(answered()) == {"engine": "e1"}
    assert generator.close()


def test_the_oldest_release_is_that_of_the_longest_answer() -> None:
    current = Current(Behind(ClosedBook(), NoGenerator(), {}, number=1))
    with current.used(current.now):
        current.now = replace(current.now, number=2)
        with current.used(current.now):
            assert current.oldest() == 1
        assert current.oldest() == 1
    assert current.oldest() == 2

"""What is kept in memory: keys, bytes, age, what leaves first, and what a lineage leaves behind."""

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.retrieval.agreement import Reading
from ragray.retrieval.similar import Wording
from ragray.serve import cache as cache_module
from ragray.serve.cache import Entry, MemoryCache, Place, normalise_question, place_of

LINEAGE = {"index": "a", "engine": "b"}
PARAMETERS = {"max_new_tokens": 9, "top_p": 1.0}


def wording(*terms: str, asks: str = "how") -> Wording:
    return Wording(" ".join(terms), "en", dict.fromkeys(terms, len(terms) ** -0.5), Reading((), (asks,)))


def entry(key: str, value: str = "1", scope: str = "s", stored: float = 0.0, of: Wording | None = None) -> Entry:
    return Entry(Place(scope, f"room of {scope}", key), value.encode(), stored, of)


def cache_for(*entries: Entry, ttl_s: float = 10.0, now: float = 0.0) -> MemoryCache:
    """A cache with room for exactly these entries, which it holds."""
    cache = MemoryCache(sum(one.size for one in entries), ttl_s, lambda: now)
    for one in entries:
        cache.put(one)
    return cache


def test_spelling_variants_of_one_question_share_a_key() -> None:
    assert normalise_question("  How do\n I install it? ") == "How do I install it?"
    assert normalise_question("ＧＰＵ　怎么装？") == normalise_question("GPU 怎么装?")
    assert normalise_question("Is US open?") != normalise_question("is us open?")  # case can carry meaning


@settings(deadline=None)  # machines may be busy
@given(st.text())
def test_normalising_twice_changes_nothing(question: str) -> None:
    once = normalise_question(question)
    assert normalise_question(once) == once


def test_every_part_of_the_key_counts() -> None:
    def places(question: str = "q", lineage: dict[str, str] = LINEAGE, **more: Any) -> Place:
        return place_of(question, {**PARAMETERS, **more}, lineage)

    keys = {
        places(),
        places("q2"),
        places(max_new_tokens=1),
        places(top_p=0.5),
        places(lineage=LINEAGE | {"index": "n"}),
    }
    assert len({place.key for place in keys}) == 5
    assert len({place.room for place in keys}) == 4  # another question is of the same room
    assert len({place.scope for place in keys}) == 2  # only the lineage makes another scope


@pytest.mark.parametrize(("name", "value"), [("__version__", "99"), ("READING_VERSION", 99)])
def test_another_release_finds_nothing(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place_of("q", PARAMETERS, LINEAGE)
    assert place_of("q", PARAMETERS, LINEAGE) == before
    monkeypatch.setattr(cache_module, name, value)
    after = place_of("q", PARAMETERS, LINEAGE)
    assert not set(before) & set(after)


def test_the_one_not_used_for_longest_leaves_first() -> None:
    cache = cache_for(entry("a"), entry("b"))
    assert cache.get("a") == entry("a")
    cache.put(entry("c"))
    assert "b" not in cache
    assert (cache.get("a"), cache.get("c"), len(cache), cache.counts["evicted"]) == (entry("a"), entry("c"), 2, 1)


def test_putting_again_renews_and_does_not_grow() -> None:
    cache = cache_for(entry("a"), entry("b"))
    before = cache.size
    cache.put(entry("a", "9"))
    assert cache.size == before
    cache.put(entry("c"))
    assert (cache.get("a"), cache.get("b"), len(cache)) == (entry("a", "9"), None, 2)


def test_a_long_value_takes_the_room_of_several_short_ones() -> None:
    cache = MemoryCache(10 * entry("a").size, 10.0, lambda: 0.0)
    for key in "abcdefghij":
        cache.put(entry(key))
    assert len(cache) == 10
    cache.put(entry("long", "x" * 5 * entry("a").size))
    assert "long" in cache and 3 <= len(cache) <= 5
    cache.put(entry("too long", "x" * 10 * entry("a").size))
    assert ("too long" in cache, cache.counts["too_large"]) == (False, 1)
    assert cache.get("j") is not None  # and nothing left for it


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000), st.booleans())))
def test_its_bytes_are_those_of_its_entries_and_never_more_than_allowed(puts: list[tuple[str, int, bool]]) -> None:
    cache, kept = MemoryCache(8000, 10.0, lambda: 0.0), dict[str, Entry]()
    for key, length, shares in puts:
        kept[key] = entry(key, "x" * length, of=wording("t", key) if shares else None)
        cache.put(kept[key])
        assert cache.size == sum(kept[name].size for name in kept if name in cache) <= 8000


def test_the_size_of_an_entry_is_what_it_takes() -> None:
    """Counted and traced memory differ by less than a third."""
    gc.collect()
    tracemalloc.start()
    try:
        cache = MemoryCache(1 << 30, 10.0, lambda: 0.0)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(500):
            terms = [f"term{number}x{place}" for place in range(8)]
            cache.put(entry(f"{number:064}", "x" * 3000 + str(number), of=wording(*terms)))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.75 < cache.size / taken < 1.33


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = MemoryCache(0, 10.0, lambda: 0.0)
    cache.put(entry("a"))
    assert (cache.get("a"), len(cache), cache.size) == (None, 0, 0)


def test_what_is_too_old_is_gone() -> None:
    now = 100.0
    cache = MemoryCache(10_000, 10.0, lambda: now)
    cache.put(entry("a", stored=95.0, of=wording("x")))
    cache.put(entry("late", stored=89.0))
    assert "late" not in cache
    now = 105.0
    assert cache.get("a") is not None
    now = 105.1
    assert cache.near("room of s", wording("x"), 0.9) is None
    assert (cache.get("a"), len(cache), cache.size, cache.counts["expired"]) == (None, 0, 0, 2)


def test_a_near_question_of_the_same_room_shares_the_entry() -> None:
    one, other = entry("a", of=wording("x", "y")), entry("b", scope="other", of=wording("x", "y"))
    cache = cache_for(one, other)
    found = cache.near("room of s", wording("x", "y"), 0.9)
    assert found is not None and (found.entry, round(found.similarity, 9)) == (one, 1.0)
    assert cache.near("room of s", wording("x", "y", asks="why"), 0.9) is None
    assert cache.near("room of s", wording("x", "z"), 0.9) is None
    assert cache.near("no such room", wording("x", "y"), 0.9) is None


def test_an_entry_that_leaves_is_no_longer_near() -> None:
    cache = cache_for(entry("a", of=wording("x")))
    cache.put(entry("b", of=wording("y")))
    assert cache.near("room of s", wording("x"), 0.9) is None
    assert cache.near("room of s", wording("y"), 0.9) is not None


def test_what_a_lineage_left_is_freed_at_once() -> None:
    cache = cache_for(entry("a"), entry("b", of=wording("x")), entry("c", scope="new"))
    cache.retire("s")
    cache.retire("s")  # nothing more to do
    assert (len(cache), cache.size, cache.counts["retired"]) == (1, entry("c", scope="new").size, 2)
    assert cache.near("room of s", wording("x"), 0.9) is None

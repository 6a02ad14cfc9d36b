"""The answer cache: what makes two questions one, and what leaves first."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.engine.protocol import SamplingParams
from ragray.serve.cache import LruCache, answer_key, normalise_question

LINEAGE = {"index": "a", "engine": "b"}


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
    params = SamplingParams()
    keys = {
        answer_key("q", params, LINEAGE),
        answer_key("q2", params, LINEAGE),
        answer_key("q", replace(params, max_new_tokens=1), LINEAGE),
        answer_key("q", replace(params, top_p=0.5), LINEAGE),
        answer_key("q", params, LINEAGE | {"index": "new"}),
    }
    assert len(keys) == 5


def test_the_one_not_used_for_longest_leaves_first() -> None:
    cache: LruCache[int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert "b" not in cache
    assert (cache.get("a"), cache.get("c"), len(cache)) == (1, 3, 2)


def test_putting_again_renews_and_does_not_grow() -> None:
    cache: LruCache[int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 9)
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (9, None, 2)


def test_a_cache_of_no_entries_keeps_nothing() -> None:
    cache: LruCache[int] = LruCache(0)
    cache.put("a", 1)
    assert cache.get("a") is None

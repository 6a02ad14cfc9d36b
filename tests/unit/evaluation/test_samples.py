"""Samples of tables: the first rows in order, counts, and texts that cannot hide anything."""

import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.evaluation.samples import SHOWN_CHARS, count_values, first_rows, visible, visible_pair


@pytest.fixture
def path(tmp_path):
    table = pa.table({"key": ["a", "b", "a", "c", "a", "b", "a+b"], "n": range(7), "other": ["x"] * 7})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    return tmp_path / "t.parquet"


def test_first_rows_come_in_order_from_all_row_groups(path):
    found = first_rows(path, "key", {"a": ["a"], "c": ["c"], "b": ["b", "a+b"], "none": ["z"]}, 3, ["n"])
    assert {name: [row["n"] for row in rows] for name, rows in found.items()} == {
        "a": [0, 2, 4], "c": [3], "b": [1, 5, 6], "none": [],
    }  # fmt: skip


def test_first_rows_stop_at_the_limit(path):
    assert first_rows(path, "key", {"a": ["a"]}, 1, ["n", "key"]) == {"a": [{"n": 0, "key": "a"}]}


def test_counts_are_over_all_row_groups(path):
    assert count_values(path, ["other", "key"]) == {("x", "a"): 3, ("x", "b"): 2, ("x", "c"): 1, ("x", "a+b"): 1}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 文本", "plain 文本"),
        ("a\u200bb\u202ec", r"a\u200bb\u202ec"),  # zero width; turns the direction of what follows
        ("a\nb\tc\x00", r"a⏎b⇥c\u0000"),
        (" a  b ", "·a··b·"),
        ("a\u3000b\xa0c", r"a\u3000b\u00a0c"),
        ("x" * SHOWN_CHARS, "x" * SHOWN_CHARS),
        ("x" * (SHOWN_CHARS + 1), "x" * SHOWN_CHARS + "…"),
    ],
)
def test_what_cannot_be_seen_is_marked(text, shown):
    assert visible(text) == shown


@given(st.text(max_size=400))
def test_nothing_invisible_is_left(text):
    assert all(c == " " or unicodedata.category(c) not in {"Cc", "Cf", "Zs", "Zl", "Zp"} for c in visible(text))


def test_a_pair_shows_its_difference():
    before, after = "x" * 500 + "<br>y", "x" * 500 + "y"
    assert visible_pair(before, after) == ("…" + "x" * 40 + "<br>y", "…" + "x" * 40 + "y")
    assert visible_pair("<b>a", "a") == ("<b>a", "a")
    assert visible_pair("same", "same") == ("same", "same")

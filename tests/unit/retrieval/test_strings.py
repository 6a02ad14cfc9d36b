"""Memory-mapped strings come back as they were, and are found."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.retrieval.strings import Strings, byte_order, encoded, write_strings


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=8), unique=True, max_size=12), st.text(max_size=8))
def test_stored_in_any_order_and_found(texts: list[str], other: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_strings(encoded(["before", *texts])[1:], Path(name), "words")
        stored = Strings(Path(name), "words")
        order = byte_order(encoded(texts))
        assert [stored[number] for number in range(len(stored))] == texts
        assert [stored.find(text, order) for text in texts] == list(range(len(texts)))
        assert stored.find(other, order) == (texts.index(other) if other in texts else None)


def test_sorted_strings_need_no_order(tmp_path: Path) -> None:
    texts = sorted(["集群", "gpu", "", "ray", "训练"], key=str.encode)
    write_strings(encoded(texts), tmp_path, "words")
    stored = Strings(tmp_path, "words")
    assert [stored.find(text) for text in texts] == [0, 1, 2, 3, 4]
    assert stored.find("absent") is None

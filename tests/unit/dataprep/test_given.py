import pyarrow as pa

from ragray.dataprep.clean import OUTCOME
from ragray.dataprep.given import with_given


def outcomes(reasons: list[str]) -> pa.Table:
    rows = [dict.fromkeys(OUTCOME.names, "") | {"ordinal": n, "line": n, "reason": r} for n, r in enumerate(reasons)]
    return pa.Table.from_pylist([row | {"question": "q", "answer": "a"} for row in rows], schema=OUTCOME)


def test_splits_have_several_names() -> None:
    given = ["train", " Dev", "validation", "TEST", ""]
    raw = pa.table({"split": given, "group": list("abcde")})
    found = with_given(outcomes([""] * 5), raw)
    assert found.column("split").to_pylist() == ["train", "valid", "valid", "test", ""]
    assert found.column("group").to_pylist() == list("abcde")
    assert found.column("reason").to_pylist() == [""] * 5


def test_another_split_is_rejected() -> None:
    found = with_given(
        outcomes(["", "too_long", ""]), pa.table({"split": ["held out", "held out", "test"]})
    ).to_pylist()
    assert [row["reason"] for row in found] == ["bad_split", "too_long", ""]
    assert "held out" in found[0]["detail"] and found[0]["text"] == "q\ta" and found[0]["question"] == ""
    assert found[2]["split"] == "test" and found[2]["question"] == "q"


def test_nothing_given() -> None:
    found = with_given(outcomes(["", ""]), pa.table({"question": ["a", "b"]}))
    assert found.column("split").to_pylist() == found.column("group").to_pylist() == ["", ""]

"""Groups and splits that the input itself gives.

In: the outcomes of cleaning and the raw rows. Out: the outcomes with the columns `group` and `split`, "" where nothing
is given; a row whose split is none that ragray knows is rejected as `bad_split`.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ragray.dataprep.rows import SHOWN_CHARS

GIVEN = ("group", "split")
_SPLITS = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "": "",
}  # fmt: skip


def with_given(outcomes: pa.Table, raw: pa.Table) -> pa.Table:
    """`outcomes` with what the raw rows, one for each, give."""
    columns = {name: raw.column(name) if name in raw.column_names else pa.repeat("", len(raw)) for name in GIVEN}
    named = pc.utf8_lower(pc.utf8_trim_whitespace(columns["split"]))
    place = pc.index_in(named, pa.array(list(_SPLITS)))
    columns["split"] = pa.array(list(_SPLITS.values())).take(place).fill_null("")
    for name, values in columns.items():
        outcomes = outcomes.append_column(name, values)
    bad = pc.and_(pc.is_null(place), pc.equal(outcomes.column("reason"), ""))
    return _rejected(outcomes, bad, named) if pc.any(bad).as_py() else outcomes


def _rejected(outcomes: pa.Table, bad: pa.ChunkedArray, splits: pa.ChunkedArray) -> pa.Table:
    text = pc.binary_join_element_wise(outcomes.column("question"), outcomes.column("answer"), "\t")
    shown = pc.utf8_slice_codeunits(splits, 0, 40)
    columns = {
        "reason": pa.scalar("bad_split"),
        "detail": pc.binary_join_element_wise("the split is ", shown, ", not train, valid or test", ""),
        "text": pc.utf8_slice_codeunits(text, 0, SHOWN_CHARS),
    } | {name: pa.scalar("") for name in ("question", "answer", "lang", "script")}
    for name, values in columns.items():
        replaced = pc.if_else(bad, values, outcomes.column(name))
        outcomes = outcomes.set_column(outcomes.column_names.index(name), name, replaced)
    return outcomes

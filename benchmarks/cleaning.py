"""The cleaning chain against polars, pyarrow, ftfy and plain Python.

The same steps for all, on questions and on answers: entities, NFKC, tags, zero-width characters, white space.
`python` is the reference: how many rows of the others differ from it is counted (entities: pyarrow and
polars know the five that are named in their chain). ftfy does its own work instead (mojibake, entities, widths),
ragray more: code, lists and meaning are kept, each row gets a language and a verdict, each step is counted.

  python benchmarks/cleaning.py --records records.parquet --count 20000
"""

from __future__ import annotations

import argparse
import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Case, Outcome, Work, main, record_options
from texts import Pair, read_pairs

if TYPE_CHECKING:
    import pyarrow as pa

Texts = Sequence[str]
Chain = Callable[[list[str]], Callable[[], Texts]]  # texts in the peer's own form (not timed) -> the work

_TAG = re.compile(r"<[^>]+>")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")
_SPACE = re.compile(r"\s+")
STEPS = ("invisible", "html", "templates", "unicode", "whitespace")
_ENTITIES = {"&nbsp;": " ", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&"}


def clean_records(raw: pa.Table, **settings: Any) -> tuple[Texts, Texts]:
    """Cleaned questions and answers as ragray gives them, "" where the row was rejected.

    Args:
        raw: rows as a reader gives them (`ragray.dataprep.rows.RAW_SCHEMA`).
        settings: of `data.clean`.
    """
    from ragray.config_data import CleanConfig
    from ragray.dataprep.clean import clean_table

    table = clean_table(raw, _input_file(), CleanConfig(**settings)).table
    return table.column("question"), table.column("answer")


def raw_table(pairs: Sequence[Pair]) -> pa.Table:
    """The pairs as ragray's readers hand them to the cleaning step."""
    import pyarrow as pa

    from ragray.dataprep.rows import RAW_SCHEMA

    count = len(pairs)
    columns = {name: [""] * count for name in RAW_SCHEMA.names}
    numbers = list(range(1, count + 1))
    columns.update(ordinal=numbers, line=numbers)
    columns.update(question=[question for question, _ in pairs], answer=[answer for _, answer in pairs])
    return pa.table(columns, schema=RAW_SCHEMA)


def _input_file() -> object:
    from ragray.dataprep.sources import InputFile

    return InputFile(Path("records.parquet"), "records.parquet", "records")


def plain(text: str) -> str:
    """The reference: every step on every text."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    return _SPACE.sub(" ", _INVISIBLE.sub("", _TAG.sub(" ", text))).strip()


def careful(text: str) -> str:
    """The same, each step only where a cheap test says that there may be work."""
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        if not unicodedata.is_normalized("NFKC", text):
            text = unicodedata.normalize("NFKC", text)
        text = _INVISIBLE.sub("", text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    return _SPACE.sub(" ", text).strip()


def _row_by_row(function: Callable[[str], str]) -> Chain:
    return lambda texts: lambda: [function(text) for text in texts]


def ftfy_chain(texts: list[str]) -> Callable[[], Texts]:
    """ftfy with NFKC, then white space."""
    import ftfy

    settings = ftfy.TextFixerConfig(normalization="NFKC")
    return lambda: [_SPACE.sub(" ", ftfy.fix_text(text, settings)).strip() for text in texts]


def arrow_chain(texts: list[str]) -> Callable[[], Texts]:
    """pyarrow.compute on one column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pa.array(texts, pa.large_string())

    def work() -> Texts:
        found = column
        for entity, char in _ENTITIES.items():
            found = pc.replace_substring(found, entity, char)
        found = pc.utf8_normalize(found, form="NFKC")
        for pattern, other in ((_TAG, " "), (_INVISIBLE, ""), (_SPACE, " ")):
            found = pc.replace_substring_regex(found, pattern.pattern, other)
        return pc.utf8_trim_whitespace(found)

    return work


def polars_chain(texts: list[str]) -> Callable[[], Texts]:
    """polars on one column."""
    import polars

    column = polars.Series(texts)

    def work() -> Texts:
        found = column.str.replace_many(list(_ENTITIES), list(_ENTITIES.values())).str.normalize("NFKC")
        for pattern, other in ((_TAG, " "), (_INVISIBLE, ""), (_SPACE, " ")):
            found = found.str.replace_all(pattern.pattern, other)
        return found.str.strip_chars()

    return work


def _start(chain: Chain) -> Callable[[argparse.Namespace], Work]:
    def start(args: argparse.Namespace) -> Work:
        _limit_arrow(args.threads)
        columns = [list(column) for column in zip(*read_pairs(args.records, args.count), strict=True)]
        for column in columns:
            chain(column[:50])()
        works = [chain(column) for column in columns]

        return lambda: partial(_outcome, columns, [work() for work in works])

    return start


def _start_ragray(args: argparse.Namespace, **settings: Any) -> Work:
    _limit_arrow(args.threads)
    pairs = read_pairs(args.records, args.count)
    clean_records(raw_table(pairs[:500]), **settings)
    raw = raw_table(pairs)
    columns = [list(column) for column in zip(*pairs, strict=True)]
    return lambda: partial(_outcome, columns, clean_records(raw, **settings))


def _limit_arrow(threads: int) -> None:
    import pyarrow as pa

    pa.set_cpu_count(threads)


def _python_texts(found: Texts) -> list[str]:
    for method in ("to_pylist", "to_list"):
        if hasattr(found, method):
            listed: list[str] = getattr(found, method)()
            return listed
    return list(found)


def _outcome(columns: Sequence[Sequence[str]], found: Sequence[Texts]) -> Outcome:
    """How many rows differ from the reference in question or answer."""
    unlike = [False] * len(columns[0])
    for column, made in zip(columns, found, strict=True):
        for n, (text, cleaned) in enumerate(zip(column, _python_texts(made), strict=True)):
            unlike[n] |= plain(text) != cleaned
    return {"rows": len(unlike), "unlike_python": sum(unlike)}


CASES = (
    Case("ragray", partial(_start_ragray, steps=STEPS), ("numba", "numpy", "pyarrow", "selectolax"),
         "The steps of the others, by rules of its own (its reference is in the tests); languages and all filters too"),
    Case("ragray_all_steps", _start_ragray, ("ftfy",), "With mojibake, contact and boilerplate lines"),
    Case("polars", _start(polars_chain), ("polars",)),
    Case("pyarrow", _start(arrow_chain), ("pyarrow",)),
    Case("python", _start(_row_by_row(plain)), note="The reference"),
    Case("python_careful", _start(_row_by_row(careful)), note="Skips what needs no work"),
    Case("ftfy", _start(ftfy_chain), ("ftfy",), "Repairs mojibake, removes no tags"),
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    return record_options(__doc__)


if __name__ == "__main__":
    main("cleaning", CASES, parser())

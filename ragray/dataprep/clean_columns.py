"""Cleaning a whole table: compiled code for the rows that need little, `clean.clean_row` for the others.

In: a table of raw rows. Out: the outcome of each, the same as that of `clean_row`. A row is done here only if `scan`
has proved that no step but the simple ones changes it and that no filter refuses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ragray.config_data import CleanConfig
from ragray.dataprep import filters, scan
from ragray.dataprep.clean import OUTCOME, Cleaned, Trace, clean_and_trace, clean_fields, judge
from ragray.dataprep.contacts import without_contacts
from ragray.dataprep.normalize import TEXT_STEPS
from ragray.dataprep.rewrite import BY_DROPPING, BY_MAPPING, BY_SPACING, gather, rewrite
from ragray.dataprep.rows import RawRow, in_one_piece
from ragray.dataprep.sources import REPLACEMENT, InputFile
from ragray.dataprep.unmark import unmark
from ragray.dataprep.utf8 import Bytes
from ragray.dataprep.verdicts import (
    LANGUAGES,
    SCRIPTS,
    Mask,
    Numbers,
    has_signs_and_code,
    languages,
    may_be_contact,
    may_be_refused,
)
from ragray.schema import QARecord, Rejected

EXAMPLES = 3  # of each step
BY_UNMARKING = 8  # beside the changes of `rewrite`
_SIMPLE = {"html": BY_UNMARKING, "invisible": BY_DROPPING, "unicode": BY_MAPPING, "whitespace": BY_SPACING}
_TEXTS = ("question", "answer", "lang", "script", "reason", "detail", "text")


def clean_columns(raw: pa.Table, file: InputFile, settings: CleanConfig) -> Cleaned:
    """The outcome of each row of a table of `rows.RAW_SCHEMA`."""
    raw = _whole(raw)
    question, answer = (
        _Column(raw.column(name).chunk(0), name == "question", settings) for name in ("question", "answer")
    )
    lang, script = languages(raw.column("lang").chunk(0), question.found, answer.found)
    slow = _needs_rules(raw, question, answer, lang, settings)
    slow |= _found_wanting(question, answer, slow, settings)
    rows = _Rows(raw, file, settings)
    numbers = np.flatnonzero(slow)
    others, traces = _by_rules(rows, raw.column("lang").chunk(0).take(pa.array(numbers)), numbers, settings)
    columns = {
        "question": question.cleaned(slow, others["question"]), "answer": answer.cleaned(slow, others["answer"]),
        "id": _ids(raw, file),
        "lang": _filled(_named(lang, LANGUAGES), slow, others["lang"]),
        "script": _filled(_named(script, SCRIPTS), slow, others["script"]),
    }  # fmt: skip
    for name in ("reason", "detail", "text"):
        columns[name] = _filled(pa.repeat("", len(raw)), slow, others[name])
    table = pa.table({"ordinal": raw.column("ordinal"), "line": raw.column("line")} | columns).select(OUTCOME.names)
    return Cleaned(table.cast(OUTCOME), *_account(rows, traces, question.changes | answer.changes, slow))


def _by_rules(
    rows: _Rows, given: pa.Array, numbers: scan.Ints, settings: CleanConfig
) -> tuple[dict[str, list[str]], dict[int, Trace]]:
    """The outcomes of single rows by name of column, and what each step did to them.

    Steps are done in plain Python; what comes out is judged by compiled code where that can be sure.
    """
    fields = [rows.fields(row) for row in numbers.tolist()]
    texts = [pa.array([f[k] if f else "" for f in fields], pa.string()) for k in (0, 1)]
    question, answer = (_scanned(column, k == 0, settings) for k, column in enumerate(texts))
    lang, script = languages(given, question, answer)
    unsure = may_be_refused(question, answer, lang, settings)
    unsure |= (question[:, scan.FLAGS] | answer[:, scan.FLAGS]) & scan.F_REPEATS > 0
    unsure |= np.array([f is None for f in fields], np.bool_)
    columns = {name: [""] * len(fields) for name in _TEXTS}
    columns |= {"question": texts[0].to_pylist(), "answer": texts[1].to_pylist()}
    columns |= {"lang": [LANGUAGES[k] for k in lang.tolist()], "script": [SCRIPTS[k] for k in script.tolist()]}
    for name, found in (("question", question), ("answer", answer)):
        _refuse_by_signs(name, found, columns[name].__getitem__, unsure, settings)
    traces = {row: f[2] for row, f in zip(numbers.tolist(), fields, strict=True) if f}
    for place in np.flatnonzero(unsure).tolist():
        outcome, traces[int(numbers[place])] = rows.judged(int(numbers[place]), fields[place])
        for name, values in columns.items():
            values[place] = str(getattr(outcome, name, ""))
    return columns, traces


def _scanned(column: pa.Array, one_line: bool, settings: CleanConfig) -> scan.Counts:
    data, offsets = scan.buffers(column)
    return scan.scan(data, offsets[:-1], offsets[1:], one_line, settings, scan.CLEAN)


def _needs_work(found: scan.Counts) -> Mask:
    """Which texts have something for the simple steps."""
    flags = found[:, scan.FLAGS]
    work: Mask = (flags & (scan.F_MAP | scan.F_DROP | scan.F_BLANKS)) > 0
    work |= (flags & scan.F_MAP_UNLESS_HAN > 0) & (found[:, scan.HANS_CHARS] == 0)
    return work


class _Column:
    """Questions or answers: what is in them, and the texts that compiled code has cleaned."""

    def __init__(self, column: pa.Array, one_line: bool, settings: CleanConfig) -> None:
        self.data, offsets = scan.buffers(column)
        self.starts, self.ends = offsets[:-1].copy(), offsets[1:].copy()
        state = scan.MAYBE_MOJIBAKE if "mojibake" in settings.steps else scan.RAW
        self.found = scan.scan(self.data, self.starts, self.ends, one_line, settings, state)
        self.column = column
        self.changes = np.zeros(len(column), np.uint8)
        self.which = np.zeros(len(column), np.uint8)
        self.rewritten: Bytes = np.zeros(0, np.uint8)
        flags, needs = self.found[:, scan.FLAGS], _needs_work(self.found)
        marked = flags & scan.F_MARKUP > 0
        self.slow: Mask = (flags & scan.F_SLOW > 0) | ((needs | marked) & (flags & scan.F_CODE > 0))
        self.slow |= marked & (flags & scan.F_DROP > 0)
        rows = np.flatnonzero(needs & ~marked & ~self.slow)
        self._rewrite(rows, self.data, self.starts[rows], self.ends[rows], one_line, settings)
        self._unmark(np.flatnonzero(marked & ~self.slow), one_line, settings)

    def _unmark(self, rows: scan.Ints, one_line: bool, settings: CleanConfig) -> None:
        """Turn simple HTML into text, then do the other steps."""
        data, starts, ends, done, changed = unmark(self.data, self.starts[rows], self.ends[rows])
        found = scan.scan(data, starts, ends, one_line, settings, scan.UNMARKED)
        sure = done & (found[:, scan.FLAGS] & (scan.F_SLOW | scan.F_CODE) == 0)
        self.slow[rows[~sure]] = True
        self.changes[rows[changed & sure]] |= BY_UNMARKING
        self.found[rows[sure]] = found[sure]
        self._rewrite(rows[sure], data, starts[sure], ends[sure], one_line, settings)

    def _rewrite(
        self, rows: scan.Ints, data: Bytes, starts: scan.Ints, ends: scan.Ints, one_line: bool, settings: CleanConfig
    ) -> None:
        """Do the simple steps on these rows and look again at what comes out."""
        if not len(rows):
            return
        before = self.found[rows]
        made, starts, ends, changes, blanks = rewrite(data, starts, ends, one_line, before[:, scan.HANS_CHARS] > 0)
        new = changes & (BY_DROPPING | BY_MAPPING) > 0  # tidy white space changes no more than these two counts
        before[:, scan.CHARS] += blanks - before[:, scan.BLANKS]
        before[:, scan.BLANKS] = blanks
        before[new] = scan.scan(made, starts[new], ends[new], one_line, settings, scan.CLEAN)
        self.found[rows] = before
        self.slow |= self.found[:, scan.FLAGS] & scan.F_SLOW > 0
        self.which[rows], self.changes[rows] = 1, self.changes[rows] | changes
        self.starts[rows], self.ends[rows] = starts + len(self.rewritten), ends + len(self.rewritten)
        self.rewritten = np.concatenate((self.rewritten, made)) if len(self.rewritten) else made

    def text(self, row: int) -> str:
        """A text that is not slow, cleaned."""
        data = self.rewritten if self.which[row] else self.data
        return bytes(data[self.starts[row] : self.ends[row]]).decode()

    def cleaned(self, slow: Mask, others: Sequence[str]) -> pa.Array:
        """The column with the texts of slow rows taken from `others`."""
        if not slow.any() and not self.which.any():
            return self.column
        raw = [text.encode() for text in others]
        ends = np.cumsum([len(text) for text in raw], dtype=np.int64)
        starts, until, which = self.starts.copy(), self.ends.copy(), self.which.copy()
        which[slow], until[slow] = 2, ends
        starts[slow] = ends - [len(text) for text in raw]
        joined = np.frombuffer(b"".join(raw) or b"\0", np.uint8)
        return gather((self.data, self.rewritten, joined), which, starts, until)


class _Rows:
    """Single rows of a table, for the rules in plain Python."""

    def __init__(self, raw: pa.Table, file: InputFile, settings: CleanConfig) -> None:
        self._file, self._settings = file, settings
        self._numbers = {name: np.asarray(raw.column(name)) for name in ("ordinal", "line")}
        names = [name for name in RawRow.__dataclass_fields__ if name in raw.column_names and name not in self._numbers]
        self._texts = {name: scan.buffers(raw.column(name).chunk(0)) for name in names}

    def fields(self, row: int) -> tuple[str, str, Trace] | None:
        """The cleaned question and answer; None if the row could not be read, or breaks a step."""
        raw = self._raw(row)
        if raw.reason or REPLACEMENT in raw.id + raw.question + raw.answer:
            return None
        try:
            return clean_fields(raw, self._settings)
        except (ImportError, MemoryError):
            raise
        except Exception:  # noqa: BLE001  (`clean_row` says which; one bad row must not stop the others)
            return None

    def outcome(self, row: int) -> tuple[QARecord | Rejected, Trace]:
        """What `clean_row` says, and what each step did."""
        return clean_and_trace(self._raw(row), self._file, self._settings)

    def judged(self, row: int, fields: tuple[str, str, Trace] | None) -> tuple[QARecord | Rejected, Trace]:
        """The same of a row whose cleaned `fields` may be known."""
        if fields is None:
            return self.outcome(row)
        question, answer, trace = fields
        return judge(self._raw(row), question, answer, self._file, self._settings), trace

    def _raw(self, row: int) -> RawRow:
        """A row; bytes that are no UTF-8 become U+FFFD."""
        texts = {
            name: bytes(data[ends[row] : ends[row + 1]]).decode("utf-8", "replace")
            for name, (data, ends) in self._texts.items()
        }
        ordinal, line = (int(self._numbers[name][row]) for name in ("ordinal", "line"))
        return RawRow(ordinal, line, **texts)


def _whole(raw: pa.Table) -> pa.Table:
    """The table in one piece, missing texts as ""."""
    arrays = [in_one_piece(column) for column in raw.columns]
    return pa.table(
        [array.fill_null("" if pa.types.is_string(array.type) else 0) for array in arrays], raw.column_names
    )


def _needs_rules(raw: pa.Table, question: _Column, answer: _Column, lang: Numbers, settings: CleanConfig) -> Mask:
    """Which rows are left to `clean_row`."""
    if tuple(step for step in settings.steps if step in TEXT_STEPS) != tuple(TEXT_STEPS) or (
        settings.mask or settings.chinese != "keep"
    ):
        return np.ones(len(raw), np.bool_)
    slow = question.slow | answer.slow | may_be_refused(question.found, answer.found, lang, settings)
    slow |= np.asarray(pc.not_equal(raw.column("reason"), ""))
    slow |= np.asarray(pc.match_substring(raw.column("id"), REPLACEMENT))
    return slow


def _found_wanting(question: _Column, answer: _Column, slow: Mask, settings: CleanConfig) -> Mask:
    """Which rows are slow, or have a contact line, repetitions or too many signs where `scan` could not be sure."""
    wanting = slow.copy()
    maybe = may_be_contact(answer.found) & ("contacts" in settings.steps)
    for row in np.flatnonzero(maybe & ~wanting).tolist():
        text = answer.text(row)
        wanting[row] = without_contacts(text, question.text(row)) != text
    for name, column in (("question", question), ("answer", answer)):
        for row in np.flatnonzero((column.found[:, scan.FLAGS] & scan.F_REPEATS > 0) & ~wanting).tolist():
            wanting[row] = filters.repeats(name, column.text(row), settings) is not None
        _refuse_by_signs(name, column.found, column.text, wanting, settings)
    return wanting


def _refuse_by_signs(
    name: str, found: scan.Counts, text: Callable[[int], str], refused: Mask, settings: CleanConfig
) -> None:
    """Set which texts have too many signs outside of code, where `scan` could not tell.

    Args:
        name: "question" or "answer".
        found: in each text.
        text: gives the text of a row.
        refused: those that are set already are not looked at.
    """
    for row in np.flatnonzero(has_signs_and_code(found) & ~refused).tolist():
        refused[row] = filters.symbols(name, text(row), settings.max_symbol_share) is not None


def _named(numbers: Numbers, names: Sequence[str]) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(numbers))


def _filled(column: pa.Array, slow: Mask, others: Sequence[str]) -> pa.Array:
    return pc.replace_with_mask(column, pa.array(slow), pa.array(others, pa.string()))


def _ids(raw: pa.Table, file: InputFile) -> pa.Array:
    given = raw.column("id").chunk(0)
    if pc.all(pc.not_equal(given, "")).as_py():
        return given
    numbers = pc.utf8_lpad(raw.column("ordinal").chunk(0).cast(pa.string()), 4, "0")
    numbered = pc.binary_join_element_wise(pa.scalar(file.label), numbers, "-")
    return pc.if_else(pc.equal(given, ""), numbered, given)


def _account(
    rows: _Rows, traces: dict[int, Trace], changes: Bytes, slow: Mask
) -> tuple[Counter[str], dict[str, list[tuple[str, str]]]]:
    """How many rows each step changed, and the first of them, before and after."""
    changed = Counter(step for trace in traces.values() for step in trace)
    places: dict[str, list[int]] = {}
    for row, trace in traces.items():
        for step in trace:
            places.setdefault(step, []).append(row)
    for step, bit in _SIMPLE.items():
        found = np.flatnonzero((changes & bit > 0) & ~slow)
        if len(found):
            changed[step] += len(found)
            places.setdefault(step, []).extend(found[:EXAMPLES].tolist())
    examples: dict[str, list[tuple[str, str]]] = {}
    for step in sorted(places):
        first = sorted(places[step])[:EXAMPLES]
        examples[step] = [(traces.get(row) or rows.outcome(row)[1])[step] for row in first]
    return changed, examples

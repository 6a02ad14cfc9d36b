"""tmp"""
from collections import Counter
import pyarrow as pa
def clean_columns(raw, file, settings):
    from ragray.dataprep.clean import OUTCOME, Cleaned, clean_and_trace
    from ragray.dataprep.rows import raw_rows
    columns = {name: [] for name in OUTCOME.names}; changed = Counter(); examples = {}
    for row in raw_rows(raw):
        outcome, trace = clean_and_trace(row, file, settings)
        changed.update(trace.keys())
        given = {"ordinal": row.ordinal, "line": row.line, "id": row.id or f"{file.label}-{row.ordinal:04d}"}
        for name in OUTCOME.names:
            columns[name].append(given.get(name, getattr(outcome, name, "")))
    return Cleaned(pa.table(columns, schema=OUTCOME), changed, examples)

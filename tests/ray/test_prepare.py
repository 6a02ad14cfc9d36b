"""Stage prepare: every row is accounted for, whatever the damage and however the rows are divided."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.config_loading import validate_config
from ragray.dataprep.blocks import Blocks
from ragray.dataprep.decisions import near_links, sampled
from ragray.dataprep.read import faq_files
from ragray.distributed.blocks import list_parts, write_blocks
from ragray.distributed.prepare import STAGE, finish
from ragray.distributed.stage import bring_up_to_date
from ragray.errors import DataError
from ragray.schema import Duplicate, QARecord, Rejected, records_of

pytestmark = pytest.mark.usefixtures("ray_local")


def damaged(path: Path, seed: int, rows: int = 60) -> Path:
    """A JSONL file in which good rows, repeated ones and every kind of damage are mixed."""
    chance = random.Random(seed)
    lines: list[bytes] = []
    for n in range(rows):
        good = {
            "question": f"How do I set option {n:03} {chance.random()}?",
            "answer": f"Write option{n} = {chance.random()}.",
        }
        text = json.dumps(good).encode()
        kind = chance.choice(["good"] * 6 + ["repeat", "cut", "empty", "bytes", "list", "zh"])
        if kind == "repeat" and lines:
            text = lines[0]
        elif kind == "cut":
            text = text[: len(text) // 2]
        elif kind == "empty":
            text = json.dumps({**good, "answer": "<p></p>"}).encode()
        elif kind == "bytes":
            text = text.replace(b"option", b"\xff\xfe", 1)
        elif kind == "list":
            text = json.dumps(list(good.values())).encode()
        elif kind == "zh":
            text = json.dumps(
                {"question": f"怎样设置第{n}项？", "answer": f"写上第{n}项的值。"}, ensure_ascii=False
            ).encode()
        lines.append(text)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def run(tmp_path: Path, name: str = "out", **data: object) -> Artifact:
    return bring_up_to_date(configured(tmp_path, name, **data), [STAGE])["prepare"].artifact


def configured(tmp_path: Path, name: str = "out", **data: object) -> RunConfig:
    return validate_config(
        {
            "name": "t",
            "output": str(tmp_path / name),
            "data": {"faq": [{"path": str(tmp_path / "*.jsonl")}], "max_rejected_share": 0.9, **data},
            "train": {"base_model": "none"},
        },
        "test",
    )


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    for seed in range(3):
        damaged(tmp_path / f"faq{seed}.jsonl", seed)
    artifact = run(tmp_path, max_records=70)
    counts = artifact.manifest.counts
    assert counts["rows_in"] == 180 == counts["records"] + counts["rejected"] + counts["duplicates"]
    assert counts["records"] == 70 == counts["train"] + counts["valid"] + counts["test"]
    reasons = Counter(row.reason for row in records_of(Rejected, pq.read_table(artifact.file("rejected.parquet"))))
    assert {f"rejected.{reason}": n for reason, n in reasons.items()}.items() <= counts.items()
    assert {"broken_line", "empty_answer", "bad_encoding", "bad_row", "not_sampled"} <= set(reasons)
    sources = artifact.manifest.metrics["sources"]
    assert len(sources) == 3
    for source in sources.values():
        assert source["rows_in"] == 60 == source["records"] + source["rejected"] + source["duplicates"]
    lines = records_of(QARecord, pq.read_table(artifact.file("records.parquet")))
    assert [r.id for r in lines] == [f"{Path(r.source).stem}-{r.line:04d}" for r in lines]
    assert run(tmp_path, "again", max_records=70).digest == artifact.digest


def test_blocks_and_tasks_do_not_show_in_the_result(tmp_path: Path) -> None:
    """50 blocks or one, three tasks or one that look for duplicates: the same bytes."""
    damaged(tmp_path / "faq.jsonl", 5, 100)
    config = configured(tmp_path)
    parts = list_parts(faq_files(config.data.faq))
    for block_rows, tasks in ((2, 3), (10_000, 1)):
        folder, out = tmp_path / f"blocks{tasks}", tmp_path / f"out{tasks}"
        out.mkdir()
        write_blocks(parts, folder, config.data, block_rows)
        blocks = Blocks(folder, [part.name for part in parts])
        assert (blocks.tables[0].column("id").num_chunks > 40) == (tasks == 3)
        finish(config, blocks, [near_links(blocks, config.data, (n, tasks)) for n in range(tasks)], out)
    names = sorted(path.name for path in (tmp_path / "out1").glob("*.parquet"))
    assert {"records.parquet", "rejected.parquet", "duplicates.parquet", "leakage.parquet"} <= set(names)
    for name in names:
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out3" / name).read_bytes(), name


def test_boilerplate_of_all_files_is_taken_out(tmp_path: Path) -> None:
    """Lines are counted over all blocks: five answers in each of two files make a line common."""
    footer = "Was this answer helpful to you?"
    for n in range(2):
        rows = [{"question": f"What is part {n}-{k}?", "answer": f"Part {n * 100 + k}.\n\n{footer}"} for k in range(5)]
        rows += [{"question": f"Why {n}-{k}?", "answer": f"Cause {n * 100 + k}.\nLine {n}."} for k in range(5)]
        (tmp_path / f"faq{n}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    clean = {"boilerplate_share": 0.5, "boilerplate_records": 10}
    artifact = run(tmp_path, clean=clean, split={"valid": 0.1, "test": 0.1})
    answers = pq.read_table(artifact.folder / "records.parquet").column("answer").to_pylist()
    assert sorted(answers)[10:] == sorted(f"Part {n * 100 + k}." for n in range(2) for k in range(5))
    assert artifact.manifest.metrics["steps"]["boilerplate"] == 10
    assert len(artifact.manifest.metrics["step_examples"]["boilerplate"]) == 3
    kept = run(tmp_path, "kept", clean={**clean, "boilerplate_records": 11})
    assert pq.read_table(kept.folder / "records.parquet").column("answer").to_pylist()[0].endswith(footer)


def test_finished_blocks_are_not_made_again(tmp_path: Path) -> None:
    """A run that goes on reads nothing of a part whose block is there."""
    for seed in range(2):
        damaged(tmp_path / f"faq{seed}.jsonl", seed)
    config = configured(tmp_path)
    parts = list_parts(faq_files(config.data.faq))
    write_blocks(parts[:1], tmp_path / "blocks", config.data)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "blocks").iterdir()}
    (tmp_path / "faq0.jsonl").unlink()
    (tmp_path / "blocks" / "00001-00000.arrow").write_bytes(b"half a block")  # of a killed run, without its counts
    write_blocks(parts, tmp_path / "blocks", config.data)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert Blocks(tmp_path / "blocks", [part.name for part in parts]).records > 60


def test_given_splits_are_kept_and_audited(tmp_path: Path) -> None:
    """Planted leaks between splits that the file gives: every one is found, and groups are kept together."""
    rows = [
        {"id": "1", "q": "How do I reset my password?", "a": "Open the settings.", "s": "train"},
        {"id": "2", "q": "How do I reset my passwords", "a": "Use the form.", "s": "test"},
        {"id": "3", "q": "怎么修改端口号？", "a": "改配置。", "s": "dev"},
        {"id": "4", "q": "What does it cost?", "a": "Nothing.", "s": "test"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "q", "answer": "a", "id": "id", "split": "s"}
    artifact = run(tmp_path, faq=[{"path": str(path), "columns": columns}])
    records = records_of(QARecord, pq.read_table(artifact.file("records.parquet")))
    assert [r.split for r in records] == ["train", "test", "valid", "test"]
    found = artifact.manifest.metrics["leakage"]
    assert (found["tests"], found["leaked"], found["leaked_share"]) == (2, 1, 0.5)
    (worst, *_) = pq.read_table(artifact.file("leakage.parquet")).to_pylist()
    assert (worst["test_id"], worst["train_id"], worst["leaked"]) == ("2", "1", True)
    assert "reset my password" in artifact.file("report.md").read_text()


def test_a_record_without_a_split_goes_with_its_group(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is part {n} {name}?", "answer": f"It is part {n}.", "split": split}
        for n in range(20)
        for name, split in (("for", "test" if n % 2 else "train"), ("made of", ""))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    artifact = run(tmp_path, faq=[{"path": str(tmp_path / "a.jsonl"), "columns": {"split": "split"}}])
    records = records_of(QARecord, pq.read_table(artifact.file("records.parquet")))
    assert {(r.answer, r.split) for r in records} == {
        (f"It is part {n}.", "test" if n % 2 else "train") for n in range(20)
    }


def test_a_wrong_id_column_stops_the_stage(tmp_path: Path) -> None:
    rows = [{"question": f"What is part {n}?", "answer": f"It is {n}.", "id": "same"} for n in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"19 of 20 rows .*duplicate_id 19"):
        run(tmp_path, faq=[{"path": str(tmp_path / "a.jsonl"), "columns": {"id": "id"}}])


def test_a_fault_that_passes_is_forgotten(tmp_path: Path) -> None:
    """A file that could not be read is read again by the next run."""
    path = tmp_path / "faq.jsonl"
    parts = list_parts(faq_files(configured(tmp_path, faq=[{"path": str(damaged(path, 1))}]).data.faq))
    config, good = configured(tmp_path), path.read_bytes()
    path.unlink()
    with pytest.raises(DataError):
        write_blocks(parts, tmp_path / "blocks", config.data)
    path.write_bytes(good)
    write_blocks(parts, tmp_path / "blocks", config.data)
    assert Blocks(tmp_path / "blocks", [part.name for part in parts]).records > 20


def test_faults_of_a_file_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"frage": "x", "answer": "y"}\n')
    with pytest.raises(DataError, match="no column 'question'") as caught:
        run(tmp_path)
    assert type(caught.value) is DataError and "Traceback" not in str(caught.value)


def test_too_many_rejected_rows_stop_the_stage(tmp_path: Path) -> None:
    good = '{"question": "What is it?", "answer": "It is a thing."}\n'
    (tmp_path / "a.jsonl").write_text(good + "{\n" * 3)
    with pytest.raises(DataError, match=r"3 of 4 rows \(75\.0%\).*broken_line 3.*a\.jsonl:2") as caught:
        run(tmp_path, max_rejected_share=0.5)
    assert "--set data.max_rejected_share=0.76" in caught.value.fix or "=0.75" in caught.value.fix
    (tmp_path / "a.jsonl").write_text("{\n" * 3)
    with pytest.raises(DataError, match="all 3 rows were rejected: broken_line 3"):
        run(tmp_path, max_rejected_share=1.0)


def test_two_rows_with_one_id(tmp_path: Path) -> None:
    rows = [{"id": "x", "question": f"Question {n}?", "answer": f"Answer {n}."} for n in range(2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    artifact = run(tmp_path, faq=[{"path": str(tmp_path / "a.jsonl"), "columns": {"id": "id"}}])
    (record,) = records_of(QARecord, pq.read_table(artifact.file("records.parquet")))
    (rejected,) = records_of(Rejected, pq.read_table(artifact.file("rejected.parquet")))
    assert (record.id, record.line) == ("x", 1)
    assert (rejected.line, rejected.reason, rejected.text) == (2, "duplicate_id", "x")


def test_duplicates_of_several_sources_are_named(tmp_path: Path) -> None:
    row = json.dumps({"question": "What is it?", "answer": "It is a thing."}) + "\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(row)
    artifact = run(tmp_path)
    (record,) = records_of(QARecord, pq.read_table(artifact.file("records.parquet")))
    (duplicate,) = records_of(Duplicate, pq.read_table(artifact.file("duplicates.parquet")))
    assert record.also_from == (f"{tmp_path / 'b.jsonl'}:1",)
    assert (duplicate.duplicate_of, duplicate.method, duplicate.question) == (record.id, "exact", "What is it?")


def test_sampling_keeps_what_is_held_out() -> None:
    ids = pa.chunked_array([[f"r{n}" for n in range(50)]])
    chosen, left_out = sampled(np.arange(50), ids, 5, 17, np.array([7, 9]))
    assert len(chosen) == 5 and len(left_out) == 45 and {7, 9} <= set(chosen.tolist())
    assert sampled(np.arange(50), ids, 50, 17, None)[0].tolist() == list(range(50))

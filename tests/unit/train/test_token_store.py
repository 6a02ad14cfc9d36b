"""The token store: examples equal to those read at once, the same bytes however it was made, damage mended."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragray.artifact import folder_digest
from ragray.errors import ArtifactError, DataError, EngineError, WorkError
from ragray.schema import stable_digest, stable_digests
from ragray.train.examples import read_examples
from ragray.train.loading import load_tokenizer
from ragray.train.stored_examples import open_store, stored_in_memory
from ragray.train.token_store import STORE, TokenSource, make_store, write_parts

ROOT = Path(__file__).parents[3]


def source_of(tiny_model, file, **changes):
    return TokenSource(Path(file), tiny_model, **{"max_length": 512, "wrong": "some", "part_rows": 5, **changes})


def assert_stored_as_read(source, stored):
    """Both splits, from the store and by `read_examples`."""
    tokenizer = load_tokenizer(source.model_folder)
    for (split, wrong), found in zip(source.wrong_by_split.items(), stored, strict=True):
        expected = read_examples(source.examples_file, split, tokenizer, source.max_length, wrong)
        assert tuple(found[i] for i in range(len(found))) == expected.examples
        assert tuple(found.ids) == tuple(example.example_id for example in expected.examples)
        assert found.lengths.tolist() == expected.lengths
        assert found.answer_tokens.tolist() == [example.answer_tokens for example in expected.examples]
        counts = (len(expected.too_long), expected.shortened, len(expected.without_wrong))
        assert (found.too_long, found.shortened, found.without_wrong) == counts


@pytest.mark.parametrize("wrong", ["none", "some", "all"])
@pytest.mark.parametrize("max_length", [512, 150, 120])
def test_stored_examples_are_those_read_at_once(tiny_model, examples_file, tmp_path, wrong, max_length):
    source = source_of(tiny_model, examples_file, wrong=wrong, max_length=max_length)
    stored = open_store(make_store(source, tmp_path), source)
    assert_stored_as_read(source, stored)
    assert_stored_as_read(source, stored_in_memory(source))
    with pytest.raises(IndexError):
        stored[0][len(stored[0])]


def test_these_lengths_shorten_and_leave_out(tiny_model, examples_file):
    """What the test above compares is not nothing."""
    cut, _ = stored_in_memory(source_of(tiny_model, examples_file, wrong="all", max_length=150))
    left_out, _ = stored_in_memory(source_of(tiny_model, examples_file, wrong="all", max_length=120))
    assert cut.shortened > 0
    assert left_out.too_long > 0
    assert left_out.without_wrong == 2


TEXT = st.text(alphabet="ab ?怎么退款。\n<|>é☃", max_size=12)


@st.composite
def rows(draw):
    passages = draw(st.lists(st.fixed_dictionaries({"doc_id": TEXT, "title": TEXT, "text": TEXT}), max_size=3))
    places = st.integers(0, len(passages))
    return {
        "split": draw(st.sampled_from(["train", "valid", "test"])),
        "question": draw(TEXT),
        "lang": draw(st.sampled_from(["zh", "en"])),
        "closed_book": not passages,
        "passages": passages,
        "number": draw(places),
        "answer": draw(TEXT),
        "negative": draw(st.none() | TEXT),
        "negative_number": draw(places),
    }


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows(), max_size=9), st.sampled_from(["none", "some", "all"]), st.integers(60, 110), st.integers(1, 4))
def test_any_rows_are_stored_as_read(tiny_model, tmp_path, write_table, found, wrong, max_length, part_rows):
    first = {"split": "train", "question": "?", "lang": "en", "closed_book": True, "passages": [], "number": 0,
             "answer": "a", "negative": "b", "negative_number": 0}  # fmt: skip
    numbered = [{"example_id": f"例{n}", **row} for n, row in enumerate([first, *found])]
    file = write_table(tmp_path / "rows.parquet", numbered)
    source = TokenSource(file, tiny_model, max_length + 100, wrong, part_rows)
    assert_stored_as_read(source, open_store(make_store(source, tmp_path), source))


def test_the_bundled_tokenizer_stores_what_it_reads(tmp_path, write_table):
    """Questions of the bundled files, Chinese and English, with the model that they train."""
    import json

    rows = []
    for name, lang in (("install_en", "en"), ("data_zh", "zh")):
        lines = (ROOT / "data" / "faq" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:12]
        records = [json.loads(line) for line in lines]
        rows += [
            {
                "example_id": f"{name}{n}", "split": "valid" if n % 4 == 3 else "train", "question": record["question"],
                "lang": lang, "closed_book": False, "number": 1, "answer": record["answer"],
                "passages": [{"doc_id": "", "title": r["question"], "text": r["answer"]} for r in (record, records[0])],
                "negative": records[0]["answer"] if n else None, "negative_number": 2 if n else 0,
            }
            for n, record in enumerate(records)
        ]  # fmt: skip
    file = write_table(tmp_path / "bundled.parquet", rows)
    source = TokenSource(file, ROOT / "data" / "models" / "ragray-tiny", 300, "all", 7)
    assert_stored_as_read(source, open_store(make_store(source, tmp_path), source))


@pytest.mark.parametrize("group_rows", [3, 5, 7, 100])
def test_parts_do_not_depend_on_row_groups_nor_on_who_makes_them(tiny_model, examples_file, tmp_path, group_rows):
    """Each part by itself, in any order, from a file with other row groups, has the bytes of all parts in one go."""
    plain = source_of(tiny_model, examples_file)
    whole = make_store(plain, make(tmp_path / "whole"))
    grouped = tmp_path / "grouped.parquet"
    pq.write_table(pq.read_table(examples_file), grouped, row_group_size=group_rows)
    apart = make(tmp_path / "apart")
    for number in reversed(range(plain.parts)):
        write_parts(source_of(tiny_model, grouped), apart, [number])
    assert names(apart) == [name for name in names(whole) if name != STORE]
    assert len(names(apart)) == 4


def make(folder):
    folder.mkdir(exist_ok=True)
    return folder


def names(folder):
    """Of parts, which hold the digests of their bytes."""
    return sorted(path.name for path in folder.iterdir())


def test_what_the_tokens_depend_on_makes_another_store(tiny_model, examples_file, tmp_path):
    other_model = shutil.copytree(tiny_model, tmp_path / "model")
    template = other_model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", "<|end|> "))
    other_file = tmp_path / "examples.parquet"
    pq.write_table(pq.read_table(examples_file).slice(1), other_file)
    sources = [
        source_of(tiny_model, examples_file), source_of(other_model, examples_file), source_of(tiny_model, other_file),
        source_of(tiny_model, examples_file, max_length=120), source_of(tiny_model, examples_file, wrong="all"),
        source_of(tiny_model, examples_file, part_rows=6),
    ]  # fmt: skip
    assert len({source.key for source in sources}) == len(sources)
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert source_of(moved, examples_file).key == sources[0].key, "not on where the files lie"


def damage(path, at=-200):
    """Another byte in the file; its length stays."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_or_missing_part_alone_is_made_anew(tiny_model, examples_file, tmp_path):
    source = source_of(tiny_model, examples_file)
    folder = make_store(source, tmp_path)
    before, made = folder_digest(folder), []

    def counting(source, folder, numbers):
        made.append(list(numbers))
        write_parts(source, folder, numbers)

    assert make_store(source, tmp_path, counting) == folder
    parts = sorted(folder.glob("*.arrow"))
    damage(parts[1])
    make_store(source, tmp_path, counting)
    parts[3].unlink()
    (folder / STORE).unlink()
    make_store(source, tmp_path, counting)
    parts[0].write_bytes(parts[0].read_bytes()[:-8])
    make_store(source, tmp_path, counting)
    assert made == [[1], [3], [0]]
    assert folder_digest(folder) == before


def test_a_worker_refuses_a_store_that_is_not_whole(tiny_model, examples_file, tmp_path):
    source = source_of(tiny_model, examples_file)
    folder = make_store(source, tmp_path)
    part = next(folder.glob("00002-*"))
    content = part.read_bytes()
    part.write_bytes(content[:-8])
    with pytest.raises(ArtifactError, match="not as long as it was written"):
        open_store(folder, source)
    part.write_bytes(bytes(len(content)))
    with pytest.raises(ArtifactError, match=r"cannot be read(.|\n)*run the command again"):
        open_store(folder, source)
    part.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_store(folder, source)
    (folder / STORE).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_store(folder, source)


KILLED = """
import os, signal, sys
from pathlib import Path
from ragray.train import token_store
sync, done = token_store.sync, []
def dying(path):
    sync(path)
    done.append(path)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
token_store.sync = dying
source = token_store.TokenSource(Path(sys.argv[1]), Path(sys.argv[2]), 512, "some", 5)
token_store.make_store(source, Path(sys.argv[3]))
"""


def test_a_killed_maker_leaves_its_finished_parts_to_the_next(tiny_model, examples_file, tmp_path):
    source = source_of(tiny_model, examples_file)
    whole = make_store(source, make(tmp_path / "whole"))
    work = make(tmp_path / "work")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(examples_file), str(tiny_model), str(work)]
    died = subprocess.run(command, env=environment, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    (folder,) = work.iterdir()
    assert [name[:6] for name in names(folder)] == [".part-", "00000-", "00001-"], "the third was not given its name"
    made = []

    def counting(source, folder, numbers):
        made.extend(numbers)
        write_parts(source, folder, numbers)

    make_store(source, work, counting)
    assert made == [2, 3]
    assert names(folder) == names(whole), "nothing half written is left"
    assert folder_digest(folder) == folder_digest(whole)


def test_parts_written_where_nobody_sees_them_are_an_error(tiny_model, examples_file, tmp_path):
    with pytest.raises(WorkError, match="part 0 and 3 others were written elsewhere"):
        make_store(source_of(tiny_model, examples_file), tmp_path, lambda source, folder, numbers: None)


def test_a_work_folder_that_cannot_be_written_is_an_error(tiny_model, examples_file, tmp_path):
    (tmp_path / "work").write_text("in the way")
    with pytest.raises(WorkError, match="while writing below"):
        make_store(source_of(tiny_model, examples_file), tmp_path / "work")


def test_what_cannot_be_trained_on_is_refused_as_when_read_at_once(tiny_model, examples_file, tmp_path, write_table):
    long = source_of(tiny_model, examples_file, max_length=3)
    with pytest.raises(DataError, match="all 12 are longer than 3 tokens"):
        open_store(make_store(long, tmp_path), long)
    rows = pq.read_table(examples_file).to_pylist()
    plain = write_table(tmp_path / "plain.parquet", [{**row, "negative": None} for row in rows])
    without = source_of(tiny_model, plain, wrong="all")
    with pytest.raises(DataError, match="negatives_per_question"):
        open_store(make_store(without, tmp_path), without)
    none = source_of(tiny_model, write_table(tmp_path / "none.parquet", []))
    with pytest.raises(DataError, match="there is none"):
        open_store(make_store(none, tmp_path), none)


def test_a_tokenizer_without_a_template_is_refused(tiny_model, examples_file, tmp_path):
    broken = shutil.copytree(tiny_model, tmp_path / "model")
    (broken / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="no chat template"):
        make_store(source_of(broken, examples_file), tmp_path)


def test_an_example_is_read_without_a_copy_of_its_part(tiny_model, examples_file, tmp_path):
    """The columns are views of the mapped file, so Arrow holds no memory for them."""
    source = source_of(tiny_model, examples_file, part_rows=4096)
    folder = make_store(source, tmp_path)
    before = pa.total_allocated_bytes()
    train, _ = open_store(folder, source)
    assert train[3].token_ids
    held = pa.total_allocated_bytes() - before
    assert held < 64 * (len(pq.read_table(examples_file)) + 16), "no more than a few numbers for each row"
    assert not train._parts[0]._tokens._values.flags.owndata


@given(st.lists(st.text(max_size=5)), st.integers(), st.text(max_size=3))
def test_many_digests_are_those_one_by_one(ends, number, word):
    assert stable_digests((word, number), ends).tolist() == [stable_digest(word, number, end) for end in ends]


def test_parts_hold_all_rows_once_for_any_sizes(tmp_path):
    """Row groups and parts of all sizes against each other: every wanted part whole, in order."""
    for count, group, part in itertools.product((0, 1, 6, 7), (1, 2, 4, 9), (1, 2, 3, 8)):
        file = tmp_path / "numbers.parquet"
        pq.write_table(pa.table({"n": list(range(count))}, pa.schema([("n", pa.int64())])), file, row_group_size=group)
        source = TokenSource(file, tmp_path, 9, "none", part)
        wanted = [number for number in range(source.parts) if number % 3 != 1]
        found = [(number, table["n"].to_pylist()) for number, table in source.tables(wanted)]
        assert found == [(number, list(range(count))[number * part : number * part + part]) for number in wanted]

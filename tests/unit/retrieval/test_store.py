"""A changing index answers as one that is built anew, whatever happened to it and whenever it was killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_corpus import PASSAGES, passage  # type: ignore[import-not-found]

from ragray.config import RetrievalConfig
from ragray.errors import ArtifactError, DataError
from ragray.manifest import files_below
from ragray.retrieval.chunks import BLOCK
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.segment import Flags, Segment, merge_segments, write_segment
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import SEGMENT, build_index
from ragray.schema import Passage, table_of

WORDS = [f"word{number}" for number in range(150)] + ["集群", "部署", "训练模型"]


def store_of(passages: list[Passage], folder: Path, settings: RetrievalConfig | None = None) -> IndexStore:
    (folder / "built").mkdir()
    build_index(passages, settings or RetrievalConfig(), folder / "built")
    return IndexStore.create(folder / "store", folder / "built")


def random_passage(chance: random.Random, doc_id: str) -> Passage:
    drawn = [WORDS[min(int(chance.paretovariate(0.6)) - 1, len(WORDS) - 1)] for _ in range(chance.randrange(12))]
    return passage(doc_id, " ".join(drawn[:2]), " ".join(drawn[2:]))


def assert_equals_a_rebuild(opened: HybridIndex, live: dict[str, Passage], folder: Path, queries: list[str]) -> None:
    folder.mkdir()
    build_index(list(live.values()), opened.settings, folder)
    rebuilt = HybridIndex.open(folder)
    assert len(opened) == len(rebuilt) == len(live)
    assert opened.search_batch(queries, 200) == rebuilt.search_batch(queries, 200)  # scores to the last bit
    for query in queries[:3]:
        for hit in rebuilt.search(query, 3):
            assert opened.explain(query, hit.doc_id) == rebuilt.explain(query, hit.doc_id)
            assert opened.passage(hit.doc_id) == live[hit.doc_id]


@pytest.mark.parametrize("variant", ["lucene", "okapi"])
def test_random_changes_equal_a_rebuild(variant: str, tmp_path: Path) -> None:
    chance = random.Random(7)
    settings = RetrievalConfig.model_validate({"bm25": {"variant": variant}})
    first = [random_passage(chance, f"d{number}") for number in range(300)]
    store = store_of(first, tmp_path, settings)
    live = {p.doc_id: p for p in first}
    operations = 0
    for batch in range(60):
        added: dict[str, Passage] = {}
        deleted: set[str] = set()
        for _ in range(85):
            doc_id = f"d{chance.randrange(600)}"
            if chance.random() < 0.4 and doc_id in live and doc_id not in added and len(live) - len(deleted) > 1:
                deleted.add(doc_id)
            elif doc_id not in deleted:
                added[doc_id] = random_passage(chance, doc_id)
            operations += 1
        change = store.update(list(added.values()), deleted)
        assert change.added + change.replaced == len(added) and change.deleted == len(deleted)
        for doc_id in (*deleted, *added):
            live.pop(doc_id, None)
        live |= added
        if batch % 3 == 2:
            store.compact(all_segments=batch % 15 == 14)
        if batch % 6 == 5:
            store.prune(1)
            queries = [" ".join(chance.sample(WORDS, 4)) for _ in range(20)] + ["word0 word1", "word0"]
            assert_equals_a_rebuild(store.open(), live, tmp_path / f"rebuilt{batch}", queries)
    assert operations == 5100


def test_a_compacted_index_has_the_bytes_of_a_rebuild(tmp_path: Path) -> None:
    chance = random.Random(8)
    store = store_of(PASSAGES, tmp_path)
    for number in range(4):
        store.update([random_passage(chance, f"n{number}-{k}") for k in range(9)], [PASSAGES[number].doc_id])
    store.compact(all_segments=True)
    compacted = store.open()
    (segment,) = compacted.corpus.parts
    live = [compacted.corpus.passage(number) for number in range(compacted.corpus.size)]
    (tmp_path / "rebuilt").mkdir()
    build_index(live, compacted.settings, tmp_path / "rebuilt")
    there = tmp_path / "rebuilt" / SEGMENT
    assert files_below(segment.segment.folder) == files_below(there)
    for name in files_below(there):
        assert (segment.segment.folder / name).read_bytes() == (there / name).read_bytes(), name
    assert compacted.folder.joinpath("0/norms.npy").read_bytes() == (tmp_path / "rebuilt/0/norms.npy").read_bytes()


def test_merged_segments_of_several_blocks_have_the_bytes_of_one(tmp_path: Path) -> None:
    chance = random.Random(10)
    drawn = [
        passage(f"d{n}", "", " ".join(["common"] * chance.randrange(1, 3) + [f"w{n % 97}"])) for n in range(24_000)
    ]
    parts = []
    for part, chosen in enumerate((drawn[:10_000], drawn[10_000:])):
        (tmp_path / str(part)).mkdir()
        write_segment(table_of(Passage, chosen), str.split, tmp_path / str(part))
        live = np.array([chance.random() < 0.9 for _ in chosen])
        parts.append((Segment(tmp_path / str(part)), live))
    for name in ("merged", "built"):
        (tmp_path / name).mkdir()
    merge_segments(parts, tmp_path / "merged")
    kept = [p for p, stays in zip(drawn, np.concatenate([live for _, live in parts]), strict=True) if stays]
    assert len(kept) > BLOCK
    write_segment(table_of(Passage, kept), str.split, tmp_path / "built")
    for name in files_below(tmp_path / "built"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "built" / name).read_bytes(), name


def test_what_changes_during_a_compaction_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(PASSAGES, tmp_path)
    store.update([passage("n1", "", "fresh one"), passage("n2", "", "fresh two")], ["demo"])

    def merge_and_change(parts: Sequence[tuple[Segment, Flags]], folder: Path) -> None:
        merge_segments(parts, folder)
        IndexStore(store.root).update([passage("n3", "", "fresh three"), passage("n1", "", "fresh again")], ["gpu"])

    monkeypatch.setattr("ragray.retrieval.store.merge_segments", merge_and_change)
    assert store.compact(all_segments=True) == store.version == 4
    live = {p.doc_id: p for p in PASSAGES if p.doc_id not in ("demo", "gpu")}
    live |= {"n2": passage("n2", "", "fresh two"), "n3": passage("n3", "", "fresh three")}
    live["n1"] = passage("n1", "", "fresh again")
    assert len(store.open().corpus.parts) == 2
    assert_equals_a_rebuild(store.open(), live, tmp_path / "rebuilt", ["fresh", "train gpu", "stop again"])


def test_those_who_search_keep_their_version(tmp_path: Path) -> None:
    store = store_of(PASSAGES, tmp_path)
    opened, before = store.open(), store.version
    hits = opened.search("stop training", 5)
    store.update([passage("new", "How do I stop training?", "Press Ctrl-C.")], ["stop"])
    store.compact(all_segments=True)
    store.prune(1)
    assert opened.search("stop training", 5) == hits
    assert opened.passage("stop").doc_id == "stop"
    assert store.open().search("stop training", 1)[0].doc_id != "stop"
    assert store.version > before


def test_an_earlier_version_comes_back(tmp_path: Path) -> None:
    store = store_of(PASSAGES, tmp_path)
    hits = store.open().search("quantize 量化", 3)
    store.update(delete=["quantize"])
    assert store.open().search("quantize 量化", 3) != hits
    store.roll_back(1)
    assert store.open().search("quantize 量化", 3) == hits
    assert store.update(delete=["demo"]).version == 3  # the version that was left stays
    with pytest.raises(ArtifactError, match="no version 9"):
        store.roll_back(9)
    assert store.prune(1) == [1, 2]


def test_what_a_version_needs_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced = set[int]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: forced.add(os.fstat(descriptor).st_ino))
    store = store_of(PASSAGES, tmp_path)
    store.update([passage("new", "", "text")])
    files = [path for path in (store.root, *store.root.rglob("*")) if path.suffix != ".lock"]
    assert len(files) > 10 and [path.name for path in files if path.stat().st_ino not in forced] == []


def test_a_current_version_that_cannot_be_read_is_rolled_back(tmp_path: Path) -> None:
    store = store_of(PASSAGES, tmp_path)
    (store.root / "CURRENT").write_text("?")
    with pytest.raises(ArtifactError, match="not a version") as caught:
        store.open()
    assert "roll-back" in caught.value.fix
    store.roll_back(1)
    assert len(store.open()) == len(PASSAGES)


def test_replaced_passages_count_once(tmp_path: Path) -> None:
    store = store_of(PASSAGES, tmp_path)
    change = store.update([passage("gpu", "GPUs", "Use two."), passage("new", "", "fresh")])
    assert (change.added, change.replaced, change.deleted) == (1, 1, 0)
    opened = store.open()
    assert len(opened) == len(PASSAGES) + 1
    assert opened.passage("gpu").title == "GPUs"


def test_impossible_changes_leave_the_store_as_it_is(tmp_path: Path) -> None:
    store = store_of(PASSAGES, tmp_path)
    files = files_below(store.root)
    twice = [passage("a", "", "x"), passage("a", "", "y")]
    for passages, delete, message in (
        ([], ["absent"], "'absent'"),
        ([PASSAGES[0]], [PASSAGES[0].doc_id], "added and deleted"),
        (twice, [], "two passages"),
        ([], [p.doc_id for p in PASSAGES], "nothing to index"),
    ):
        with pytest.raises(DataError, match=message):
            store.update(passages, delete)
    assert files_below(store.root) == files
    with pytest.raises(ArtifactError, match="not an empty folder"):
        IndexStore.create(store.root, tmp_path / "built")
    nowhere = IndexStore(tmp_path / "nowhere")
    for change in (nowhere.versions, nowhere.open, nowhere.compact, lambda: nowhere.update(delete=["a"])):
        with pytest.raises(ArtifactError, match=r"no (changing )?index"):
            change()
    assert not nowhere.root.exists()


_CHANGES = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from small_corpus import passage
from ragray.retrieval.store import IndexStore
store = IndexStore(Path({root!r}))
print("ready", flush=True)
for number in range(10_000):
    store.update([passage(f"n{{number}}", "title", f"added number{{number}}")])
    print(number, flush=True)
    if number % 2:
        store.compact(all_segments=number % 4 == 3)
"""


def test_a_killed_change_leaves_the_version_before_or_after(tmp_path: Path) -> None:
    chance = random.Random(9)
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        store = store_of(PASSAGES, folder)
        code = _CHANGES.format(tests=str(Path(__file__).parent), root=str(store.root))
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(0.3 + 0.5 * chance.random())
            process.send_signal(signal.SIGKILL)
            done = [int(line) for line in process.stdout]
        opened = store.open()
        added = len(opened) - len(PASSAGES)
        assert added in (len(done), len(done) + 1)
        for number in range(added):
            assert opened.search(f"number{number}", 1)[0].doc_id == f"n{number}"
        store.update([passage("after", "", "the kill")])  # the lock is free, what was left aside does no harm
        store.prune(1)
        assert not [name for name in files_below(store.root) if "/." in name]

"""A followed index: every search sees one whole version, the newest that opens."""

import gc
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_corpus import PASSAGES, passage  # type: ignore[import-not-found]

from ragray.config import RetrievalConfig
from ragray.errors import ArtifactError
from ragray.manifest import files_below
from ragray.retrieval.current import CurrentIndex, version_of
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import build_index


@pytest.fixture
def store(tmp_path: Path) -> IndexStore:
    (tmp_path / "built").mkdir()
    build_index(PASSAGES, RetrievalConfig(), tmp_path / "built")
    return IndexStore.create(tmp_path / "store", tmp_path / "built")


def ids(index: HybridIndex, query: str) -> list[str]:
    return [hit.doc_id for hit in index.search(query, 5)]


def test_changes_and_roll_backs_are_followed(store: IndexStore) -> None:
    current = CurrentIndex(store.root, look_every_s=0)
    assert (version_of(current.now()), ids(current.now(), "fresh")) == (1, [])
    first = current.now()
    assert current.now() is first  # nothing has changed
    store.update([passage("new", "", "fresh")])
    assert (version_of(current.now()), ids(current.now(), "fresh")) == (2, ["new"])
    assert (version_of(first), ids(first, "fresh")) == (1, [])  # who has begun goes on
    store.compact(all_segments=True)
    assert (version_of(current.now()), ids(current.now(), "fresh")) == (3, ["new"])
    store.roll_back(1)
    assert (version_of(current.now()), ids(current.now(), "fresh"), current.failure) == (1, [], "")


def test_it_looks_no_more_often_than_it_is_told(store: IndexStore) -> None:
    rarely, soon = CurrentIndex(store.root, look_every_s=3600), CurrentIndex(store.root, look_every_s=0.05)
    assert not rarely.is_behind() and not soon.is_behind()
    store.update(delete=["demo"])
    assert (version_of(rarely.now()), version_of(rarely.index)) == (1, 1)
    time.sleep(0.06)
    assert version_of(soon.now()) == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def wipe(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def spoil_the_middle(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 200 + data[204:])  # what it says of itself at its end stays


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no description": ("versions/00000002/index.json", Path.unlink),
    "half a description": ("versions/00000002/index.json", cut),
    "half the statistics": ("versions/00000002/frequencies.npy", cut),
    "no norms": ("versions/00000002/1/norms.npy", Path.unlink),
    "half the postings": ("segments/NEW/packed.npy", cut),
    "half the ids": ("segments/NEW/ids.bytes.npy", cut),
    "half the passages": ("segments/NEW/passages.parquet", cut),
    "no pointers": ("segments/NEW/pointers.npy", Path.unlink),
    "wiped pointers": ("segments/NEW/pointers.npy", wipe),
    "spoilt passages": ("segments/NEW/passages.parquet", spoil_the_middle),
    "no number": ("CURRENT", lambda path: path.write_text("?")),
    "no such version": ("CURRENT", lambda path: path.write_text("9\n")),
    "no CURRENT": ("CURRENT", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_version_leaves_the_one_before(
    damage: str, store: IndexStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragray.retrieval.current._RETRY_S", 0.0)
    caplog.set_level(logging.INFO)
    current = CurrentIndex(store.root, look_every_s=0)
    before = {path.name for path in (store.root / "segments").iterdir()}
    store.update([passage("new", "", "fresh new words")])
    (new,) = {path.name for path in (store.root / "segments").iterdir()} - before
    name, spoil = DAMAGES[damage]
    spoil(store.root / name.replace("NEW", new))
    for _ in range(3):
        assert (version_of(current.now()), ids(current.now(), "quantize")[0]) == (1, "quantize")
    assert current.failure
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]  # once, not for each search
    assert current.failure in said.getMessage() and "version 1 stays" in said.getMessage()
    with pytest.raises(ArtifactError):
        CurrentIndex(store.root)  # who has no version before says so
    store.roll_back(1)
    assert (version_of(current.now()), current.failure) == (1, "")


@pytest.mark.parametrize("spoil", [Path.unlink, cut, lambda path: path.write_bytes(b"")], ids=["gone", "cut", "empty"])
def test_damage_to_any_file_leaves_the_version_before(
    spoil: Callable[[Path], object], store: IndexStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragray.retrieval.current._RETRY_S", 0.0)
    store.update([passage("new", "", "fresh new words")], ["demo"])
    new = store.root / "segments" / store.open().corpus.parts[-1].segment.folder.name
    for path in [folder / name for folder in (store.root / "versions/00000002", new) for name in files_below(folder)]:
        store.roll_back(1)
        current = CurrentIndex(store.root, look_every_s=0)
        kept = path.read_bytes()
        spoil(path)
        (store.root / "CURRENT").write_text("2\n")
        found = version_of(current.now())
        assert found == (2 if path.name == "digest.txt" and path.exists() else 1), path.name
        assert bool(current.failure) == (found == 1)
        assert ids(current.now(), "quantize")[0] == "quantize"
        path.unlink(missing_ok=True)
        path.write_bytes(kept)


def test_a_failed_version_is_tried_again(store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragray.retrieval.current._RETRY_S", 0.05)
    current = CurrentIndex(store.root, look_every_s=0)
    store.update([passage("new", "", "fresh")])
    hidden = store.root / "hidden"
    (store.root / "versions/00000002").rename(hidden)
    assert version_of(current.now()) == 1 and current.failure
    hidden.rename(store.root / "versions/00000002")
    time.sleep(0.06)
    assert (version_of(current.now()), current.failure) == (2, "")


def test_a_version_that_is_pruned_before_it_is_open_is_no_failure(
    store: IndexStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = CurrentIndex(store.root, look_every_s=0)
    store.update([passage("new", "", "fresh")])
    opened, real = [], HybridIndex.open

    def overtaken(folder: Path) -> HybridIndex:
        opened.append(folder.name)
        if len(opened) == 1:
            store.update([passage("newer", "", "fresher")])
            store.prune(1)
        return real(folder)

    monkeypatch.setattr("ragray.retrieval.current.HybridIndex", SimpleNamespace(open=overtaken))
    assert version_of(current.now()) == 3
    assert (opened[0], opened[-1], current.failure) == ("00000002", "00000003", "")


def test_searches_from_threads_never_fail_and_never_mix_versions(store: IndexStore) -> None:
    """Each version holds one document that names the version and one on each side that it keeps, all with one word."""
    current = CurrentIndex(store.root, look_every_s=0)
    store.update([passage("mark", "1", "landmark version1"), passage("twin", "1", "landmark version1")])
    current.now()
    done = threading.Event()

    def ask() -> list[tuple[int, frozenset[str]]]:
        seen = []
        while not done.is_set():
            index = current.now()
            titles = frozenset(index.passage(hit.doc_id).title for hit in index.search("landmark", 5))
            assert [part.term for part in index.explain("landmark", "mark")] == ["landmark"]
            seen.append((version_of(index), titles))
            time.sleep(0.001)
        return seen

    pool = ThreadPoolExecutor(3)
    asked = [pool.submit(ask) for _ in range(3)]
    for number in range(2, 12):
        title = str(number)
        store.update([passage("mark", title, "landmark"), passage("twin", title, "landmark")])
        if number % 3 == 0:
            store.compact(all_segments=True)
        store.prune(1)
    time.sleep(0.1)
    done.set()
    for seen in (future.result() for future in asked):
        assert all(len(titles) == 1 for _, titles in seen), "two versions in one answer"
        assert [version for version, _ in seen] == sorted(version for version, _ in seen)
        assert len({version for version, _ in seen}) > 3
        assert seen[-1] == (store.version, frozenset({"11"}))


_UPDATES = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from small_corpus import passage
from ragray.retrieval.store import IndexStore
store = IndexStore(Path({root!r}))
print("ready", flush=True)
for number in range(10_000):
    store.update([passage("mark", str(number), "landmark")])
    print(number, flush=True)
"""


def test_a_killed_updater_leaves_the_version_before_or_after(store: IndexStore) -> None:
    current = CurrentIndex(store.root, look_every_s=0)
    code = _UPDATES.format(tests=str(Path(__file__).parent), root=str(store.root))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        done = [int(process.stdout.readline())]  # the first update has to load compiled code
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            index = current.now()
            assert [index.passage(hit.doc_id).doc_id for hit in index.search("landmark", 5)] in ([], ["mark"])
        process.send_signal(signal.SIGKILL)
        done += [int(line) for line in process.stdout]
    index = current.now()
    assert int(index.passage("mark").title) in (done[-1], done[-1] + 1)
    assert (current.failure, version_of(index)) == ("", store.version)
    store.update([passage("after", "", "the kill")])
    assert ids(current.now(), "kill") == ["after"]


def mapped_below(folder: Path) -> set[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(None, 5)[5].removesuffix(" (deleted)") for line in maps if str(folder) in line}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_what_was_pruned_is_searched_to_the_end_and_then_let_go(store: IndexStore) -> None:
    current = CurrentIndex(store.root, look_every_s=0)
    begun = current.now()
    hits, text = begun.search("stop training", 5), begun.passage("stop").text
    store.update([passage("new", "How do I stop training?", "Press Ctrl-C.")], ["stop"])
    store.compact(all_segments=True)
    store.prune(1)
    gc.collect()
    gc.disable()
    try:
        assert ids(current.now(), "stop training")[0] != "stop"
        assert (begun.search("stop training", 5), begun.passage("stop").text) == (hits, text)
        assert any("versions/00000001" in path for path in mapped_below(store.root))
        del begun
        assert {Path(path).parts[-3:-1] for path in mapped_below(store.root / "versions")} <= {
            ("versions", "00000003"), ("00000003", "0"),
        }  # fmt: skip
        kept = {path.name for path in (store.root / "segments").iterdir()}
        assert {Path(path).parent.name for path in mapped_below(store.root / "segments")} <= kept
    finally:
        gc.enable()

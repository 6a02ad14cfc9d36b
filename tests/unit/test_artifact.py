"""Artifacts are whole or absent, and know what they were made from."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragray.artifact import Artifact, Source, Store, artifact_key, code_digest, folder_digest
from ragray.errors import ArtifactError, WorkError

KEY = "a" * 64


def put(store: Store, content: str = "x", key: str = KEY) -> Artifact:
    with store.draft("data", key, format_version=1, inputs={}, config={}, code="c") as draft:
        (draft.folder / "part").mkdir()
        (draft.folder / "part" / "file.txt").write_text(content)
        (draft.folder / "times.json").write_text(os.urandom(8).hex())
        draft.volatile.add("times.json")
        draft.counts["rows"] = 1
    assert draft.result is not None
    return draft.result


def test_found_again_by_key_only(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    made = put(store)
    found = store.find("data", KEY)
    assert found == made
    assert found is not None and found.file("part/file.txt").read_text() == "x"
    assert store.find("data", "b" * 64) is None
    assert store.find("data", KEY[:16] + "b" * 48) is None  # same folder name, other key


def test_digest_covers_content_but_not_times(tmp_path: Path) -> None:
    one, two, three = put(Store(f"{tmp_path}/1")), put(Store(f"{tmp_path}/2")), put(Store(f"{tmp_path}/3"), "y")
    assert one.digest == two.digest != three.digest


def test_a_failed_draft_leaves_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with (
        pytest.raises(ZeroDivisionError),
        store.draft("data", KEY, format_version=1, inputs={}, config={}, code="") as draft,
    ):
        (draft.folder / "f").write_text("half")
        raise ZeroDivisionError
    assert store.find("data", KEY) is None
    assert list((tmp_path / ".drafts").iterdir()) == []


def test_drafts_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom ragray.artifact import Store\n"
        f"store = Store({str(tmp_path)!r})\n"
        "with store.draft('data', 'a' * 64, format_version=1, inputs={}, config={}, code='') as d:\n"
        "    (d.folder / 'f').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list((tmp_path / ".drafts").iterdir())) == 1
    store = Store(str(tmp_path))
    assert store.find("data", KEY) is None
    put(store)
    assert list((tmp_path / ".drafts").iterdir()) == []


def test_a_folder_without_manifest_is_never_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    made = put(store)
    (made.folder / "manifest.json").unlink()
    assert store.find("data", KEY) is None
    with pytest.raises(ArtifactError, match="no finished artifact"):
        store.open(made.uri)
    assert put(store).digest == made.digest


def test_changed_and_damaged_artifacts_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    made = put(store)
    made.verify()
    (made.folder / "part" / "file.txt").write_text("changed")
    with pytest.raises(ArtifactError, match=r"part/file\.txt was changed"):
        made.verify()
    with pytest.raises(ArtifactError, match="has no other"):
        made.file("other")
    (made.folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        store.find("data", KEY)


def test_two_writers_of_one_key_leave_one_artifact(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.draft("data", KEY, format_version=1, inputs={}, config={}, code="") as slow:
        (slow.folder / "f").write_text("same")
        first = put(store)
    assert slow.result is not None and slow.result.digest == first.digest


def test_key_depends_on_inputs_config_and_code() -> None:
    source = Source("file", "f", "1")
    base = artifact_key("k", {"in": source}, {"a": 1}, "c")
    assert base == artifact_key("k", {"in": Source("file", "elsewhere", "1")}, {"a": 1}, "c")
    others = [
        artifact_key("k", {"in": Source("file", "f", "2")}, {"a": 1}, "c"),
        artifact_key("k", {"in": source}, {"a": 2}, "c"),
        artifact_key("k", {"in": source}, {"a": 1}, "d"),
        artifact_key("other", {"in": source}, {"a": 1}, "c"),
    ]
    assert len({base, *others}) == 5


def test_code_digest_names_modules_and_packages() -> None:
    assert code_digest(["schema"]) != code_digest(["errors"])
    assert code_digest(["dataprep", "distributed.stage"]) == code_digest(["distributed.stage", "dataprep"])


def test_folder_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_digest(tmp_path) != before


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with (
        pytest.raises(WorkError, match="No space left on device") as caught,
        store.draft("data", KEY, format_version=1, inputs={}, config={}, code="") as draft,
        (draft.folder / "f").open("w"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free disk space" in caught.value.fix


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(WorkError, match="file"):
        put(Store(str(blocked / "below")))


def test_remote_stores_are_copied_in_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI goes through pyarrow's filesystems and a local copy is read; file:// stands in for s3://."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    store = Store((tmp_path / "bucket").as_uri())
    made = put(store)
    assert made.digest == put(Store(f"{tmp_path}/local")).digest
    assert not made.folder.is_relative_to(tmp_path / "bucket")
    assert made.file("part/file.txt").read_text() == "x"
    assert store.open(made.uri).manifest == made.manifest
    (tmp_path / "bucket" / "data" / KEY[:16] / "manifest.json").unlink()
    assert store.find("data", KEY) is None

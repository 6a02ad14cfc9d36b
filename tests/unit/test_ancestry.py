"""The way back from an artifact to what it was made of."""

from pathlib import Path

import pytest

from ragray.ancestry import ancestor
from ragray.artifact import Artifact, Source, Store
from ragray.errors import ArtifactError


def put(store: Store, kind: str, text: str = "x", **inputs: Source) -> Artifact:
    with store.draft(kind, kind.ljust(64, "0"), format_version=1, inputs=inputs, config={}, code="") as draft:
        (draft.folder / "file.txt").write_text(text)
    assert draft.result is not None
    return draft.result


def test_each_kind_leads_to_the_next_while_all_is_as_it_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    train = put(store, "train")
    merge = put(store, "merge", train=train.source())
    engine = put(store, "engine", merge=merge.source())
    assert ancestor(engine) == engine
    assert ancestor(engine, "merge", "train") == train
    with pytest.raises(ArtifactError, match="was not made of an artifact of the stage augment"):
        ancestor(engine, "merge", "augment")
    other = put(Store(str(tmp_path / "other")), "train", "y").source()
    replaced = put(Store(str(tmp_path / "third")), "merge", train=Source("train", other.uri, train.digest))
    with pytest.raises(ArtifactError, match="changed since then"):
        ancestor(replaced, "train")

"""From an artifact to what it was made of.

In: an artifact and the kinds on the way. Out: the artifact at its end, which is still what the record says.
"""

from __future__ import annotations

from ragray.artifact import Artifact, Store
from ragray.errors import ArtifactError


def ancestor(artifact: Artifact, *kinds: str) -> Artifact:
    """The input of a kind, its input of the next kind, and so on: `ancestor(engine, "merge", "train")`.

    Raises:
        ArtifactError: one was removed, is on another machine, was changed since then, or never was an input.
    """
    for kind in kinds:
        source = artifact.manifest.inputs.get(kind)
        if source is None:
            raise ArtifactError(f"{artifact.uri}: was not made of an artifact of the stage {kind}")
        artifact = Store(source.uri.rsplit("/", 2)[0]).open(source.uri)
        if artifact.digest != source.digest:
            raise ArtifactError(f"{source.uri}: changed since then", "run the chain again")
    return artifact

"""The whole chain, in order, and what is finished of it.

In: a `RunConfig`. Out: the stages that a target needs, and the finished artifacts that serving reads.
"""

from __future__ import annotations

from ragray.artifact import Artifact, Store
from ragray.config import RunConfig
from ragray.distributed.augment import STAGE as AUGMENT
from ragray.distributed.build_engine import STAGE as ENGINE
from ragray.distributed.calibrate import STAGE as CALIBRATE
from ragray.distributed.evaluate import STAGE as EVALUATE
from ragray.distributed.index import STAGE as INDEX
from ragray.distributed.merge import STAGE as MERGE
from ragray.distributed.prepare import STAGE as PREPARE
from ragray.distributed.quantize import STAGE as QUANTIZE
from ragray.distributed.speed import STAGE as SPEED
from ragray.distributed.stage import Stage, stage_key
from ragray.distributed.train import STAGE as TRAIN
from ragray.errors import ArtifactError

STAGES: tuple[Stage, ...] = (
    PREPARE, INDEX, AUGMENT, CALIBRATE, TRAIN, MERGE, QUANTIZE, ENGINE, EVALUATE,
)  # fmt: skip
ON_REQUEST: tuple[Stage, ...] = (SPEED,)  # no part of the chain: run where they are named


def stages_for(*targets: str) -> list[Stage]:
    """The stages that `targets` need, themselves included, each after its needs."""
    wanted = set(targets)
    for stage in reversed((*STAGES, *ON_REQUEST)):
        if stage.name in wanted:
            wanted.update(stage.needs)
    return [stage for stage in (*STAGES, *ON_REQUEST) if stage.name in wanted]


def finished(config: RunConfig, *targets: str) -> dict[str, Artifact]:
    """The up-to-date artifacts of `targets` (default: all stages) and of what they need, by stage name.

    Nothing is run.

    Raises:
        ArtifactError: one of them is not finished, or its inputs, settings or code changed since.
    """
    store = Store(config.output)
    found: dict[str, Artifact] = {}
    for stage in stages_for(*targets) if targets else STAGES:
        key = stage_key(config, stage, {need: found[need] for need in stage.needs}).key
        artifact = store.find(stage.name, key)
        if artifact is None:
            raise ArtifactError(
                f"{config.name}: stage {stage.name} is not finished, or something that it depends on changed",
                "run `ragray run --config FILE` (for the bundled data: `make demo`), then try again",
            )
        found[stage.name] = artifact
    return found

"""One worker's part of the trained weights and of AdamW's moments, on disk and back by name.

In: a `Shard`, copied from the worker's partition without a word to the others. Out: two files a worker,
`weights-00000-of-00002.safetensors` and `moments-00000-of-00002.safetensors`, that hold the flat partition as
it is and say in their header which piece of which parameter lies where; and whole tensors by name, put
together from the files of any number of workers and any ZeRO stage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch

from ragray.artifact import sync
from ragray.errors import ArtifactError

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = {"weights": (WEIGHT,), "moments": MOMENTS}  # the files, and what is in each


@dataclass(frozen=True)
class Fragment:
    """A piece of a flattened parameter, and where it lies in the worker's flat tensors."""

    name: str
    start: int  # in the parameter
    flat: int  # which flat tensor
    offset: int  # in that flat tensor
    numel: int


@dataclass(frozen=True)
class Shard:
    """A worker's part: flat float32 tensors on the CPU, one list for each of weight, exp_avg, exp_avg_sq."""

    flats: Mapping[str, Sequence[torch.Tensor]]
    fragments: Sequence[Fragment]
    shapes: Mapping[str, tuple[int, ...]]  # of all parameters, those of other workers too


def write_shard(shard: Shard, folder: Path, rank: int, world_size: int) -> None:
    """Write both files of a worker, each whole or absent under its name, and on the disk when this returns."""
    from safetensors.torch import save_file

    where = {
        "fragments": json.dumps([astuple(fragment) for fragment in shard.fragments]),
        "shapes": json.dumps(dict(shard.shapes)),
    }
    for kind, parts in KINDS.items():
        tensors = {f"{part}.{i}": flat for part in parts for i, flat in enumerate(shard.flats[part])}
        target = folder / _file_name(kind, rank, world_size)
        aside = target.with_name(f".{target.name}")
        save_file(tensors, aside, metadata=where)
        sync(aside)
        aside.replace(target)


def all_written(folder: Path, world_size: int) -> bool:
    """Whether every worker's files are there."""
    return all((folder / _file_name(kind, rank, world_size)).exists() for kind in KINDS for rank in range(world_size))


def read_shards(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Whole tensors from the files of all workers: `name/weight`, or `name/exp_avg` and `name/exp_avg_sq`.

    Raises:
        ArtifactError: a worker's file, or a piece of a parameter, is missing.
    """
    from safetensors import safe_open

    files = sorted(folder.glob(f"{kind}-*.safetensors"))
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise _missing(folder)
    whole: dict[str, torch.Tensor] = {}
    left: dict[str, int] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata()
            shapes = json.loads(header["shapes"])
            fragments = [Fragment(*values) for values in json.loads(header["fragments"])]
            for part in KINDS[kind]:
                for name, shape in shapes.items():
                    whole.setdefault(f"{name}/{part}", torch.zeros(math.prod(shape)))
                    left.setdefault(f"{name}/{part}", math.prod(shape))
                flats = {i: opened.get_tensor(f"{part}.{i}") for i in {fragment.flat for fragment in fragments}}
                for piece in fragments:
                    values = flats[piece.flat][piece.offset : piece.offset + piece.numel]
                    whole[f"{piece.name}/{part}"][piece.start : piece.start + piece.numel] = values
                    left[f"{piece.name}/{part}"] -= piece.numel
    if any(left.values()):
        raise _missing(folder)
    return {key: tensor.reshape(shapes[key.rpartition("/")[0]]) for key, tensor in whole.items()}


def _file_name(kind: str, rank: int, world_size: int) -> str:
    return f"{kind}-{rank:05d}-of-{world_size:05d}.safetensors"


def _missing(folder: Path) -> ArtifactError:
    return ArtifactError(f"{folder}: shares of the optimizer's state are missing", "remove this folder")

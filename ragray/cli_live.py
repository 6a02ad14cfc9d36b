"""The commands of an index that changes while it is searched: `ragray live`.

In: the folder of a store, passages, ids. Out: new versions, see `retrieval.store`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ragray.retrieval.store import IndexStore

app = typer.Typer(help="Keep an index that changes while it is searched.", no_args_is_help=True)

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the changing index.")]


@app.command()
def create(
    store: StoreArgument,
    index: Annotated[Path, typer.Option("--from", help="Folder of an index artifact; its files are copied.")],
) -> None:
    """Make a changing index of one that was built."""
    from ragray.retrieval.store import IndexStore

    _say(IndexStore.create(store, index), {})


@app.command()
def update(
    store: StoreArgument,
    add: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL of passages with id, title and text; they replace those with the same id."),
    ] = None,
    delete: Annotated[list[str] | None, typer.Option(metavar="ID", help="A passage to delete; repeatable.")] = None,
    delete_from: Annotated[Path | None, typer.Option(help="File with an id to delete on each line.")] = None,
) -> None:
    """Add, replace and delete passages, all at once: one new version."""
    from ragray.errors import ConfigError
    from ragray.evaluation.collections import read_documents

    passages = [passage for path in add or () for passage in read_documents(path)]
    ids = list(delete or ())
    if delete_from is not None:
        try:
            ids += [line.strip() for line in delete_from.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{delete_from}: cannot be read: {error}", "name a text file of ids") from None
    if not passages and not ids:
        raise ConfigError("nothing to change", "give --add, --delete or --delete-from")
    opened = _store(store)
    _say(opened, asdict(opened.update(passages, ids)))


@app.command()
def compact(
    store: StoreArgument,
    all_segments: Annotated[bool, typer.Option("--all", help="Make one segment of all.")] = False,
) -> None:
    """Merge segments, so that searching many small ones does not cost time; rankings stay the same."""
    opened = _store(store)
    _say(opened, {"merged": opened.compact(all_segments) is not None})


@app.command("roll-back")
def roll_back(store: StoreArgument, version: Annotated[int, typer.Argument(help="One of `versions`.")]) -> None:
    """Search an earlier version again."""
    opened = _store(store)
    opened.roll_back(version)
    _say(opened, {})


@app.command()
def prune(
    store: StoreArgument, keep: Annotated[int, typer.Option(min=1, help="How many versions to keep.")] = 5
) -> None:
    """Remove old versions, and the segments that only they used."""
    opened = _store(store)
    _say(opened, {"removed": opened.prune(keep)})


@app.command()
def versions(store: StoreArgument) -> None:
    """Show the versions that are kept."""
    opened = _store(store)
    _say(opened, {"versions": opened.versions()})


@app.command()
def search(
    store: StoreArgument,
    query: str,
    top_k: Annotated[int, typer.Option(min=1, help="How many hits.")] = 5,
    explain: Annotated[bool, typer.Option(help="Show each term's contribution.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Search the current version."""
    from ragray.terminal import search_lines

    index = _store(store).open()
    for line in search_lines(index, query, index.search(query, top_k), explain, json_):
        typer.echo(line)


def _store(root: Path) -> IndexStore:
    from ragray.retrieval.store import IndexStore

    return IndexStore(root)


def _say(store: IndexStore, what: dict[str, Any]) -> None:
    """Print what was done and the current version with its counts, as one JSON document."""
    index = store.open()
    counts = {"documents": len(index), "segments": len(index.corpus.parts)}
    typer.echo(json.dumps({"version": store.version} | what | counts))

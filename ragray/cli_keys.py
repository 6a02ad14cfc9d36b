"""The commands of API keys: `ragray keys`.

In: a keys file. Out: the file with one key more, or one revoked; a new key is shown once and kept nowhere.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragray.cli_run import JsonOption

if TYPE_CHECKING:
    from ragray.serve.keys import ApiKey

app = typer.Typer(help="Make and revoke the API keys of a served application.", no_args_is_help=True)

FileOption = Annotated[
    Path, typer.Option("--file", "-f", help="The keys file, which serve.limits.keys_file names; YAML or .json.")
]
NameArgument = Annotated[str, typer.Argument(help="Who has the key.")]
Limit = Annotated[int | None, typer.Option(min=1, help="By default that of serve.limits.")]


@app.command()
def create(
    name: NameArgument,
    file: FileOption,
    role: Annotated[str, typer.Option(help="user: ask and search; search: search alone; admin: everything.")] = "user",
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    concurrency: Limit = None,
    json_: JsonOption = False,
) -> None:
    """Make a key, show it once, and add its hash to the file."""
    from ragray.config_loading import validate_section
    from ragray.errors import ConfigError
    from ragray.serve.keys import ApiKey, hash_of, new_secret, read_keys, utc_now, write_keys

    secret = new_secret()
    entry = {
        "name": name,
        "role": role,
        "sha256": hash_of(secret),
        "created": utc_now(),
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrency": concurrency,
    }
    key = validate_section(ApiKey, entry, "ragray keys create")
    with _alone(file):
        keys = read_keys(file) if file.exists() else ()
        if any(other.name == name for other in keys):
            raise ConfigError(f"{file}: has a key named {name}", "take another name; a revoked one keeps its own")
        write_keys(file, [*keys, key])
    if json_:
        typer.echo(json.dumps({"name": name, "role": key.role, "key": secret}))
        return
    typer.echo(secret)
    typer.echo(f"The key of {name} ({key.role}) is shown this once; {file} holds its hash alone.", err=True)


@app.command("list")
def list_(file: FileOption, json_: JsonOption = False) -> None:
    """Show the keys of a file, without any secret."""
    from ragray.serve.keys import read_keys

    keys = read_keys(file)
    if json_:
        typer.echo(json.dumps([key.model_dump(exclude={"sha256"}) for key in keys]))
        return
    for key in keys:
        quotas = {
            "requests/min": key.requests_per_minute,
            "tokens/min": key.tokens_per_minute,
            "at once": key.concurrency,
        }
        limits = ", ".join(f"{value} {unit}" for unit, value in quotas.items() if value is not None)
        state = f"revoked {key.revoked}" if key.revoked else "valid"
        typer.echo("  ".join(part for part in (key.name, key.role, f"created {key.created}", state, limits) if part))


@app.command()
def revoke(name: NameArgument, file: FileOption) -> None:
    """Let a key open nothing from now on; running servers notice within a second."""
    from ragray.errors import ConfigError
    from ragray.serve.keys import read_keys, utc_now, write_keys

    with _alone(file):
        keys = read_keys(file)
        if name not in {key.name for key in keys}:
            raise ConfigError(f"{file}: no key named {name}", "`ragray keys list` shows them")
        write_keys(file, [_revoked(key, utc_now()) if key.name == name else key for key in keys])
    typer.echo(f"{name} is revoked")


def _revoked(key: ApiKey, now: str) -> ApiKey:
    return key.model_copy(update={"revoked": key.revoked or now})


def _alone(file: Path) -> AbstractContextManager[object]:
    """Hold the file against another `ragray keys`, whose change would be lost."""
    from ragray.locks import file_lock

    return file_lock(file.with_name(f".{file.name}.lock"), lambda holder: None)

"""`ragray keys`: a key is shown once, listed without its secret, and revoked for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragray.cli import app
from ragray.errors import ConfigError
from ragray.serve.keys import KeyRing, read_keys

runner = CliRunner()


def keys(*arguments: str) -> str:
    done = runner.invoke(app, ["keys", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_key_opens_until_it_is_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    secret = keys("create", "ann", "--file", str(file), "--requests-per-minute", "5").strip()
    ring = KeyRing(file, look_every_s=0)
    found = ring.find(secret.encode())
    assert found is not None and (found.name, found.role, found.requests_per_minute) == ("ann", "user", 5)
    other = json.loads(keys("create", "bob", "--file", str(file), "--role", "admin", "--json"))
    assert other["role"] == "admin" and other["key"] != secret
    keys("revoke", "ann", "--file", str(file))
    assert ring.find(secret.encode()) is None and ring.find(other["key"].encode()) is not None
    since = read_keys(file)[0].revoked
    keys("revoke", "ann", "--file", str(file))
    assert read_keys(file)[0].revoked == since  # the first time counts


def test_a_list_shows_no_secret_and_no_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = keys("create", "ann", "--file", str(file), "--concurrency", "2").strip()
    (key,) = read_keys(file)
    for listed in (keys("list", "--file", str(file)), keys("list", "--file", str(file), "--json")):
        assert "ann" in listed and "user" in listed
        assert secret not in listed and key.sha256 not in listed
    assert "2 at once" in keys("list", "--file", str(file))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "ann"], "has a key named ann"),
        (["create", "a b"], "name"),
        (["create", "bob", "--role", "root"], "role"),
        (["revoke", "nobody"], "no key named nobody"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    file = tmp_path / "keys.yaml"
    keys("create", "ann", "--file", str(file))
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=words):
        runner.invoke(app, ["keys", *arguments, "--file", str(file)], catch_exceptions=False)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["keys.yaml"]  # no lock, no half-written file

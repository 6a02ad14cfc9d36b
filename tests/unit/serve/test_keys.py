"""Keys: only a valid one opens, its file is private and followed, and it never holds a secret."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from ragray.errors import ConfigError
from ragray.serve import keys as keys_module
from ragray.serve.keys import ApiKey, KeyRing, bearer, hash_of, new_secret, read_keys, write_keys

A = "a" * 64


def key(name: str, secret: str, **more: Any) -> ApiKey:
    return ApiKey(name=name, sha256=hash_of(secret), **more)


@pytest.fixture(params=["keys.yaml", "keys.json"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_what_is_written_is_read_and_for_its_owner_alone(file: Path) -> None:
    keys = (key("ann", "a", created="2026-01-01T00:00:00Z", requests_per_minute=5), key("bob", "b", role="admin"))
    write_keys(file, keys)
    assert read_keys(file) == keys
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    if file.suffix == ".json":
        assert json.loads(file.read_text())["keys"][1]["role"] == "admin"


def test_the_file_holds_sha256_and_no_secret(file: Path) -> None:
    secret = new_secret()
    write_keys(file, [key("ann", secret)])
    assert hashlib.sha256(secret.encode()).hexdigest() in file.read_text()
    assert secret not in file.read_text() and secret.removeprefix("rk-") not in file.read_text()


def test_secrets_are_256_bits_and_differ() -> None:
    secrets = {new_secret() for _ in range(200)}
    assert len(secrets) == 200 and all(len(secret) == 3 + 43 for secret in secrets)  # 43 base64 digits hold 258 bits


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_file_that_others_may_open_is_refused(file: Path, mode: int) -> None:
    write_keys(file, [key("ann", "a")])
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no keys"),
        ("[]", "holds no keys"),
        ("{", "neither JSON nor YAML"),
        ("keys: [{name: ann}]", "sha256: required"),
        ("keys: [{name: 'a b', sha256: x}]", "name"),
        ("keys: [{name: ann, sha256: " + "G" * 64 + "}]", "sha256"),
        ("keys: [{name: ann, sha256: " + A + ", role: root}]", "role"),
        ("keys: [{name: ann, sha256: " + A + ", rolle: user}]", "did you mean role"),
        ("keys: [{name: a, sha256: " + A + "}, {name: a, sha256: " + "b" * 64 + "}]", "two entries have the name"),
        ("keys: [{name: a, sha256: " + A + "}, {name: b, sha256: " + A + "}]", "two entries have the sha256"),
        ("!!python/object/apply:os.system ['true']", "neither JSON nor YAML"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=words):
        read_keys(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_keys(tmp_path / "keys.yaml")
    with pytest.raises(ConfigError):
        read_keys(tmp_path)


def test_only_a_valid_key_opens(file: Path) -> None:
    write_keys(file, [key("ann", "a"), key("bob", "b", revoked="2026-01-01T00:00:00Z")])
    ring = KeyRing(file)
    found = ring.find(b"a")
    assert found is not None and found.name == "ann"
    hash_itself = hash_of("a").encode()
    assert [ring.find(secret) for secret in (b"b", b"c", b"", b"A", b"a ", hash_itself, b"\xff\x00")] == [None] * 7


def test_every_entry_is_compared_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_keys(file, [key(str(n), str(n)) for n in range(5)])
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    class Compare:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(keys_module, "hmac", Compare)
    KeyRing(file).find(b"0")  # the first one fits, and the others are compared all the same
    assert [left.decode() for left, _ in compared] == [hash_of(str(n)) for n in range(5)]
    assert {right.decode() for _, right in compared} == {hash_of("0")}


def test_a_change_is_seen_without_a_restart(file: Path) -> None:
    write_keys(file, [key("ann", "a")])
    ring = KeyRing(file, look_every_s=0)
    assert ring.find(b"a") is not None
    write_keys(file, [key("ann", "a", revoked="2026-01-01T00:00:00Z"), key("bob", "b")])
    assert ring.find(b"a") is None and ring.find(b"b") is not None


def test_without_a_readable_file_nothing_opens_and_that_is_said_once(file: Path) -> None:
    write_keys(file, [key("ann", "a")])
    said: list[str] = []
    ring = KeyRing(file, look_every_s=0, complain=said.append)
    content = file.read_text()
    for spoil in (lambda: file.write_text("{"), lambda: file.chmod(0o644), file.unlink):
        spoil()
        assert [ring.find(b"a"), ring.find(b"a")] == [None, None]
    assert len(said) == 3 and all("no API key is accepted" in text for text in said)
    file.write_text(content)
    file.chmod(0o600)
    assert ring.find(b"a") is not None


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer abc", b"abc"),
        (b"BEARER   abc ", b"abc"),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Basic abc", None),
        (b"abc", None),
        (b"", None),
        (b"Bearer a b", None),
        (b"Bearer abc\n", None),
        (b"Bearer \xff", None),
        (b"Bearer " + b"a" * 257, None),
        (b"xBearer abc", None),
    ],
)
def test_only_bearer_s_form_is_read(header: bytes, secret: bytes | None) -> None:
    assert bearer(header) == secret


def test_a_role_covers_its_paths_and_what_lies_below() -> None:
    search, user, admin = (key(role, role, role=role) for role in ("search", "user", "admin"))
    assert search.may_call("/v1/search") and search.may_call("/v1/models/x")
    assert not search.may_call("/v1/chat/completions") and not search.may_call("/v1/searching")
    assert user.may_call("/v1/chat/completions") and not user.may_call("/v1/admin/keys") and not user.may_call("/")
    assert all(admin.may_call(path) for path in ("/", "/v1/admin/keys", "/v1/search", ""))

"""API keys: who may call what, and how much of it.

In: a keys file and the secret of a request. Out: the `ApiKey` that it opens, or none.

A key is 256 random bits, so the file holds its plain SHA-256: slow, salted hashes (argon2, bcrypt) protect secrets that
can be guessed, and nobody guesses one of 2^256; they would cost each request milliseconds. Whoever reads the file can
still call nothing with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from ragray.config_data import Positive, Section
from ragray.config_loading import validate_section
from ragray.errors import ConfigError

Role = Literal["user", "search", "admin"]
PREFIX = "rk-"
# What each role may call: a path, and all below it. What is not named here is for admins.
CALLS: dict[Role, tuple[str, ...]] = {
    "user": ("/v1/chat", "/v1/search", "/v1/models", "/v1/feedback", "/v1/status"),
    "search": ("/v1/search", "/v1/models"),
    "admin": ("",),
}
_MODE = 0o600


class ApiKey(Section):
    """One entry of a keys file."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$", description="who has it; shown in logs")
    role: Role = Field("user", description="what it may call")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of the key, lower-case hexadecimal")
    created: str = Field("", description="when, in UTC")
    revoked: str | None = Field(None, description="since when it opens nothing, in UTC")
    requests_per_minute: Positive | None = Field(None, description="by default serve.limits.requests_per_minute")
    tokens_per_minute: Positive | None = Field(None, description="by default serve.limits.tokens_per_minute")
    concurrency: Positive | None = Field(None, description="by default serve.limits.concurrency")

    def may_call(self, path: str) -> bool:
        """Whether the role covers a path."""
        return any(not base or path == base or path.startswith(base + "/") for base in CALLS[self.role])


class KeysFile(Section):
    """A keys file: JSON or YAML."""

    keys: tuple[ApiKey, ...] = ()

    @model_validator(mode="after")
    def _check_twins(self) -> KeysFile:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in self.keys]
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"keys: two entries have the {field} {value}; leave one of them out")
        return self


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The entries of a keys file.

    Raises:
        ConfigError: it is missing, open to other users of the machine, or not a keys file.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", f"make one: ragray keys create NAME --file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "name a readable keys file") from None
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise ConfigError(f"{path}: other users of this machine may open it", f"chmod 600 {path}")
    try:
        tree = yaml.safe_load(text)  # JSON, too
    except yaml.YAMLError:
        raise ConfigError(f"{path}: neither JSON nor YAML", "correct it, or make a new one") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no keys", f"make one: ragray keys create NAME --file {path}")
    return validate_section(KeysFile, tree, str(path)).keys


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace a keys file in one step, readable by its owner alone; `.json` is written as JSON, else YAML."""
    tree: dict[str, Any] = {"keys": [key.model_dump(exclude_none=True) for key in keys]}
    text = json.dumps(tree, indent=2) + "\n" if path.suffix == ".json" else yaml.safe_dump(tree, sort_keys=False)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}", "name a file in a folder of yours") from None


def new_secret() -> str:
    """A new key: 256 bits of the operating system's randomness."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str | bytes) -> str:
    """What the file keeps of a key."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def utc_now() -> str:
    """The time as keys files write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True, slots=True)
class _Seen:
    """What tells one version of the file from another."""

    changed_ns: int
    status_ns: int
    inode: int
    bytes: int

    @classmethod
    def of(cls, path: Path) -> _Seen | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)


class KeyRing:
    """The keys of a file, read again when it changes.

    While the file is missing or damaged no key opens anything: a revocation that cannot be read must not be skipped.

    Args:
        path: the keys file.
        look_every_s: how long a change may go unnoticed, seconds.
        complain: is told why the file cannot be used, once for each version of it.

    Raises:
        ConfigError: the file cannot be used now.
    """

    def __init__(
        self, path: Path, look_every_s: float = 1.0, complain: Callable[[str], object] = lambda text: None
    ) -> None:
        self._path = path
        self._look_every_s = look_every_s
        self._complain = complain
        self._seen = _Seen.of(path)
        self._keys = self._by_hash(read_keys(path))
        self._looked = time.monotonic()

    def find(self, secret: bytes) -> ApiKey | None:
        """The key that a secret opens; None for a wrong or a revoked one.

        All entries are compared, each in constant time: how long it takes says nothing about any of them.
        """
        self._look()
        digest = hashlib.sha256(secret).hexdigest().encode()
        found: ApiKey | None = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return None if found is None or found.revoked is not None else found

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < self._look_every_s:
            return
        self._looked = now
        seen = _Seen.of(self._path)
        if seen is not None and seen == self._seen:
            return
        try:
            self._keys = self._by_hash(read_keys(self._path))
        except ConfigError as error:
            if self._keys or seen != self._seen:
                self._complain(f"no API key is accepted: {error}")
            self._keys = ()
        self._seen = seen

    @staticmethod
    def _by_hash(keys: Sequence[ApiKey]) -> tuple[tuple[bytes, ApiKey], ...]:
        return tuple((key.sha256.encode(), key) for key in keys)


_TOKEN = re.compile(rb"(?i:bearer) +([!-~]{1,256}) *\Z")


def bearer(header: bytes) -> bytes | None:
    """The secret of an Authorization header; None where it is of another form."""
    match = _TOKEN.match(header)
    return match[1] if match else None

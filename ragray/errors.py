"""All that can go wrong, on one page.

    RagrayError              exit code 1 is never used; each class carries its own
    |-- ConfigError          2  the configuration or the command line is wrong
    |-- DataError            3  the input data cannot be used
    |-- ArtifactError        4  an artifact is missing, damaged or of another format
    |-- EngineError          4  a model cannot be loaded, quantized, built or run
    |-- QualityError         4  a result is worse than it may be
    `-- WorkError            4  a stage started and could not finish (disk, port, worker)

An error's message says what is wrong (file, field or row) and ends with what to do about it.
A bad row is not an error: it becomes a `schema.Rejected` and is counted.
"""

EXIT_DONE = 0
EXIT_CONFIG = 2
EXIT_DATA = 3
EXIT_WORK = 4
EXIT_INTERRUPTED = 130


class RagrayError(Exception):
    """Any failure that ragray explains to its user.

    Args:
        message: what is wrong, naming the file, field or row.
        fix: what to type or change; shown after the message.
    """

    exit_code = EXIT_WORK

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  Fix: {self.fix}" if self.fix else self.message


class ConfigError(RagrayError):
    """The configuration or the command line is wrong."""

    exit_code = EXIT_CONFIG


class DataError(RagrayError):
    """The input data cannot be used: missing, empty, unreadable, or too much of it rejected."""

    exit_code = EXIT_DATA


class ArtifactError(RagrayError):
    """An artifact is missing, damaged, or of a kind or format that was not asked for."""


class EngineError(RagrayError):
    """A model cannot be loaded, quantized, built or run on this device."""


class QualityError(RagrayError):
    """A result is worse than the user allows."""


class WorkError(RagrayError):
    """A stage started and could not finish: disk full, no permission, port in use, lost workers."""

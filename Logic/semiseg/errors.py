"""Exceptions for the person at the screen: what was expected, what was found, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line; documented in `semiseg --help` and the README."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    STUDY = 3
    IMAGE = 4
    LABELS = 5
    DEVICE = 6
    STORAGE = 7
    JOB = 8
    CANCELLED = 130


class SemiSegError(Exception):
    """Base of every error that a user can cause or mend; its text is shown as it is."""

    exit_code = ExitCode.UNEXPECTED


class ConfigError(SemiSegError):
    """A setting is out of its range or contradicts another."""

    exit_code = ExitCode.USAGE


class StudyError(SemiSegError):
    """The study folder cannot be used as asked."""

    exit_code = ExitCode.STUDY


class StudyLockedError(StudyError):
    """Another living process writes to the study."""


class SchemaError(StudyError):
    """The study was written by a newer SemiSeg, or a file of it is corrupt."""


class ProtocolError(StudyError):
    """A structure is unknown, defined twice or missing."""


class ImageError(SemiSegError):
    """An image or label file cannot be read or is of a kind that is not supported."""

    exit_code = ExitCode.IMAGE


class CasesFailedError(SemiSegError):
    """Some cases could not be worked on; the others were, and are kept."""

    exit_code = ExitCode.IMAGE


class GeometryMismatchError(ImageError):
    """Two volumes that must share one grid do not."""


class LabelError(SemiSegError):
    """A label map has values or segments that the protocol does not know."""

    exit_code = ExitCode.LABELS


class NotEnoughLabelsError(LabelError):
    """The work needs done slices that are not there."""


class DeviceError(SemiSegError):
    """The device asked for is absent or out of memory."""

    exit_code = ExitCode.DEVICE


class StorageError(SemiSegError):
    """The disk is full, read-only or refuses to be written."""

    exit_code = ExitCode.STORAGE


class JobError(SemiSegError):
    """A child process failed or spoke out of turn."""

    exit_code = ExitCode.JOB


class CancelledError(SemiSegError):
    """The user stopped the work; everything confirmed so far is kept."""

    exit_code = ExitCode.CANCELLED


def require_all(n_cases: int, failed: Mapping[str, str], done: str) -> None:
    """CasesFailedError with the sentences of the `failed` cases, if any; the others are `done`."""
    if failed:
        raise CasesFailedError(
            f"{n_cases - len(failed)} of {n_cases} cases were {done} and saved; not "
            + "; not ".join(f"{case_id}: {sentence}" for case_id, sentence in failed.items())
        )

"""How far long work is, in words."""

from __future__ import annotations

from slicer.i18n import tr as _

from SemiSegModuleLib.tasks import TaskState


def progress_in_words(task: TaskState) -> str:
    """Kind, phase, what the engine says, and the time left."""
    if task.cancelling:
        return _("Stopping ...")
    parts = (
        kind_title(task.kind),
        phase_title(task.phase),
        task.message,
        time_left(task.seconds_left),
    )
    return "  ·  ".join(part for part in parts if part)


def kind_title(kind: str) -> str:
    """What is going on."""
    return {
        "propagate": _("Propagating"),
        "learn": _("Learning"),
        "segment": _("Segmenting"),
        "export": _("Exporting"),
        "report": _("Writing the report"),
        "end_there": _("Ending the work"),
        "export_model": _("Writing the model"),
        "import_model": _("Adding the model"),
    }.get(kind, kind)


def phase_title(phase: str) -> str:
    """The engine's phase in words; its own word where none is known."""
    return {
        "save": _("saving what you drew"),
        "start": _("starting"),
        "train": _("training"),
        "predict": "",
        "propagate": "",
        "pack": _("packing"),
        "upload": _("sending"),
        "remote": _("on the cluster"),
        "fetch": _("bringing results back"),
    }.get(phase, phase.replace("_", " "))


def time_left(seconds: float | None) -> str:
    """A rough, readable span; empty when nobody knows."""
    if seconds is None or seconds < 0:
        return ""
    if seconds < 10:
        return _("a few seconds left")
    if seconds < 90:
        return _("{count} s left").format(count=round(seconds / 10) * 10)
    if seconds < 5400:
        return _("{count} min left").format(count=round(seconds / 60))
    return _("{count:.1f} h left").format(count=seconds / 3600)

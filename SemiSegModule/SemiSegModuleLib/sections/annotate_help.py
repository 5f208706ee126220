"""The keys and the strip's shapes, as a short list."""

from __future__ import annotations

from slicer.i18n import tr as _

from SemiSegModuleLib.shortcuts import keys


def help_text() -> str:
    """Rich text in the palette's own colors."""
    own = [(key.sequence, key.text) for key in keys()]
    slicers = [
        (_("Left, Right"), _("Previous, next slice (click into the slice view first)")),
        ("1 \u2013 9, Esc, " + _("Space"), _("Choose a tool, put it down, take it up again")),
        ("Q, W", _("Previous, next structure")),
        ("Z, Y", _("Undo, redo")),
        ("G", _("Show or hide what is drawn")),
    ]
    rows = "".join(
        f"<tr><td><b>{name}</b>&nbsp;&nbsp;</td><td>{text}</td></tr>"
        for name, text in (*own, *slicers)
    )
    return f"<table>{rows}</table><p>{_legend()}</p>"


def _legend() -> str:
    return _(
        "The strip, one cell per slice: low line untouched, half height suggested, full height "
        "done, hollow done and empty, striped being saved. The triangle is the shown slice."
    )

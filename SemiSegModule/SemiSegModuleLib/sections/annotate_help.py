"""The keys and the strip's shapes, as a short list."""

from __future__ import annotations

from slicer.i18n import tr as _

from SemiSegModuleLib.sections.ledger_strip import DONE, PENDING, SUGGESTED, UNTOUCHED


def help_text() -> str:
    """Rich text; apart from the strip's own, all colors are the palette's."""
    rows = "".join(
        f"<tr><td><b>{sequence}</b>&nbsp;&nbsp;</td><td>{text}</td></tr>"
        for sequence, text in _keys()
    )
    shapes = "<br>".join(
        f'<span style="color:rgb{color}">{shape}</span>&nbsp; {text}'
        for shape, color, text in _shapes()
    )
    return f"<table>{rows}</table><p>{shapes}</p>"


def _keys() -> tuple[tuple[str, str], ...]:
    """Ours, then those of Slicer's that are used most beside them; each fits into one line."""
    return (
        ("Shift+D", _("slice done")),
        ("Shift+E", _("slice empty")),
        ("Shift+U", _("not done")),
        ("Shift+\u2190, Shift+\u2192", _("previous, next done slice")),
        ("Shift+N", _("go where drawing pays most")),
        ("Shift+T", _("take over the slice's suggestion")),
        ("\u2190, \u2192", _("previous, next slice (in a slice view)")),
        ("1 \u2013 9", _("take a tool of the editor")),
        (_("Esc, Space"), _("put the tool down, take it up again")),
        ("Q, W", _("previous, next structure")),
        ("Z, Y", _("undo, redo")),
        ("G", _("show or hide what is drawn")),
    )


def _shapes() -> tuple[tuple[str, tuple[int, int, int], str], ...]:
    return (
        ("\u2588", DONE, _("done")),
        ("\u25af", DONE, _("done and empty")),
        ("\u2584", SUGGESTED, _("suggested")),
        ("\u2581", UNTOUCHED, _("untouched")),
        ("\u25a4", PENDING, _("being saved")),
        ("\u25cf", PENDING, _("worth drawing next")),
    )

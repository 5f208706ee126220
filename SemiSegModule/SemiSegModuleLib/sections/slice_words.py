"""What is known of a slice, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from slicer.i18n import tr as _

from semiseg.images.grid import Plane
from semiseg.study.ledger import SliceState

_MOST_NAMES = 4


def plane_in_words(plane: Plane) -> str:
    """The plane's name."""
    return {"axial": _("axial"), "coronal": _("coronal"), "sagittal": _("sagittal")}[plane]


def state_in_words(state: SliceState, *, pending: bool = False) -> str:
    """The state's name; `pending` while the mark is being saved."""
    words = {
        SliceState.UNTOUCHED: _("untouched"),
        SliceState.SUGGESTED: _("suggested"),
        SliceState.DONE: _("done"),
        SliceState.EMPTY: _("done and empty"),
    }[state]
    return _("{state}, being saved").format(state=words) if pending else words


def slice_in_words(index: int, count: int, plane: Plane, state: str) -> str:
    """Which slice is shown and its state; numbers as in Slicer's data probe and the report."""
    return _("Slice {index} of 0\u2013{last}, {plane}: {state}.").format(
        index=index, last=count - 1, plane=plane_in_words(plane), state=state
    )


def content_in_words(drawn: Sequence[str], suggested: Sequence[str]) -> str:
    """Which structures the slice shows; "" where it shows none."""
    if drawn and suggested:
        text = _("{drawn} drawn, {suggested} suggested.").format(
            drawn=listed(drawn), suggested=listed(suggested)
        )
    elif drawn:
        text = _("{drawn} drawn.").format(drawn=listed(drawn))
    elif suggested:
        text = _("{suggested} suggested.").format(suggested=listed(suggested))
    else:
        return ""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """The names as a list in a sentence; many are counted."""
    if len(names) == 1:
        return names[0]
    if len(names) > _MOST_NAMES:
        shown = ", ".join(names[: _MOST_NAMES - 1])
        return _("{names} and {count} more").format(names=shown, count=len(names) - _MOST_NAMES + 1)
    return _("{names} and {last}").format(names=", ".join(names[:-1]), last=names[-1])

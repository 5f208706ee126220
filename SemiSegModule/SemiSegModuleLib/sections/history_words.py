"""Rounds, versions, comparisons and the advice, in words and cells."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from slicer.i18n import tr as _

from SemiSegModuleLib.history_lines import Part, RoundLine, VersionLine, changes_in_words
from SemiSegModuleLib.session_history import CHANGE_COLORS, Advice, Compared
from SemiSegModuleLib.session_overlays import Legend

_NONE = "\u2013"


def round_headings() -> list[tuple[str, str]]:
    """Names and meanings of the columns of rounds."""
    return [
        (_("Round"), _("From one model to the next")),
        (_("Min"), _("Minutes of drawing; longer pauses count as five")),
        (_("Slices"), _("Slices that were finished")),
        (_("Score"), _own_score_meaning()),
        (_("Checked"), _("Finished slices in which something had been suggested")),
        (_("Kept"), _("How well the suggestion fitted what you left (Dice, in percent)")),
        (_("+ ml"), _("Millilitres that you added to the suggestion")),
        (_("\u2212 ml"), _("Millilitres that you took away from the suggestion")),
        (_("Moved"), _("Mean distance of your contours from the suggested ones, in millimetres")),
    ]


def round_cells(line: RoundLine) -> tuple[str, ...]:
    """One row of the table of rounds."""
    checked = line.corrected > 0
    name = _("start") if line.number == 0 else _("model {number}").format(number=line.number)
    return (
        name,
        f"{line.minutes:.1f}",
        str(line.slices),
        _own_score(line.validation, line.low, line.high),
        str(line.corrected),
        _NONE if line.dice is None else f"{100 * line.dice:.1f} %",
        f"{line.added_ml:.1f}" if checked else _NONE,
        f"{line.removed_ml:.1f}" if checked else _NONE,
        _NONE if line.surface_mm is None else f"{line.surface_mm:.1f} mm",
    )


def _own_score(dice: float | None, low: float | None, high: float | None) -> str:
    if dice is None:
        return _NONE
    if low is None or high is None:
        return f"{100 * dice:.1f} %"
    return f"{100 * dice:.0f} % ({100 * low:.0f}\u2013{100 * high:.0f})"


def _own_score_meaning() -> str:
    return _(
        "A model's Dice on what was held back from it; in brackets what to expect in new patients "
        "on average (95 %), where whole patients were held back; the upper end allows for the "
        "shorter trainings behind it"
    )


def version_headings() -> list[tuple[str, str]]:
    """Names and meanings of the columns of versions."""
    return [
        (_("Version"), _("Labels and segmentations of this scan, and models; bold is the newest")),
        (_("When"), _("When it was made")),
        (_("Score"), _own_score_meaning() + _("; how unsure a segmentation is")),
        (_("Min"), _("Minutes of drawing or learning behind it")),
        (_("MB"), _("Space that it takes")),
        (_("What"), _("How it came about, and what changed against the one before")),
    ]


def version_cells(line: VersionLine, names: Mapping[int, str]) -> tuple[str, ...]:
    """One row of the table of versions."""
    title = _("{title} (pinned)").format(title=line.title) if line.pinned else line.title
    return (
        title,
        line.when(time.strftime("%Y-%m-%d")),
        _score(line),
        _NONE if line.minutes is None else f"{line.minutes:.1f}",
        f"{line.bytes / 1e6:.1f}",
        version_text(line, names),
    )


def version_text(line: VersionLine, names: Mapping[int, str]) -> str:
    """How it came about and what it changed."""
    if line.problem:
        return _("damaged: {why}").format(why=line.problem)
    changed = changes_in_words(line, names)
    return _("{what}: {changed}").format(what=line.what, changed=changed) if changed else line.what


def _score(line: VersionLine) -> str:
    if line.score is not None:
        return _own_score(line.score, line.low, line.high)
    if line.uncertainty is not None:
        return _("{percent:.0f} % unsure").format(percent=100 * line.uncertainty)
    return _NONE


def advice_in_words(advice: Advice | None) -> str:
    """Whether to go on, with the reason; empty while nobody was asked."""
    if advice is None:
        return ""
    head = {
        True: _("Another round pays"),
        False: _("Time to stop"),
        None: _("Not known yet whether another round pays"),
    }[advice.go_on]
    reason = advice.reason[:1].upper() + advice.reason[1:]
    return _("<b>{head}.</b> {reason}.").format(head=head, reason=reason)


def compared_in_words(compared: Compared) -> str:
    """Which versions, and how far they differ."""
    head = _("From {first} to {second}: ").format(
        first=compared.first.title, second=compared.second.title
    )
    if not compared.changed:
        return head + _("nothing differs.")
    each = [f"{part.name} {_gained_and_lost(part)} ml" for part in compared.parts]
    voxels = _("{count} voxels differ").format(count=compared.changed)
    return head + voxels + (": " + ", ".join(each) if each else "") + "."


def _gained_and_lost(part: Part) -> str:
    """Millilitres, without what is nothing."""
    gained, lost = f"+{part.added_ml:.2f}", f"\u2212{part.removed_ml:.2f}"
    if not part.removed_ml:
        return gained
    return f"{gained} {lost}" if part.added_ml else lost


def change_legend() -> tuple[Legend, ...]:
    """The colors of changed voxels."""
    words = (_("gained"), _("lost"), _("another structure"))
    return tuple(Legend(color=c, text=t) for c, t in zip(CHANGE_COLORS, words, strict=True))


def legend_in_words(lines: Sequence[Legend]) -> str:
    """Colored squares with their meaning, for a label that shows rich text."""
    parts = [
        '<span style="color:#{:02x}{:02x}{:02x}">\u25a0</span>&nbsp;{}'.format(
            *line.color, line.text.replace(" ", "&nbsp;")
        )
        for line in lines
    ]
    return " &nbsp; ".join(parts)

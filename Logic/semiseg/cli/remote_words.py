"""Reads the command line of work that is to be done elsewhere, as if it were done here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from semiseg.errors import ConfigError

if TYPE_CHECKING:
    from semiseg.remote.manifest import Kind
    from semiseg.remote.packing import Wish

# Nothing that names a file of this computer can be sent.
_SENDABLE = {
    "propagate": {"atlases", "spacing", "iterations", "by_shape", "seed", "device", "workers"},
    "train": {
        "method",
        "minutes",
        "steps",
        "seed",
        "validation",
        "spacing",
        "dims",
        "batch_size",
        "learning_rate",
        "human_only",
        "sparing",
        "deep_supervision",
        "atlas_warps",
        "bridging",
        "preset",
        "clock",
        "device",
        "workers",
    },
    "predict": {"overlap", "flips", "keep_islands", "no_prior", "device", "workers"},
}


def wish_of(kind: Kind, words: list[str]) -> tuple[Path, Wish]:
    """The study and the work in a command line, checked as if it ran here."""
    from typer.main import get_command

    from semiseg.cli import work
    from semiseg.remote.packing import Wish

    local = typer.Typer(rich_markup_mode=None)
    work.register(local)
    command = get_command(local).commands[kind]  # type: ignore[attr-defined]
    context = command.make_context(f"semiseg {kind}", list(words))
    given = context.params
    arguments: list[str] = []
    for option in command.params:
        value, name = given.get(option.name), option.name
        if name in ("folder", "cases", "model"):
            continue
        # What is said beside a preset counts even where it is the default.
        said = given.get("preset") is not None and work.was_given(context, name)
        if value == option.default and not said:
            continue
        if name not in _SENDABLE[kind]:
            raise ConfigError(
                f"{option.opts[0]} cannot be used on a cluster: it names a file of this computer "
                "or belongs to work here; leave it out"
            )
        if isinstance(value, bool):
            arguments += (option.opts if value else option.secondary_opts)[:1]
        else:
            arguments += [option.opts[0], str(value)]
    cases = given.get("cases")
    wish = Wish(
        kind=kind,
        arguments=tuple(arguments),
        case_ids=tuple(cases) if cases else None,
        model_id=given.get("model"),
    )
    return given["folder"], wish


def withdrawal_in_words(addresses: Sequence[object], n_running: int) -> str:
    """What follows from a withdrawn consent; `n_running` jobs are still on these clusters."""
    if not addresses:
        return "there was no consent to withdraw"
    where = ", ".join(map(str, addresses))
    jobs = "one job" if n_running == 1 else f"{n_running} jobs"
    left = f"; {jobs} sent before may go on until ended" if n_running else ""
    return (
        f"from now on nothing is sent to {where} before it was agreed to again. What is there "
        f"already stays until it is swept{left}"
    )

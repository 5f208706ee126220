"""Which structure of a bundle is which one of a study: by code, else by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from semiseg.study.protocol import Structure
from semiseg.study.terminology import Code, find_term


def match(theirs: Sequence[Structure], ours: Sequence[Structure]) -> dict[int, int]:
    """Id of ours -> channel of theirs (1 for the first); each channel is given once.

    A code, with its side, decides over names; names are compared without case and punctuation,
    and common ones by the code that they stand for. Ids mean nothing outside their study.
    """
    found: dict[int, int] = {}
    for key in (_by_code, _by_name):
        channels = {key(s): channel for channel, s in reversed(list(enumerate(theirs, 1)))}
        for structure in ours:
            channel = channels.get(key(structure)) if key(structure) else None
            if structure.id not in found and channel and channel not in found.values():
                found[structure.id] = channel
    return found


def _by_code(structure: Structure) -> tuple[str, ...]:
    code, modifier = structure.code, structure.modifier
    if code is None:
        term = find_term(structure.name)
        if term is None:
            return ()
        code, modifier = term.code, term.modifier
    return (*_words(code), *_words(modifier))


def _words(code: Code | None) -> tuple[str, ...]:
    return () if code is None else (code.scheme, code.value)


def _by_name(structure: Structure) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", structure.name.casefold()))

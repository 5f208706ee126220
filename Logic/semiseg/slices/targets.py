"""Which slice is told from which done slices."""

from __future__ import annotations

from dataclasses import dataclass

from semiseg.slices.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Target:
    """Slice `place` of a stack, to be told from its done slices number `below` and `above`.

    They are the same beyond the outermost ones. `share` in [0, 1] is the weight of `above`;
    `taper` grows from 0 where a structure that nobody drew further has to end, at 1.
    """

    place: int
    below: int
    above: int
    share: float
    taper: float = 0.0


def undrawn_targets(stack: Stack) -> list[Target]:
    """Every slice of the stack that is not done, with the done ones next to it."""
    targets = []
    for place in sorted(set(range(len(stack.grey))) - set(stack.done)):
        after = sum(position < place for position in stack.done)
        if 0 < after < len(stack.done):
            targets.append(_between(stack, place, after - 1, after))
        else:
            targets.append(_beyond(stack, place, min(after, len(stack.done) - 1)))
    return targets


def held_out_targets(stack: Stack) -> list[Target]:
    """Done slices to be told from others: from their neighbours on both sides.

    Where no done slice has two, each from the other.
    """
    last = len(stack.done) - 1
    if last > 1:
        return [_between(stack, stack.done[k], k - 1, k + 1) for k in range(1, last)]
    if last == 1:
        return [_beyond(stack, stack.done[1 - k], k) for k in (0, 1)]
    return []


def _between(stack: Stack, place: int, below: int, above: int) -> Target:
    low, high = stack.done[below], stack.done[above]
    return Target(place=place, below=below, above=above, share=(place - low) / (high - low))


def _beyond(stack: Stack, place: int, number: int) -> Target:
    away = abs(place - stack.done[number])
    held_out = place in stack.done
    reach = stack.reach[place > stack.done[number]]
    taper = 0.0 if held_out else away / max(reach, 1e-6)
    return Target(place=place, below=number, above=number, share=0.5, taper=taper)

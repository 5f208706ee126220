"""Fine matching of many pairs: velocities moved by Adam until features agree in both directions.

Source: Vercauteren et al., MICCAI 2008 (both directions at once).
"""

from __future__ import annotations

import torch
from torch import Tensor

from semiseg.registration.batch import Body, Chosen, Pairs, mean_distances
from semiseg.registration.descent import DenseSettings, descend, draws
from semiseg.registration.discrete import Coarse
from semiseg.registration.spline import Splines
from semiseg.registration.velocity import domain, integrated, logarithm


def refine_velocity(pairs: Pairs, coarse: Coarse, settings: DenseSettings) -> Splines:
    """The velocities near `coarse` under whose flows features agree both ways.

    A point p of a fixed body corresponds to `start(p + flow at p)`, a point q of the moving one
    to `r + backward flow at r` with `r = home(q)`. A pair without a body keeps the coarse one.
    """
    velocity = logarithm(domain(pairs.fixed, settings.knot_mm), coarse)
    here, there = Body(pairs.fixed), Body(pairs.moving)
    if not (here.most and there.most):
        return velocity
    points = min(settings.points, max(here.most, there.most))
    counted = (here.counts > 0) & (there.counts > 0)
    chance = draws(settings, 2, pairs.fixed.table.device)[:, :, :points]

    def loss(coefficients: Tensor, step: int) -> Tensor:
        now = velocity.with_coefficients(coefficients)
        p, q = here.some(chance[step, 0]), there.some(chance[step, 1])
        apart = _apart(pairs, now, p, q, settings.flow_steps)
        total = apart + settings.smoothness * now.roughness()
        return total.where(counted, 0.0).sum()

    return velocity.with_coefficients(descend(velocity.coefficients, loss, settings))


def _apart(pairs: Pairs, velocity: Splines, p: Chosen, q: Chosen, steps: int) -> Tensor:
    """How badly each pair's features agree, (B,), both ways."""
    stream = integrated(velocity, directions=(1, -1), squarings=0)
    places = torch.cat([p.points, pairs.home(q.points)])
    out, onto_fixed = (places + stream.followed(places, steps)).tensor_split(2)
    onto_moving = pairs.starts(out)
    apart = mean_distances(pairs.moving, onto_moving, p)
    apart = (apart + mean_distances(pairs.fixed, onto_fixed, q)) / 2
    if not any(pairs.landmarks):
        return apart
    return apart + torch.stack(_drawn_together(pairs, p, onto_moving, q, onto_fixed))


def _drawn_together(
    pairs: Pairs, p: Chosen, onto_moving: Tensor, q: Chosen, onto_fixed: Tensor
) -> list[Tensor]:
    """What the landmarks of each pair say; nothing where it has none."""
    said: list[Tensor] = []
    for pair, known in enumerate(pairs.landmarks):
        if known is None:
            said.append(onto_moving.new_zeros(()))
            continue
        here, there = slice(p.sizes[pair]), slice(q.sizes[pair])
        said.append(
            known.both_ways(
                pairs.fixed.own_numbers(pair, p.rows[pair])[here],
                onto_moving[pair][here],
                pairs.moving.own_numbers(pair, q.rows[pair])[there],
                onto_fixed[pair][there],
            )
        )
    return said

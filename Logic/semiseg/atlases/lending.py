"""Labels lent to a case by atlases that were aligned with it, fused and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from semiseg.atlases.borders import border_contrast, border_ratios
from semiseg.atlases.fusion import Fused, fuse, on_grid
from semiseg.atlases.gate import Findings, judge_transfer, volume_ratios
from semiseg.atlases.library import Library, body_girth_mm2
from semiseg.atlases.proposal import Proposal
from semiseg.atlases.transfer import Transfer, drawn_places, fusion_grid, transfer
from semiseg.config import PropagationConfig
from semiseg.images.grid import canonical
from semiseg.registration.register import RegistrationResult
from semiseg.study.case import Case

_A_JURY = 3  # atlases


class Lending:
    """Makes proposals out of the atlases in `library`; `names` are the structures'."""

    def __init__(
        self, library: Library, config: PropagationConfig, names: Mapping[int, str]
    ) -> None:
        self._library, self._config, self._names = library, config, names

    def proposal(
        self,
        case: Case,
        asked: tuple[int, ...],
        ways: Mapping[str, RegistrationResult],
        misses_mm: Mapping[int, float] | None = None,
    ) -> Proposal:
        """The structures `asked` of `case`, from the atlases that `ways` lead to.

        `misses_mm` per structure say how far rings of registrations miss, where there are any.
        """
        turn = canonical(case.grid)
        transfers, fused = self._fused(case, asked, ways)
        array, confidence = on_grid(fused, turn.grid)
        findings = Findings(
            evidence=[t.evidence for t in transfers],
            agreement=fused.agreement,
            ratios=self._volume_ratios(case, array, transfers),
            borders=self._border_ratios(case, fused, tuple(ways)),
            misses_mm=misses_mm or {},
        )
        gate = judge_transfer(findings, self._names, self._config)
        # Votes of several atlases are calibrated as they are; a single one cannot be outvoted.
        factor = gate.score / (1 if gate.verdict == "accept" else 2)
        if gate.verdict == "accept" and len(ways) >= _A_JURY:
            factor = 1.0
        return Proposal(
            array=turn.invert(array),
            confidence=turn.invert(confidence) * np.float32(factor),
            ids=fused.ids,
            gate=gate,
            atlases=tuple(ways),
        )

    def _fused(
        self, case: Case, asked: tuple[int, ...], ways: Mapping[str, RegistrationResult]
    ) -> tuple[list[Transfer], Fused]:
        """The atlases' labels on the part of the case where they land, and their vote."""
        library = self._library
        atlases = [library.atlas(lender).limited(asked) for lender in ways]
        results = list(ways.values())
        places = [
            result.inverse.moved(drawn_places(atlas))
            for atlas, result in zip(atlases, results, strict=True)
            if result.inverse is not None
        ]
        grid = fusion_grid(canonical(case.grid).grid, places)
        fixed = library.prepared(case.id)
        transfers = [
            transfer(atlas, result, (fixed, library.prepared(atlas.case_id)), grid)
            for atlas, result in zip(atlases, results, strict=True)
        ]
        return transfers, fuse(transfers, grid, self._config.fusion)

    def _border_ratios(
        self, case: Case, fused: Fused, lenders: tuple[str, ...]
    ) -> dict[int, float]:
        image = self._library.prepared(case.id)
        found = border_contrast(image, on_grid(fused, image.grid)[0], fused.ids)
        expected = [self._library.borders(lender) for lender in lenders]
        asked = [{i: one[i] for i in one if i in fused.ids} for one in expected]
        alike = all(self._library.prepared(i).modality == case.modality for i in lenders)
        return border_ratios(found, asked, alike=alike)

    def _volume_ratios(
        self, case: Case, array: NDArray[np.uint16], transfers: Sequence[Transfer]
    ) -> dict[int, float]:
        girth = body_girth_mm2(self._library.prepared(case.id))
        scales = [girth / body_girth_mm2(self._library.prepared(t.case_id)) for t in transfers]
        evidence = [given.evidence for given in transfers]
        return volume_ratios(array, case.grid.voxel_ml, evidence, scales)


def by_way_of(proposal: Proposal, via: str) -> Proposal:
    """The same proposal, which says that its labels came over the case `via`."""
    lenders = " and ".join(proposal.atlases)
    words = f"the labels of {lenders} came by way of {via}, which lies closer to this image"
    gate = replace(proposal.gate, reasons=(*proposal.gate.reasons, words))
    return replace(proposal, gate=gate, via=via)

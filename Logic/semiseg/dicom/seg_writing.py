"""Segmentations as DICOM SEG objects that refer to the series they were made on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from semiseg import __version__
from semiseg.dicom.elements import integer, quiet
from semiseg.dicom.makers import PRODUCT, Maker, SegmentSpec, Term
from semiseg.dicom.references import Reference
from semiseg.images.grid import Grid

_LONGEST_LABEL = 64


@dataclass(frozen=True, kw_only=True)
class _Geometry:
    """Places of the planes; None where they are those of the source."""

    measures: hd.PixelMeasuresSequence | None = None
    orientation: hd.PlaneOrientationSequence | None = None
    positions: list[hd.PlanePositionSequence] | None = None


def make_seg(
    array: NDArray[np.integer],
    specs: Sequence[SegmentSpec],
    reference: Reference,
    headers: Sequence[Dataset],
) -> Dataset:
    """A binary SEG of `array` (z, y, x), one segment for each of `specs`, numbered from 1."""
    pixels, geometry = _arranged(_numbered(array, specs), reference, headers)
    with quiet():
        segmentation = hd.seg.Segmentation(
            source_images=list(_in_slice_order(reference, headers)),
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=[_description(n, spec) for n, spec in enumerate(specs, 1)],
            series_instance_uid=hd.UID(),
            series_number=1000 + (integer(headers[0], "SeriesNumber") or 0) % 100_000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=PRODUCT,
            manufacturer_model_name=PRODUCT,
            software_versions=__version__,
            device_serial_number="1",
            pixel_measures=geometry.measures,
            plane_orientation=geometry.orientation,
            plane_positions=geometry.positions,
        )
    segmentation.SeriesDescription = segmentation.ContentDescription = f"{PRODUCT} segmentation"
    return segmentation


def _numbered(
    array: NDArray[np.integer], specs: Sequence[SegmentSpec]
) -> NDArray[np.unsignedinteger]:
    """Segment numbers in place of the structures' ids."""
    numbered = np.zeros(array.shape, dtype=np.uint8 if len(specs) < 256 else np.uint16)
    for number, spec in enumerate(specs, 1):
        numbered[array == spec.id] = number
    return numbered


def _in_slice_order(reference: Reference, headers: Sequence[Dataset]) -> Sequence[Dataset]:
    if len(headers) == 1:
        return headers
    return [headers[file] for file, _ in reference.slices]


def _arranged(
    array: NDArray[np.unsignedinteger], reference: Reference, headers: Sequence[Dataset]
) -> tuple[NDArray[np.unsignedinteger], _Geometry]:
    """The planes in the order of the source's frames, or with places of their own.

    A volume that was resampled on the way in keeps its planes, in the series' frame of reference.
    """
    if reference.exact and len(headers) == len(reference.slices):
        return array, _Geometry()
    frames = [frame for _, frame in reference.slices]
    if reference.exact and sorted(frames) == list(range(_frames_in(headers[0]))):
        back = np.argsort(frames)
        return np.ascontiguousarray(array[back]), _Geometry()
    return array, _geometry(reference.grid)


def _frames_in(header: Dataset) -> int:
    return integer(header, "NumberOfFrames") or 1


def _geometry(grid: Grid) -> _Geometry:
    system = hd.CoordinateSystemNames.PATIENT
    x, y, z = grid.spacing_mm_xyz
    row, column, _ = np.reshape(grid.direction, (3, 3)).T
    places = grid.to_world(np.array([[0.0, 0.0, k] for k in range(grid.size_xyz[2])]))
    return _Geometry(
        measures=hd.PixelMeasuresSequence(
            pixel_spacing=(y, x), slice_thickness=z, spacing_between_slices=z
        ),
        orientation=hd.PlaneOrientationSequence(system, tuple(float(v) for v in (*row, *column))),
        positions=[
            hd.PlanePositionSequence(system, tuple(float(v) for v in place)) for place in places
        ],
    )


def _description(number: int, spec: SegmentSpec) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=spec.name[:_LONGEST_LABEL],
        segmented_property_category=_code(spec.category),
        segmented_property_type=_code(spec.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues(spec.maker.method),
        algorithm_identification=_algorithm(spec.maker),
        tracking_uid=spec.tracking_uid,
        tracking_id=f"{PRODUCT} {spec.name}"[:_LONGEST_LABEL],
        display_color=hd.color.CIELabColor.from_rgb(*spec.color),
    )
    if spec.modifier is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        modifier = hd.sr.CodedConcept.from_code(_code(spec.modifier))
        kind.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def _algorithm(maker: Maker) -> hd.AlgorithmIdentificationSequence | None:
    if maker.method == "MANUAL":
        return None
    family = codes.cid7162.ArtificialIntelligence
    if maker.method == "SEMIAUTOMATIC" and "network" not in maker.name:
        family = codes.cid7162.DeformableModels
    return hd.AlgorithmIdentificationSequence(
        name=maker.name, family=family, version=maker.version, source=PRODUCT
    )


def _code(term: Term) -> Code:
    return Code(term.value, term.scheme, term.meaning[:_LONGEST_LABEL])

"""One cut through a case as a picture: grey image, outlines, uncertainty, letters and scale bar."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pixels

from semiseg.config import Modality
from semiseg.images.labels import Segment
from semiseg.report.colors import css
from semiseg.report.contours import UNITS, label_position, outline_paths
from semiseg.report.planes import View

Line = Literal["human", "program", "model"]
_MAX_PIXELS = 512  # per side of an embedded picture
_LOSSLESS_BYTES = 48_000  # larger ones are kept as JPEG
_HEAT_LEVELS = 24
_HEAT_LOW, _HEAT_HIGH = np.array([214, 64, 48]), np.array([255, 226, 92])
_SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Window:
    """Intensities shown as black and as white, and how they were chosen, in words."""

    low: float
    high: float
    words: str

    def grey(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """`values` as grey levels 0 to 255."""
        scaled: NDArray[np.float32] = (values - self.low) / max(self.high - self.low, 1e-6) * 255
        grey: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return grey


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The outline of one structure, as SVG path data in quarter pixels."""

    path: str
    color: str
    line: Line
    title: str


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A structure's number, written inside it; position in millimetres of the picture."""

    x_mm: float
    y_mm: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Base:
    """The grey picture of one cut; several pictures may share it by its `key`."""

    key: str
    href: str
    view: View
    rows: int
    columns: int

    @property
    def width_mm(self) -> float:
        return self.columns * self.view.spacing_mm[1]

    @property
    def height_mm(self) -> float:
        return self.rows * self.view.spacing_mm[0]

    @property
    def unit_mm(self) -> tuple[float, float]:
        """Size of one path unit, (x, y)."""
        return self.view.spacing_mm[1] / UNITS, self.view.spacing_mm[0] / UNITS

    @property
    def letter_mm(self) -> float:
        """Height of the letters, so that they look alike in pictures of all sizes."""
        longest, shortest = sorted((self.width_mm, self.height_mm), reverse=True)
        return min(0.05 * longest, 0.14 * shortest)

    @property
    def scale_bar_mm(self) -> int:
        fitting = [bar for bar in _SCALE_BARS_MM if bar <= self.width_mm / 3]
        return fitting[0] if fitting else 0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A base with what is drawn over it; `draws_base` where it brings the base's pixels along.

    `done_rows_mm` and `done_columns_mm` say where done slices of the other planes cross it.
    """

    base: Base
    draws_base: bool
    caption: str
    done: str
    alt: str
    outlines: tuple[Outline, ...] = ()
    tags: tuple[Tag, ...] = ()
    heat_href: str = ""
    done_rows_mm: tuple[float, ...] = ()
    done_columns_mm: tuple[float, ...] = ()


def choose_window(image: NDArray[np.float32], modality: Modality) -> Window:
    """W400 L40 for CT in Hounsfield units; else the 1st to 99.5th percentile above background."""
    sample = image.ravel()[:: max(1, image.size // 2_000_000)]
    if modality == "CT" and sample.min() < -50:
        return Window(low=-160, high=240, words="CT window W 400, L 40 HU")
    bright = sample[sample > sample.min()]
    low, high = np.percentile(bright, (1, 99.5)) if bright.size else (0.0, 1.0)
    reason = "no Hounsfield units found" if modality == "CT" else "MR has no fixed scale"
    words = f"window from the 1st to the 99.5th percentile of this scan ({reason})"
    return Window(low=float(low), high=float(high), words=words)


def make_base(key: str, cut: NDArray[np.float32], view: View, window: Window) -> Base:
    """The grey picture of `cut` (rows, columns)."""
    picture = _shrunk(Pixels.fromarray(np.ascontiguousarray(window.grey(cut))))
    rows, columns = cut.shape
    return Base(key=key, href=_encode_grey(picture), view=view, rows=rows, columns=columns)


def outlines(
    label: NDArray[np.uint16],
    human: NDArray[np.bool_],
    segments: Sequence[Segment],
    other: Literal["program", "model"],
) -> tuple[Outline, ...]:
    """Outlines of every structure in a cut: a person's where `human`, else those of `other`."""
    found: list[Outline] = []
    lines: tuple[Line, Line] = ("human", other)
    for segment in segments:
        paths = outline_paths(label == segment.id, human)
        found.extend(
            Outline(
                path=path, color=css(segment.color), line=line, title=f"{segment.name} ({line})"
            )
            for path, line in zip(paths, lines, strict=True)
            if path
        )
    return tuple(found)


def tags(label: NDArray[np.uint16], segments: Sequence[Segment], base: Base) -> tuple[Tag, ...]:
    """The numbers of the structures that are large enough to hold them."""
    row_mm, column_mm = base.view.spacing_mm
    found = []
    for segment in segments:
        mask = label == segment.id
        if not mask.any():
            continue
        x, y, room = label_position(mask)
        if room * min(row_mm, column_mm) >= 0.55 * base.letter_mm:
            found.append(Tag(x_mm=x * column_mm, y_mm=y * row_mm, text=str(segment.id)))
    return tuple(found)


def heat(uncertainty: NDArray[np.float32]) -> str:
    """A transparent overlay of `uncertainty` in [0, 1]: the more, the brighter and denser."""
    level = np.clip(np.nan_to_num(uncertainty), 0, 1) * (_HEAT_LEVELS - 1)
    picture = _shrunk(Pixels.fromarray(np.ascontiguousarray(np.rint(level).astype(np.uint8))))
    ramp = np.linspace(0, 1, _HEAT_LEVELS)[:, None]
    picture.putpalette((_HEAT_LOW + ramp * (_HEAT_HIGH - _HEAT_LOW)).astype(np.uint8).tobytes())
    opacity = (np.sqrt(ramp[:, 0]) * 165).astype(np.uint8).tobytes()
    return _data_uri(picture, "PNG", transparency=opacity)


def _shrunk(picture: Pixels.Image) -> Pixels.Image:
    """`picture` averaged down to at most 512 pixels per side; it still covers the same extent."""
    size = (min(picture.width, _MAX_PIXELS), min(picture.height, _MAX_PIXELS))
    return picture if size == picture.size else picture.resize(size, Pixels.Resampling.BOX)


def _encode_grey(picture: Pixels.Image) -> str:
    lossless = _data_uri(picture, "PNG")
    return lossless if len(lossless) <= _LOSSLESS_BYTES else _data_uri(picture, "JPEG", quality=88)


def _data_uri(picture: Pixels.Image, kind: Literal["PNG", "JPEG"], **options: bytes | int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    body = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{body}"

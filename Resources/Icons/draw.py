"""Draws the PNG files beside it: the module's icon, and the thumbnails of the sample scans.

Run from the repository: `python Resources/Icons/draw.py`. Not installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from semiseg.images.grid import canonical
from semiseg.images.reading import read_image
from semiseg.sample import SampleCase, sample_cases

HERE = Path(__file__).resolve().parent
SIDE, FINE = 128, 8
TILE, EDGE = (32, 92, 148), (120, 178, 226)
PLAIN, DRAWN, RIM = (150, 200, 240), (255, 178, 36), (255, 255, 255)
# Center and half width of the slices, top to bottom, in 128ths; the middle one is the drawn one.
SLICES = ((30, 34, PLAIN), (98, 34, PLAIN), (64, 52, DRAWN))
WINDOW = {"CT": (-150.0, 250.0)}
WINDOW_PERCENT = (2.0, 99.5)
THUMBNAIL = (192, 128)


def icon() -> Image.Image:
    """A stack of slices of which the middle one is drawn: three bars that survive 16 pixels."""
    large = SIDE * FINE
    picture = Image.new("RGBA", (large, large), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    frame = [2 * FINE, 2 * FINE, large - 2 * FINE, large - 2 * FINE]
    pen.rounded_rectangle(frame, radius=26 * FINE, fill=TILE, outline=EDGE, width=3 * FINE)
    for center, half_width, color in SLICES:
        half_height = half_width * 0.3
        box = [
            (SIDE / 2 - half_width) * FINE,
            (center - half_height) * FINE,
            (SIDE / 2 + half_width) * FINE,
            (center + half_height) * FINE,
        ]
        rim = RIM if color is DRAWN else None
        pen.ellipse(box, fill=color, outline=rim, width=4 * FINE)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def thumbnail(case: SampleCase) -> Image.Image:
    """The middle axial slice, front up."""
    image = read_image(case.image)
    middle = image.array.shape[0] // 2
    plane = canonical(image.grid).apply(image.array)[middle].astype(np.float32)
    low, high = WINDOW.get(case.modality) or np.percentile(plane, WINDOW_PERCENT)
    grey = np.clip((plane - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    scale = min(THUMBNAIL[0] / grey.shape[1], THUMBNAIL[1] / grey.shape[0])
    fitted = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    drawn = Image.fromarray(grey).resize(fitted, Image.Resampling.LANCZOS)
    picture = Image.new("L", THUMBNAIL, 0)
    picture.paste(drawn, ((THUMBNAIL[0] - fitted[0]) // 2, (THUMBNAIL[1] - fitted[1]) // 2))
    return picture


def main() -> None:
    """Write all files."""
    icon().save(HERE / "SemiSegModule.png", optimize=True)
    for case in sample_cases():
        thumbnail(case).save(HERE / f"SemiSegSample{case.modality}.png", optimize=True)


if __name__ == "__main__":
    main()

"""SemiSeg: semi-supervised segmentation of unpaired CT and MR from a few annotated slices."""

__version__ = "0.1.0"

"""A small stand-in for the 3D Slicer application, for tests without it; see README.md."""

from host.installation import install

__all__ = ["install"]

"""Where things are in a bundle."""

from __future__ import annotations

FORMAT = "semiseg-bundle"
VERSION = 1
METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
DESCRIPTION = "configs/semiseg.json"
WEIGHTS = "models/model.pt"
README = "docs/README.md"
LICENSE = "LICENSE"

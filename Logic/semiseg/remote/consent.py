"""What leaves the computer, in plain words, before the first file does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semiseg.disclosure import warn_of_identity
from semiseg.events import Json, ignore
from semiseg.remote.address import Address
from semiseg.remote.manifest import Manifest
from semiseg.remote.packing import Package
from semiseg.study.study import Study

REMOVED = (
    "names of cases, patients, structures and of who drew; file names and folders; everything in "
    "the headers of files but size, spacing and position"
)
STAYS = (
    "what the voxels themselves show (a face in a scan of the head, text burnt into the image), "
    "modality, size, spacing and position"
)


@dataclass(frozen=True, kw_only=True)
class Disclosure:
    """What a job sends at most; what the cluster has already is not sent again."""

    address: Address
    lines: tuple[str, ...]
    size_bytes: int
    files: int
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """Plain values for a window that asks."""
        return {
            "address": self.address.url,
            "encrypted": self.address.safe,
            "files": self.files,
            "size_bytes": self.size_bytes,
            "lines": list(self.lines),
            "findings": list(self.findings),
        }


def disclose(study: Study, package: Package, address: Address) -> Disclosure:
    """What would leave for `address`."""
    pieces = package.manifest.pieces.values()
    # Text is the job's description alone; voxels hold no names.
    text = {"the job's description": package.manifest.to_bytes().decode()}
    findings = warn_of_identity(study, Path("/nowhere"), text, ignore)
    total = sum(piece.size_bytes for piece in pieces)
    lines = [
        f"To {address.url}{'' if address.safe else ', NOT ENCRYPTED: others on the way can read'}:",
        *_sent(package.manifest),
        f"Altogether {len(pieces)} files, {total / 1e6:.1f} MB; what is there is not sent again.",
        f"Removed: {REMOVED}.",
        f"Not removed: {STAYS}.",
        "Kept there: scans and labels until nobody used them for 30 days, results for 14 days.",
        *(f"Warning: {finding}" for finding in findings),
    ]
    return Disclosure(
        address=address,
        lines=tuple(lines),
        size_bytes=total,
        files=len(pieces),
        findings=findings,
    )


def _sent(manifest: Manifest) -> list[str]:
    images = sum(case.image.size_bytes for case in manifest.cases)
    labelled = sum(case.label is not None for case in manifest.cases)
    lines = [f"- {len(manifest.cases)} scans as bare voxels ({images / 1e6:.1f} MB)"]
    if labelled:
        lines.append(f"- the labels of {labelled} of them, and which slices are done")
    if manifest.model is not None:
        lines.append("- the weights of the model")
    return [
        *lines,
        f"- the settings of the work ({manifest.kind}) and the structures' numbers",
    ]

"""What is known of a cluster while work goes there: keys, a question, the work itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Files of this computer that open a cluster; "" where none is needed."""

    token_file: str = ""
    ca_file: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """The command's words for them."""
        token = ("--token-file", self.token_file) if self.token_file else ()
        return (*token, *(("--ca", self.ca_file) if self.ca_file else ()))


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What would leave this computer; the command `arguments` sends it once it is agreed to."""

    kind: str
    lines: tuple[str, ...]
    findings: tuple[str, ...]
    arguments: tuple[str, ...] = field(repr=False)


@dataclass(kw_only=True)
class Remote:
    """The work on a cluster that is sent or followed now.

    `job` is what is followed, None for what is sent; `before` says when each earlier job was
    sent. `there`: it is on the cluster. `leaving`: the user stops following only. `automatic`:
    nobody pressed a button for it.
    """

    arguments: tuple[str, ...]
    job: str | None = None
    before: Mapping[str, str] = field(default_factory=dict)
    there: bool = False
    leaving: bool = False
    automatic: bool = False

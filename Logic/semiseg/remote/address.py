"""Where a cluster is asked for work, and with which key."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from semiseg.errors import ConfigError

DASHBOARD_PORT = 8265
_EXAMPLE = "write for example https://cluster.hospital.org or ray://head-node"


@dataclass(frozen=True, kw_only=True)
class Address:
    """The dashboard of a Ray cluster; `url` has no slash at its end."""

    url: str
    host: str
    port: int
    encrypted: bool

    @property
    def local(self) -> bool:
        """Whether it is this computer, e.g. the near end of an SSH tunnel."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def safe(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.encrypted or self.local


def parse_address(text: str) -> Address:
    """The address in `ray://…`, `http://…` or `https://…`; ConfigError when it is none.

    `ray://head[:port]` stands for the dashboard on port 8265 of the same computer; http without
    a port for 8265, too.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{text!r} is no address ({error}); {_EXAMPLE}") from error
    if parts.scheme not in ("ray", "http", "https") or not host:
        raise ConfigError(f"{text!r} is no address of a Ray cluster; {_EXAMPLE}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"the address of {host} holds more than a place; a token belongs in a file "
            "(--token-file) or into RAY_AUTH_TOKEN"
        )
    encrypted = parts.scheme == "https"
    found = DASHBOARD_PORT if parts.scheme == "ray" else port or (443 if encrypted else 8265)
    shown = f"[{host}]" if ":" in host else host
    path = "" if parts.scheme == "ray" else parts.path.rstrip("/")
    url = f"{'https' if encrypted else 'http'}://{shown}:{found}{path}"
    return Address(url=url, host=host, port=found, encrypted=encrypted)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to reach a cluster: the token is never shown; `ca_file` is trusted beside the system's.

    `timeout_s` is how long one answer may take.
    """

    address: Address
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout_s: float = 60.0


def read_token(path: Path) -> str:
    """The token in a file; ConfigError when there is none that can be sent."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read: {error}") from error
    return checked_token(text, f"the file {path}")


def checked_token(text: str, where: str) -> str:
    """`text` if it can be a token; ConfigError, without showing it, when not."""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"{where} holds no token: expected one line of printable characters without spaces; "
            "write there what `ray get-auth-token` prints on the cluster"
        )
    return text

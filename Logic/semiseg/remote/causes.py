"""What went wrong on the way to a cluster, in the words of the person who can mend it."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from typing import Literal

from semiseg.errors import JobError
from semiseg.remote.address import Access

Cause = Literal[
    "name",
    "refused",
    "timeout",
    "network",
    "proxy",
    "tls-untrusted",
    "tls-expired",
    "tls-host",
    "tls",
    "token-missing",
    "token-wrong",
    "not-ray",
    "server",
    "version",
    "no-semiseg",
    "no-gpu",
    "disk-full",
    "full",
    "lost",
    "damaged",
    "failed",
    "cancelled",
    "unencrypted",
    "consent",
]
# Waiting may help: the network, the head node or a server between are away for a while.
PASSING: tuple[Cause, ...] = ("name", "refused", "timeout", "network", "server", "proxy")
_TLS: dict[int, Cause] = {9: "tls-expired", 10: "tls-expired", 62: "tls-host", 64: "tls-host"}


class RemoteError(JobError):
    """Work on a cluster did not go as asked; `cause` says what to look at."""

    def __init__(self, cause: Cause, sentence: str) -> None:
        super().__init__(sentence)
        self.cause: Cause = cause


def from_status(code: int, text: str, access: Access) -> RemoteError:
    """The error that an HTTP answer is."""
    where = access.address.url
    if code in (301, 302, 303, 307, 308):
        return RemoteError(
            "not-ray",
            f"{where} sends on to another address ({text[:200]}); a token is not sent on: give "
            "that address itself",
        )
    if code == 401:
        return RemoteError(
            "token-missing",
            f"{where} wants a token; give the file that holds it (--token-file) or set "
            "RAY_AUTH_TOKEN",
        )
    if code == 403:
        return RemoteError(
            "token-wrong",
            f"{where} does not accept the token; on the cluster `ray get-auth-token` prints the "
            "one that counts",
        )
    if code == 407:
        return RemoteError("proxy", _proxy_sentence(access, "wants a password"))
    if code in (404, 405):
        return RemoteError("not-ray", _not_ray(where))
    said = text.strip().splitlines()
    detail = said[-1][:300] if said else "nothing"
    return RemoteError("server", f"{where} failed with status {code}; it said: {detail}")


def from_exception(error: BaseException, access: Access) -> RemoteError:
    """The error that a failed connection is."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if not isinstance(reason, BaseException):
        reason = OSError(str(reason))
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _untrusted(reason, access)
    if isinstance(reason, ssl.SSLError):
        return _no_tls(reason, access)
    if "Tunnel connection failed" in str(reason):
        return RemoteError("proxy", _proxy_sentence(access, f"refuses: {reason}"))
    if proxy_of(access) and isinstance(reason, socket.gaierror | ConnectionError):
        return RemoteError("proxy", _proxy_sentence(access, f"cannot be reached: {reason}"))
    return _no_way(reason, access)


def proxy_of(access: Access) -> str | None:
    """The proxy that the environment prescribes for this address; never for this computer."""
    address = access.address
    if address.local or urllib.request.proxy_bypass(f"{address.host}:{address.port}"):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get("https" if address.encrypted else "http")


def _no_way(reason: BaseException, access: Access) -> RemoteError:
    address = access.address
    place = f"{address.host}, port {address.port}"
    if isinstance(reason, socket.gaierror):
        return RemoteError(
            "name",
            f"the name {address.host!r} is not known to this computer's network; check its "
            "spelling, or connect to the hospital's network (VPN)",
        )
    if isinstance(reason, ConnectionRefusedError):
        return RemoteError(
            "refused",
            f"{place} refuses: no Ray dashboard listens there; start Ray on that computer, or "
            "correct the port (Ray's own is 8265)",
        )
    if isinstance(reason, TimeoutError):
        return RemoteError(
            "timeout",
            f"{place} does not answer within {access.timeout_s:g} s; a firewall may be in between, "
            "or the computer is off",
        )
    if isinstance(reason, http.client.BadStatusLine) and not address.encrypted:
        return RemoteError(
            "network",
            f"{place} broke off without an answer; if it speaks TLS, write https://",
        )
    return RemoteError("network", f"the connection to {place} broke: {reason or 'no answer'}")


def _untrusted(reason: ssl.SSLCertVerificationError, access: Access) -> RemoteError:
    where, cause = access.address.url, _TLS.get(reason.verify_code, "tls-untrusted")
    what = {
        "tls-expired": "its certificate has run out or is not valid yet; the cluster's keeper "
        "renews it (or this computer's clock is wrong)",
        "tls-host": f"its certificate is for another computer than {access.address.host!r}; use "
        "the name that it is for",
        "tls-untrusted": "nobody whom this computer trusts signed its certificate; give the file "
        "of the authority that did (--ca)",
    }[cause]
    return RemoteError(cause, f"{where} cannot prove who it is: {what}. {reason.verify_message}")


def _no_tls(reason: ssl.SSLError, access: Access) -> RemoteError:
    where = access.address.url
    if reason.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return RemoteError(
            "tls", f"{where} does not speak TLS; put a TLS server before Ray (see remote.md)"
        )
    return RemoteError("tls", f"{where}: no safe connection could be agreed on ({reason.reason})")


def _proxy_sentence(access: Access, what: str) -> str:
    # The proxy's own address may hold a password.
    return (
        f"the proxy between this computer and {access.address.host} {what}; if none is needed, put "
        f"{access.address.host} into NO_PROXY, else correct HTTPS_PROXY or HTTP_PROXY"
    )


def _not_ray(where: str) -> str:
    return (
        f"something answers at {where}, but it is not a Ray dashboard; give the address of the "
        "cluster's head node (Ray's own port is 8265)"
    )

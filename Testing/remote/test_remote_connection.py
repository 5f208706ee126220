"""Test connection names the cause: name, port, proxy, TLS, token, versions, GPU, disk."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from semiseg.errors import ConfigError
from semiseg.events import Event
from semiseg.remote.address import Access, parse_address, read_token
from semiseg.remote.causes import RemoteError
from semiseg.remote.check import Findings, check_connection
from semiseg.remote.client import Dashboard

x509 = pytest.importorskip("cryptography.x509", reason="cryptography makes the certificates")
HOUR = datetime.timedelta(hours=1)


def check(access: Access, **options: Any) -> Findings:
    return check_connection(access, lambda _event: None, wait_s=2.0, **options)


def cause_of(access: Access, **options: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as caught:
        check(access, **options)
    return caught.value.cause, str(caught.value)


def at(url: str, **parts: Any) -> Access:
    return Access(address=parse_address(url), timeout_s=2.0, **parts)


@dataclass(frozen=True)
class Authority:
    """Signs certificates for the tests."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def sign(self, name: str, address: str, *, hours: int = 1) -> Path:
        """Key and certificate in one file, for `address`, until `hours` from now."""
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"ca of {name}")])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        made = []
        for who, public, is_ca in ((issuer, own, True), (subject, key, False)):
            alternatives = x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address(address))]
            )
            until = now + (HOUR if is_ca else hours * HOUR)
            builder = x509.CertificateBuilder(issuer, who, public.public_key(), 7 + is_ca)
            builder = builder.not_valid_before(now - 48 * HOUR).not_valid_after(until)
            builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            builder = builder.add_extension(alternatives, critical=False)
            made.append(builder.sign(own, hashes.SHA256()))
        pem = serialization.Encoding.PEM
        self.file.write_bytes(made[0].public_bytes(pem))
        path = self.folder / f"{name}.pem"
        plain, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(key.private_bytes(pem, plain, none) + made[1].public_bytes(pem))
        return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name head.example is this computer, seen from outside."""
    found = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        return found("127.0.0.1" if host == "head.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_a_sound_cluster_tells_what_it_has(ray: Any, access: Any) -> None:
    found = check(access(ray))
    assert (found.ray, found.python, found.gpu_names) == ("2.60.0", "3.11.9", ("GPU 9000",))
    assert (found.cpus, found.gpus) == (4.0, 1.0)
    assert json.dumps(found.to_json())
    assert not [name for name in ray.jobs if "probe" in name]


def test_an_unknown_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cause, text = cause_of(at("http://no-such-host.invalid:1"))
    assert cause == "name"
    assert "'no-such-host.invalid' is not known" in text


def test_a_closed_port_is_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cause, text = cause_of(at(f"http://127.0.0.1:{port}"))
    assert cause == "refused"
    assert f"port {port} refuses" in text


@pytest.fixture
def mute() -> Iterator[Callable[[bytes], int]]:
    """Listens, takes what comes, answers with the given bytes (none: never) and hangs up."""
    sockets: list[socket.socket] = []

    def start(answer: bytes) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                sockets.append(connection)
                if answer:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        port: int = server.getsockname()[1]
        return port

    yield start
    for found in sockets:
        found.close()


def test_silence_is_said(mute: Any) -> None:
    cause, text = cause_of(at(f"http://127.0.0.1:{mute(b'')}"))
    assert cause == "timeout"
    assert "does not answer within 2 s" in text


def test_a_proxy_that_wants_a_password_is_said(
    mute: Any, monkeypatch: pytest.MonkeyPatch, far: None
) -> None:
    port = mute(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setenv("http_proxy", f"http://user:hidden@127.0.0.1:{port}")
    monkeypatch.setenv("https_proxy", f"http://user:hidden@127.0.0.1:{port}")
    for scheme in ("http", "https"):
        cause, text = cause_of(at(f"{scheme}://cluster.example:8265"))
        assert cause == "proxy"
        assert "NO_PROXY" in text
        assert "hidden" not in text


def test_a_proxy_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    cause, text = cause_of(at("http://cluster.example:8265"))
    assert cause == "proxy"
    assert "cannot be reached" in text


def test_a_tunnel_on_this_computer_needs_no_proxy(
    ray: Any, access: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert check(access(ray)).ray == "2.60.0"


def test_tls_with_a_custom_authority_works(serve: Any, access: Any, authority: Authority) -> None:
    ray = serve(authority.sign("good", "127.0.0.1"))
    found = check(replace(access(ray), ca_file=authority.file))
    assert found.encrypted


@pytest.mark.parametrize("case", ["tls-untrusted", "tls-expired", "tls-host"])
def test_a_bad_certificate_is_said(
    serve: Any, access: Any, authority: Authority, case: str
) -> None:
    address = "127.0.0.9" if case == "tls-host" else "127.0.0.1"
    ray = serve(authority.sign("bad", address, hours=-1 if case == "tls-expired" else 1))
    known = None if case == "tls-untrusted" else authority.file
    cause, text = cause_of(replace(access(ray), ca_file=known))
    assert cause == case
    assert "cannot prove who it is" in text
    assert ray.headers == []


def test_a_cluster_without_tls_is_said(ray: Any, access: Any) -> None:
    cause, text = cause_of(at(ray.url.replace("http:", "https:")))
    assert cause == "tls"
    assert "does not speak TLS" in text


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    with pytest.raises(ConfigError, match="PEM"):
        check(at("https://127.0.0.1:1", ca_file=path))


@pytest.mark.parametrize(("given", "cause"), [(None, "token-missing"), ("wrong", "token-wrong")])
def test_a_missing_and_a_wrong_token_are_said(
    serve: Any, access: Any, given: str | None, cause: str
) -> None:
    ray = serve(token="right")
    found, text = cause_of(replace(access(ray), token=given))
    assert found == cause
    assert "token" in text
    assert "wrong" not in text
    assert check(access(ray)).ray == "2.60.0"


def test_something_else_that_answers_is_no_ray(ray: Any, access: Any) -> None:
    ray.spoil = lambda _path, _body: b"<html>welcome</html>"
    cause, text = cause_of(access(ray))
    assert cause == "not-ray"
    assert "not a Ray dashboard" in text


def test_the_token_follows_no_redirect(mute: Any) -> None:
    port = mute(
        b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n"
    )
    cause, text = cause_of(at(f"http://127.0.0.1:{port}", token="secret"))
    assert cause == "not-ray"
    assert "evil.example" in text
    assert "secret" not in text


def test_an_old_ray_is_said(serve: Any, access: Any) -> None:
    cause, text = cause_of(access(serve(ray="2.40.0")))
    assert cause == "version"
    assert "Ray 2.40.0; at least 2.52" in text


def test_another_semiseg_is_said(ray: Any, access: Any) -> None:
    ray.probe["semiseg"] = "0.0.1"
    cause, text = cause_of(access(ray))
    assert cause == "version"
    assert "SemiSeg 0.0.1" in text


def test_another_python_is_noted(ray: Any, access: Any) -> None:
    ray.probe["python"] = "3.99.0"
    assert "Python 3.99.0" in check(access(ray)).warnings["python"]


def test_no_semiseg_there_is_said(ray: Any, access: Any) -> None:
    ray.probe_log = "/usr/bin/python: No module named semiseg"
    cause, text = cause_of(access(ray))
    assert cause == "no-semiseg"
    assert "pip install" in text


def test_no_gpu_is_noted_or_refused(ray: Any, access: Any) -> None:
    ray.usage = {"CPU": (0.0, 4.0)}
    assert "no GPU" in check(access(ray)).warnings["no-gpu"]
    assert cause_of(access(ray), need_gpu=True)[0] == "no-gpu"
    ray.usage, ray.probe["gpus"] = {"CPU": (0.0, 4.0), "GPU": (0.0, 2.0)}, []
    assert "PyTorch there cannot use it" in check(access(ray)).warnings["no-gpu"]


@pytest.mark.parametrize("change", [{"free_bytes": 10}, {"writable": False}])
def test_a_full_disk_is_said(ray: Any, access: Any, change: dict[str, Any]) -> None:
    ray.probe.update(change)
    cause, text = cause_of(access(ray))
    assert cause == "disk-full"
    assert "SEMISEG_STORE" in text


def test_a_full_cluster_is_said(ray: Any, access: Any) -> None:
    ray.held = True
    with pytest.raises(RemoteError, match="all its processors or GPUs are in use") as caught:
        check_connection(access(ray), lambda _event: None, wait_s=0.0)
    assert caught.value.cause == "full"
    assert [job.status for job in ray.jobs.values()] == ["STOPPED"]


def test_plain_http_over_a_network_is_noted(ray: Any, far: None) -> None:
    port = ray.url.rsplit(":", 1)[1]
    found = check(at(f"http://head.example:{port}"))
    assert "can be read on the way" in found.warnings["unencrypted"]
    assert not found.encrypted


def test_progress_of_the_test_is_told(ray: Any, access: Any) -> None:
    events: list[Event] = []
    check_connection(access(ray), events.append)
    assert [event.step for event in events] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ray://head", "http://head:8265"),
        ("ray://head:10001", "http://head:8265"),
        ("http://head", "http://head:8265"),
        ("https://head/ray/", "https://head:443/ray"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_addresses_are_read(text: str, url: str) -> None:
    assert parse_address(text).url == url


@pytest.mark.parametrize("text", ["head:8265", "ftp://head", "https://me:key@head", "http://a:b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_a_token_is_read_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("abc123\n")
    assert read_token(path) == "abc123"
    assert "abc123" not in repr(at("http://head", token="abc123"))
    for bad in ("", "two words", "two\nlines"):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="holds no token") as caught:
            read_token(path)
        assert not bad or bad not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_the_client_needs_no_ray() -> None:
    import subprocess
    import sys

    code = "import sys, semiseg.remote.work, semiseg.remote.check; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert Dashboard.__doc__

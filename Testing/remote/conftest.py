"""Fixtures of the tests of work on clusters: a stand-in for one, and how to reach it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from semiseg.remote.address import Access, parse_address
from semiseg.remote.session import Pace

sys.path.append(str(Path(__file__).resolve().parents[1]))
from fake_ray import FakeRay, serving

QUICK = Pace(poll_s=0.01, patience_s=5.0, longest_pause_s=0.02, say_every_s=0.0)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FakeRay]]:
    """Starts stand-ins on ports of their own; `certificate` (PEM with key) makes it speak TLS."""
    with ExitStack() as servers:
        count = 0

        def start(certificate: Path | None = None, **faults: Any) -> FakeRay:
            nonlocal count
            made = FakeRay(folder=tmp_path / f"cluster{count}", **faults)
            count += 1
            return servers.enter_context(serving(made, certificate))

        yield start


@pytest.fixture
def ray(serve: Callable[..., FakeRay]) -> FakeRay:
    """A cluster that works."""
    return serve()


@pytest.fixture
def access() -> Callable[[FakeRay], Access]:
    """How to reach a stand-in."""
    return lambda ray: Access(address=parse_address(ray.url), token=ray.token, timeout_s=5.0)


@pytest.fixture
def quick() -> Pace:
    """A pace for tests."""
    return QUICK


@pytest.fixture
def digest() -> Callable[[bytes], str]:
    """SHA-256 in hex."""
    return lambda content: hashlib.sha256(content).hexdigest()

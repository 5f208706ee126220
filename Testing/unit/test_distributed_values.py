"""Plain values as bytes, and the messages between an executor and its workers."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from semiseg.distributed.frames import receive, send
from semiseg.distributed.values import digest, pack, unpack
from semiseg.errors import JobError

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(value=_PLAIN)
def test_plain_values_come_back(value: object) -> None:
    assert unpack(pack(value)) == value


@given(
    array=arrays.arrays(
        dtype=st.sampled_from(["u1", "<u2", ">i4", "<f4", "<f8", "?"]),
        shape=arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_arrays_come_back_to_the_bit(array: np.ndarray) -> None:
    found = unpack(pack({"a": [array, {"b": array.T}]}))
    for got, sent in ((found["a"][0], array), (found["a"][1]["b"], array.T)):
        assert got.dtype == sent.dtype
        assert got.shape == sent.shape
        assert got.tobytes() == sent.tobytes()
    assert found["a"][0].flags.writeable


@pytest.mark.parametrize(
    "value", [{1: 2}, {"$array": 1}, object(), np.array([object()]), np.array(["a"])]
)
def test_what_is_not_plain_is_refused(value: object) -> None:
    with pytest.raises(JobError, match="not plain"):
        pack(value)


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_cut_off_value_is_said(keep: int) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        unpack(pack([np.arange(5), "text"])[:keep])


def test_objects_are_not_accepted_from_others() -> None:
    bad = pack([np.arange(2)]).replace(b'"<i8"', b'"|O8"')
    with pytest.raises(JobError, match="not accepted"):
        unpack(bad)


def test_messages_come_back_and_end_with_the_pipe() -> None:
    pipe = io.BytesIO()
    send(pipe, {"n": 1}, b"abc")
    send(pipe, {"n": 2})
    whole = pipe.getvalue()
    pipe.seek(0)
    assert receive(pipe) == ({"n": 1}, b"abc")
    assert receive(pipe) == ({"n": 2}, b"")
    assert receive(pipe) is None
    assert receive(io.BytesIO(whole[:7])) is None
    assert receive(io.BytesIO(whole[:15])) is None


def test_noise_in_a_pipe_is_said() -> None:
    with pytest.raises(JobError, match="too long"):
        receive(io.BytesIO(b"printed by a library, not by us"))
    noise = io.BytesIO()
    send(noise, {"n": 1})
    with pytest.raises(JobError, match="cannot be read"):
        receive(io.BytesIO(noise.getvalue().replace(b"{", b"<")))


def test_a_digest_is_sha256() -> None:
    assert digest(b"").startswith("e3b0c44298fc1c14")

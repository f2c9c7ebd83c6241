from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.keeper import protocol
from lxcd.keeper.protocol import ProtocolError

STEADY = settings(deadline=None, derandomize=True, database=None)
TEXT = st.text(max_size=10) | st.binary(max_size=10).map(
    lambda data: data.decode(errors="surrogateescape")
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(TEXT, max_size=4).map(tuple),
}


def messages(union: Any) -> st.SearchStrategy[Any]:
    kinds = get_args(union)
    assert kinds
    return st.one_of(
        *(
            st.builds(kind, **{name: VALUES[hint] for name, hint in get_type_hints(kind).items()})
            for kind in kinds
        )
    )


REQUESTS = messages(protocol.Request)
ANSWERS = messages(protocol.Answer)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@STEADY
@given(REQUESTS)
def test_requests_round_trip(message: protocol.Request) -> None:
    assert protocol.decode_request(protocol.encode(message)) == message
    with pytest.raises(ProtocolError):
        protocol.decode_answer(protocol.encode(message))


@STEADY
@given(ANSWERS)
def test_answers_round_trip(message: protocol.Answer) -> None:
    assert protocol.decode_answer(protocol.encode(message)) == message
    with pytest.raises(ProtocolError):
        protocol.decode_request(protocol.encode(message))


def decode_or_refuse(data: bytes) -> None:
    for decode in (protocol.decode_request, protocol.decode_answer):
        try:
            message = decode(data)
        except ProtocolError:
            continue
        # What was taken is a message in every respect.
        for name, hint in get_type_hints(type(message)).items():
            value = getattr(message, name)
            if hint == tuple[str, ...]:
                assert type(value) is tuple
                assert all(type(item) is str for item in value)
            else:
                assert type(value) is hint


@STEADY
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    decode_or_refuse(data)


@STEADY
@given(st.sampled_from(["Hello", "Prepare", "Streams", "Exited", "Leave"]), JSON)
def test_any_json_behind_a_name(name: str, value: object) -> None:
    decode_or_refuse(json.dumps([name, value]).encode())


@STEADY
@given(REQUESTS | ANSWERS, JSON, st.data())
def test_one_field_is_something_else(message: Any, value: object, data: st.DataObject) -> None:
    name, fields = json.loads(protocol.encode(message))
    if fields:
        fields[data.draw(st.sampled_from(sorted(fields)))] = value
    decode_or_refuse(json.dumps([name, fields]).encode())


@STEADY
@given(REQUESTS | ANSWERS, st.integers(0, 300), st.integers(0, 255))
def test_one_byte_is_another(message: Any, place: int, value: int) -> None:
    data = bytearray(protocol.encode(message))
    data[place % len(data)] = value
    decode_or_refuse(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 150_000,
        b'{"a":' * 30_000,
        b"1" * 150_000,
        b'["Hello", {"version": 1, "build": 5}]',
        b'["Hello", {"version": true, "build": ""}]',
        b'["Streams", {"id": "", "names": "abc"}]',
        b'["Streams", {"id": "", "names": {"a": 1}}]',
        b'[["Hello"], {}]',
        b'["Leave"]',
        b'["Leave", []]',
        b"\xef\xbb\xbf[]",
    ],
)
def test_refused(data: bytes) -> None:
    for decode in (protocol.decode_request, protocol.decode_answer):
        with pytest.raises(ProtocolError):
            decode(data)

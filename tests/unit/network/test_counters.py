from __future__ import annotations

from dataclasses import astuple, fields

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.network import counters
from lxcd.network.picture import Counters

STEADY = settings(deadline=None, derandomize=True, database=None)
NUMBERS = st.integers(0, (1 << 64) - 1)
NAMES = st.from_regex(rb"[^\s:/\0]{1,15}", fullmatch=True)

HEAD = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop"
    b" fifo colls carrier compressed\n"
)
RECORDED = (
    b"    lo:     168       2    0    0    0     0          0         0      168       2    0    0"
    b"    0     0       0          0\n"
    b"  eth0: 5236914    4112    1    2    3     4          5         6   281034    3950    7    8"
    b"    9    10      11         12\n"
)


def test_a_recorded_text() -> None:
    assert counters.parse(HEAD + RECORDED) == (
        ("lo", Counters(2, 2, 168, 168, 0, 0, 0, 0, 0, 0)),
        (
            "eth0",
            Counters(
                rx_bytes=5_236_914,
                rx_packets=4112,
                rx_errors=1,
                rx_dropped=2,
                rx_overruns=3,
                tx_bytes=281_034,
                tx_packets=3950,
                tx_errors=7,
                tx_dropped=8,
                tx_overruns=9,
            ),
        ),
    )


@STEADY
@given(st.dictionaries(NAMES, st.lists(NUMBERS, min_size=16, max_size=16), max_size=4))
def test_any_devices(devices: dict[bytes, list[int]]) -> None:
    text = b"".join(
        b"%6s: %s\n" % (name, b" ".join(b"%d" % number for number in numbers))
        for name, numbers in devices.items()
    )
    found = counters.parse(HEAD + text)
    assert [name.encode(errors="surrogateescape") for name, _ in found] == list(devices)
    for (_, value), numbers in zip(found, devices.values(), strict=True):
        assert sorted(astuple(value)) == sorted(
            numbers[i] for i in (0, 1, 2, 3, 4, 8, 9, 10, 11, 12)
        )


@STEADY
@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(text: bytes) -> None:
    for _, value in counters.parse(HEAD + text):
        assert len(fields(value)) == 10


def test_a_line_that_was_cut_off_is_no_device() -> None:
    assert len(counters.parse(HEAD + RECORDED[:-20])) == 1

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config.daemon import (
    ContainerSettings,
    Endpoint,
    Settings,
    SystemConfig,
    endpoint,
    load_container_settings,
    load_settings,
    load_system,
    socket_path,
)

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)

FULL = b"""
lxcpath = "/srv/lxc"
runtime_dir = "/run/x"
state_dir = "/var/x"
default_config = "/etc/x.conf"
listen = ["unix:/run/x.sock", "unix:/run/y.sock"]
shutdown_timeout_seconds = 5
"""


def test_settings() -> None:
    assert load_settings(b"", "f") == (Settings(), ())
    found, problems = load_settings(FULL, "f")
    assert problems == ()
    assert found == Settings(
        "/srv/lxc", "/run/x", "/var/x", "/etc/x.conf", ("unix:/run/x.sock", "unix:/run/y.sock"), 5.0
    )
    assert Settings().shutdown_timeout_seconds == 60


@pytest.mark.parametrize(
    "line",
    [
        "lxcpath = 1",
        'lxcpath = "relative"',
        'state_dir = "/a\\nb"',
        'listen = "unix:/x"',
        "listen = [1]",
        'listen = ["http://x"]',
        'listen = ["tcp:host:"]',
        'listen = ["unix:relative"]',
        'listen = ["unix:/"]',
        f'listen = ["unix:/{"x" * 107}"]',
        'shutdown_timeout_seconds = "5"',
        "shutdown_timeout_seconds = true",
        "shutdown_timeout_seconds = -1",
        "shutdown_timeout_seconds = nan",
        "shutdown_timeout_seconds = inf",
        "metrics_listen = 9100",
        'metrics_listen = "9100"',
        'metrics_listen = "0.0.0.0:9100"',
        'metrics_listen = "[::]:9100"',
        'metrics_listen = "192.0.2.1:9100"',
        'metrics_listen = "localhost:9100"',
        'metrics_listen = "127.0.0.1:65536"',
        'metrics_listen = "127.0.0:9100"',
        'metrics_listen = "127.0.0.1:9100\\n"',
        'metrics_listen = "[::1%eth0]:9100"',
        'metrics_listen = "unix:relative"',
        f'metrics_listen = "unix:/{"x" * 107}"',
    ],
)
def test_bad_settings(line: str) -> None:
    found, problems = load_settings(f"# c\n{line}\n".encode(), "f")
    assert found == Settings()
    assert [(p.severity, p.origin, p.key) for p in problems] == [
        ("error", "f:2", line.split(" ", maxsplit=1)[0])
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9100", Endpoint(host="127.0.0.1", port=9100)),
        ("127.3.2.1:1", Endpoint(host="127.3.2.1", port=1)),
        ("[::1]:65535", Endpoint(host="::1", port=65535)),
        ("unix:/run/lxcd/metrics.sock", Endpoint(path="/run/lxcd/metrics.sock")),
    ],
)
def test_where_metrics_are(text: str, found: Endpoint) -> None:
    assert endpoint(text) == found
    settings_, problems = load_settings(f'metrics_listen = "{text}"'.encode(), "f")
    assert (settings_.metrics_listen, problems) == (text, ())
    assert load_settings(b'metrics_listen = ""', "f") == (Settings(), ())


@STEADY
@given(st.text(max_size=60) | st.from_regex(r"\A\[?[0-9.:]{1,15}\]?:[0-9]{1,6}\Z"))
def test_metrics_stay_in_the_house(text: str) -> None:
    try:
        found = endpoint(text)
    except ValueError:
        return
    assert found.path.startswith("/") or ipaddress.ip_address(found.host).is_loopback


def test_unknown_setting_is_a_warning_and_the_rest_counts() -> None:
    found, problems = load_settings(b'colour = 1\nlxcpath = "/x"\n[net]\nx = 1\n', "f")
    assert found.lxcpath == "/x"
    assert [(p.severity, p.origin, p.key) for p in problems] == [
        ("warning", "f:1", "colour"),
        ("warning", "f:3", "net"),
    ]


@pytest.mark.parametrize(
    "data", [b"x", b"\xff", b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, b"#" * (1 << 21)]
)
def test_not_toml(data: bytes) -> None:
    for load in (load_settings, load_container_settings):
        _, problems = load(data, "f")
        assert {p.severity for p in problems} <= {"error", "warning"}
        assert problems


@STEADY
@given(
    st.one_of(
        st.binary(max_size=100), st.text(alphabet="abl=[]{}\".'\n1-:T", max_size=60).map(str.encode)
    )
)
def test_no_bytes_raise(data: bytes) -> None:
    load_settings(data, "f")
    load_container_settings(data, "f")
    load_system(data, "f")


def test_there_is_no_listening_on_tcp_yet() -> None:
    text = "tcp:0.0.0.0:8443"
    (problem,) = load_settings(f'listen = ["{text}"]'.encode(), "f")[1]
    with pytest.raises(ValueError, match="only unix:PATH") as refused:
        socket_path(text)
    assert problem.message == str(refused.value)
    assert socket_path("unix:/run/x.sock") == "/run/x.sock"


def test_what_a_container_cannot_be_told_yet() -> None:
    data = b'[labels]\ntier = "web"\n[restart]\npolicy = "always"\n[health]\n[x]\n'
    found, problems = load_container_settings(data, "f")
    assert found == ContainerSettings()
    later = "understood, but lxcd does not act on it yet"
    assert [(p.severity, p.origin, p.key, p.message) for p in problems] == [
        ("warning", "f:1", "labels", later),
        ("warning", "f:3", "restart", later),
        ("warning", "f:5", "health", later),
        ("warning", "f:6", "x", "not a setting: ignored"),
    ]
    assert load_container_settings(b"", "f") == (ContainerSettings(), ())


def test_whether_the_fstab_of_a_container_stays_whole() -> None:
    assert not load_container_settings(b"", "f")[0].whole_fstab
    assert load_container_settings(b"whole_fstab = true", "f")[0].whole_fstab
    found, problems = load_container_settings(b'image = ""\nwhole_fstab = 1\n', "f")
    assert not found.whole_fstab
    assert [(p.severity, p.origin, p.key) for p in problems] == [("error", "f:2", "whole_fstab")]


def test_system_config() -> None:
    text = b"lxc.lxcpath = /srv\nlxc.default_config=/d\nlxc.bdev.lvm.vg = lxc\nlxc.foo = 1\nlxc.include = /etc/passwd\n"
    found, problems = load_system(text, "f")
    assert found == SystemConfig("/srv", "/d")
    assert [(p.severity, p.origin) for p in problems] == [("warning", "f:4"), ("warning", "f:5")]
    found, problems = load_system(b"lxc.lxcpath = srv\nlxc.default_config = a\x01\n", "f")
    assert found == SystemConfig()
    assert [p.severity for p in problems] == ["error", "error"]

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config import keys
from lxcd.config.loader import load
from lxcd.config.writer import add_value, is_list, new_text, set_key, unset_key, values_of
from lxcd.errors import InvalidArgument

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)

TEXT = b"""# my container\r
lxc.utsname = old

  lxc.cap.drop=kill \t
# between
lxc.cap.drop =  chown
lxc.tty.max = 1
caf\xe9
lxc.tty = 2
lxc.foo = 1"""


def test_scalar_stands_where_the_last_stood() -> None:
    assert set_key(TEXT, "lxc.tty.max", ["5"]) == TEXT.replace(b"lxc.tty.max = 1\n", b"").replace(
        b"lxc.tty = 2", b"lxc.tty.max = 5"
    )


def test_legacy_spelling_is_replaced_and_the_line_keeps_its_end() -> None:
    assert set_key(TEXT, "lxc.uts.name", ["new"]) == TEXT.replace(
        b"lxc.utsname = old", b"lxc.uts.name = new"
    )
    assert set_key(b"lxc.utsname = a\r\n#\n", "lxc.uts.name", ["b"]) == b"lxc.uts.name = b\r\n#\n"
    assert set_key(b"lxc.utsname = a", "lxc.uts.name", ["b"]) == b"lxc.uts.name = b\n"


def test_a_former_name_is_written_as_asked_for() -> None:
    assert set_key(b"lxc.uts.name = a\n", "lxc.utsname", ["b"]) == b"lxc.utsname = b\n"


def test_list_stands_where_the_first_stood() -> None:
    expected = TEXT.replace(
        b"  lxc.cap.drop=kill \t\n", b"lxc.cap.drop = mknod\nlxc.cap.drop = sys_time\n"
    )
    expected = expected.replace(b"lxc.cap.drop =  chown\n", b"")
    assert set_key(TEXT, "lxc.cap.drop", ["mknod", "sys_time"]) == expected


def test_new_key_goes_to_the_end() -> None:
    assert set_key(TEXT, "lxc.arch", ["amd64"]) == TEXT + b"\r\nlxc.arch = amd64\r\n"
    assert set_key(b"", "lxc.arch", ["amd64"]) == b"lxc.arch = amd64\n"
    assert set_key(b"#\n", "lxc.arch", ["amd64"]) == b"#\nlxc.arch = amd64\n"


def test_empty_value_is_written() -> None:
    text = set_key(b"lxc.include = /x\n", "lxc.cap.drop", ["", "kill"])
    assert text == b"lxc.include = /x\nlxc.cap.drop =\nlxc.cap.drop = kill\n"


def test_unset() -> None:
    assert unset_key(TEXT, "lxc.tty") == TEXT.replace(b"lxc.tty.max = 1\n", b"").replace(
        b"lxc.tty = 2\n", b""
    )
    assert unset_key(TEXT, "lxc.foo") == TEXT.replace(b"lxc.foo = 1", b"")
    assert unset_key(TEXT, "lxc.arch") == TEXT
    assert unset_key(b"lxc.arch\nlxc.arch = x\n", "lxc.arch") == b"lxc.arch\n"


def test_unset_a_family() -> None:
    text = b"lxc.hook.start = a\nlxc.hook.version = 1\nlxc.hook =\nlxc.cgroup.dir = a\nlxc.cgroup.cpu.shares = 1\n"
    assert unset_key(text, "lxc.hook") == text.replace(b"lxc.hook.start = a\n", b"").replace(
        b"lxc.hook =\n", b""
    )
    assert unset_key(text, "lxc.cgroup") == text.replace(b"lxc.cgroup.cpu.shares = 1\n", b"")


LEGACY_NET = b"""lxc.network.type = veth
lxc.network.link = br0
# second
lxc.network.type = macvlan
lxc.network.link = eth1
"""


def test_legacy_devices() -> None:
    text = set_key(LEGACY_NET, "lxc.net.1.link", ["eth2"])
    assert text == LEGACY_NET.replace(b"eth1", b"eth2")
    text = set_key(LEGACY_NET, "lxc.net.0.type", ["phys"])
    assert text == LEGACY_NET.replace(b"= veth", b"= phys")
    text = set_key(LEGACY_NET, "lxc.net.0.mtu", ["9000"])
    assert text == LEGACY_NET + b"lxc.net.0.mtu = 9000\n"
    config, _ = load(text, "c")
    assert [(o.name, o.value) for o in config.nics[0].options] == [("link", "br0"), ("mtu", "9000")]
    assert unset_key(LEGACY_NET, "lxc.net.0.link") == LEGACY_NET.replace(
        b"lxc.network.link = br0\n", b""
    )
    assert unset_key(LEGACY_NET, "lxc.net") == b"# second\n"
    assert (
        unset_key(LEGACY_NET, "lxc.net.1")
        == b"lxc.network.type = veth\nlxc.network.link = br0\n# second\n"
    )
    with pytest.raises(InvalidArgument, match=r"unset lxc\.net\.0"):
        unset_key(LEGACY_NET, "lxc.net.0.type")
    with pytest.raises(InvalidArgument, match="which device"):
        set_key(LEGACY_NET, "lxc.network.link", ["x"])


@pytest.mark.parametrize(
    "value", ["a\nlxc.tty.max = 9", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "\udcff"]
)
@pytest.mark.parametrize(
    "key", ["lxc.uts.name", "lxc.environment", "lxc.hook.start", "lxc.apparmor.raw"]
)
def test_control_characters_are_refused(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument):
        set_key(b"", key, [value])
    with pytest.raises(InvalidArgument):
        new_text([(key, value)])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("lxc.foo", ["1"]),
        ("lxc.uts.name\nlxc.tty.max", ["1"]),
        ("lxc.tty.max", ["1", "2"]),
        ("lxc.tty.max", []),
        ("lxc.cap.drop", []),
        ("lxc.cap.drop", ["kill", "nonsense"]),
        ("lxc.net.0.asdf", ["1"]),
        ("lxc.net.2147483647.type", ["veth"]),
        ("lxc.net.0.", ["1"]),
    ],
)
def test_set_refuses(key: str, values: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        set_key(TEXT, key, values)


def test_new_text() -> None:
    text = new_text(
        [("lxc.uts.name", "c1"), ("lxc.cap.drop", ""), ("lxc.environment", "A=b ")],
        ["Template used to create this container: host", ""],
    )
    assert text == (
        b"# Template used to create this container: host\n#\n"
        b'lxc.uts.name = c1\nlxc.cap.drop =\nlxc.environment = "A=b "\n'
    )


def test_new_text_refuses() -> None:
    with pytest.raises(InvalidArgument):
        new_text([], ["a\nlxc.tty.max = 1"])
    with pytest.raises(InvalidArgument):
        new_text([("lxc.foo", "1")])


def test_add_value() -> None:
    text = b"lxc.mount.entry = not a good one"
    text = add_value(text, "lxc.mount.entry", "a b none bind")
    assert text == b"lxc.mount.entry = not a good one\nlxc.mount.entry = a b none bind\n"
    assert add_value(b"lxc.utsname = a\n", "lxc.uts.name", "b") == b"lxc.uts.name = b\n"
    text = add_value(LEGACY_NET, "lxc.network.type", "phys")
    text = add_value(text, "lxc.network.link", "eth9")
    nics = load(text, "c")[0].nics
    assert [(nic.kind, nic.options[-1].value) for nic in nics] == [
        ("veth", "br0"),
        ("macvlan", "eth1"),
        ("phys", "eth9"),
    ]
    assert add_value(b"", "lxc.net", "") == b"lxc.net =\n"
    for key, value in (("lxc.foo", "1"), ("lxc.cap.drop", "x"), ("lxc.network.type", "a\nb")):
        with pytest.raises(InvalidArgument):
            add_value(b"", key, value)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        *(
            ("lxc.cap.drop", True),
            ("lxc.id_map", True),
            ("lxc.include", True),
            ("lxc.cgroup2.a.b", True),
        ),
        *(("lxc.network.ipv4", True), ("lxc.net.0.ipv6.address", True), ("lxc.sysctl.a", False)),
        *(
            ("lxc.utsname", False),
            ("lxc.net.0.link", False),
            ("lxc.net", False),
            ("lxc.foo", False),
        ),
    ],
)
def test_is_list(key: str, *, expected: bool) -> None:
    assert is_list(key) is expected


def test_values_of() -> None:
    assert values_of(TEXT, "lxc.tty.max") == ("1", "2")
    assert values_of(TEXT, "lxc.cap.drop") == ("kill", "chown")
    assert values_of(LEGACY_NET, "lxc.net.1.link") == ("eth1",)


FREE = [
    row.name
    for row in keys.KEYS
    if row.name
    in (
        "lxc.apparmor.raw",
        "lxc.hook.start",
        "lxc.apparmor.profile",
        "lxc.seccomp.notify.cookie",
        "lxc.log.file",
    )
]
GOOD_TEXT = st.text(
    st.one_of(
        st.sampled_from("\"' \t#=\\"), st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
    ),
    max_size=20,
)
LINES = st.lists(
    st.sampled_from(
        [
            *(
                b"# c\n",
                b"\n",
                b"lxc.log.file = x\n",
                b"lxc.logfile=y\r\n",
                b"  lxc.apparmor.raw = z\n",
                b"\xff\xfe\n",
            ),
            *(
                b"lxc.apparmor.raw =\n",
                b"lxc.hook.start = 'a'\n",
                b"lxc.hook =\n",
                b"other\r",
                b"lxc.network.type = veth\n",
            ),
        ]
    ),
    max_size=8,
).map(b"".join)


@STEADY
@given(LINES, st.sampled_from(FREE), st.lists(GOOD_TEXT, min_size=1, max_size=3), st.booleans())
def test_what_is_set_is_read(data: bytes, key: str, wanted: list[str], cut: bool) -> None:  # noqa: FBT001
    data = data[:-1] if cut else data
    found = keys.find(key)
    assert found is not None
    if found.row.shape == "value":
        wanted = wanted[:1]
    text = set_key(data, key, wanted)
    assert list(values_of(text, key)) == wanted
    lines = [line for line in load(text, "c")[0].lines if line.name == key]
    assert [line.value for line in lines] == wanted
    assert {line.key for line in lines} == {key}
    # Everything else is as it was, in the same order.
    assert unset_key(text, key).rstrip(b"\r\n") == unset_key(data, key).rstrip(b"\r\n")
    assert set_key(text, key, wanted) == text

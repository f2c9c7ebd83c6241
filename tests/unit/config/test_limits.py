"""[limits] in a container's lxcd.toml: read, set, removed; all else stays."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config import limits
from lxcd.config.daemon import load_container_settings
from lxcd.config.limits import Limits, Size

STEADY = settings(deadline=None, derandomize=True, database=None)
GIB = 1 << 30


def lines(text: str) -> list[tuple[str, str, str]]:
    """What a table becomes on a host of 8 GiB, when nothing is wrong."""
    found, problems = load_container_settings(f"[limits]\n{text}\n".encode(), "lxcd.toml")
    assert problems == ()
    made = found.limits.settings(8 * GIB)
    assert {one.version for one in made} <= {2}
    return [(one.name, one.value, one.origin.removeprefix("lxcd.toml: ")) for one in made]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu = 2", ("cpu.max", "200000 100000", "limits.cpu")),
        ("cpu = 0.25", ("cpu.max", "25000 100000", "limits.cpu")),
        ('cpu = "0-3,6"', ("cpuset.cpus", "0-3,6", "limits.cpu")),
        ('cpu = "2-2"', ("cpuset.cpus", "2-2", "limits.cpu")),
        ("memory = 4096", ("memory.max", "4096", "limits.memory")),
        ('memory = "256MiB"', ("memory.max", "268435456", "limits.memory")),
        ('memory = "1GB"', ("memory.max", "1000000000", "limits.memory")),
        ('memory = "1.5 GiB"', ("memory.max", "1610612736", "limits.memory")),
        ('memory = "64kB"', ("memory.max", "64000", "limits.memory")),
        ('memory = "4096"', ("memory.max", "4096", "limits.memory")),
        ('memory = "50%"', ("memory.max", str(4 * GIB), "limits.memory")),
        ('memory = "12.5%"', ("memory.max", str(GIB), "limits.memory")),
        ("swap = 0", ("memory.swap.max", "0", "limits.swap")),
        ('swap = "25%"', ("memory.swap.max", str(2 * GIB), "limits.swap")),
        ("pids = 500", ("pids.max", "500", "limits.pids")),
        ('io = [{device = "*", weight = 50}]', ("io.weight", "default 50", "limits.io")),
        ('io = [{device = "8:0", weight = 50}]', ("io.weight", "8:0 50", "limits.io")),
        (
            'io = [{device = "/dev/vda", read_bytes_per_second = "1MiB", write_operations_per_second = 7}]',
            ("io.max", "/dev/vda rbps=1048576 wiops=7", "limits.io"),
        ),
        (
            '[[limits.io]]\ndevice = "8:16"\nwrite_bytes_per_second = 2\nread_operations_per_second = 3',
            ("io.max", "8:16 wbps=2 riops=3", "limits.io"),
        ),
    ],
)
def test_what_a_table_becomes(text: str, expected: tuple[str, str, str]) -> None:
    assert lines(text) == [expected]


def test_nothing_is_nothing() -> None:
    assert lines("") == []
    assert Limits().settings(GIB) == ()
    assert load_container_settings(b"", "x")[0].limits == Limits()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cpu = 0", "between 0.01"),
        ("cpu = -1", "between 0.01"),
        ("cpu = inf", "between 0.01"),
        ("cpu = nan", "between 0.01"),
        ("cpu = true", "a number of cpus"),
        ('cpu = "2"', "without quotes"),
        ('cpu = "3-1"', "a range that is none"),
        ('cpu = "a"', "a list of cpus"),
        ("memory = 0", "without memory"),
        ('memory = "0%"', "more than 0 %"),
        ('memory = "101%"', "at most 100 %"),
        ('memory = "x%"', "at most 100 %"),
        ('memory = "256M"', "not a size"),
        ("memory = 1.5", "a size"),
        ("memory = -1", "between 0"),
        ('memory = "99999999999999999999PiB"', "between 0"),
        ("pids = 0", "between 1"),
        ('pids = "5"', "between 1"),
        ("io = 5", "list of tables"),
        ("io = [5]", "list of tables"),
        ('io = [{device = "8:0"}]', "says nothing"),
        ('io = [{device = "sda", weight = 5}]', "device must be"),
        ('io = [{device = "/dev/a b", weight = 5}]', "device must be"),
        ("io = [{weight = 5}]", "device must be"),
        ('io = [{device = "*", read_bytes_per_second = 5}]', "weight alone"),
        ('io = [{device = "8:0", read_bytes_per_second = 1}]', "at least 2"),
        ('io = [{device = "8:0", weight = 0}]', "between 1 and 10000"),
        ('io = [{device = "8:0", wait = 5}]', "none of: device"),
        ('io = [{device = "8:0", weight = 5}, {device = "8:0", weight = 6}]', "twice"),
        ("network = 5", "limits.network is none of: cpu, memory"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(text: str, told: str) -> None:
    found, problems = load_container_settings(f"[limits]\n{text}\n".encode(), "lxcd.toml")
    (problem,) = problems
    assert (problem.severity, problem.origin) == ("error", "lxcd.toml:2")
    assert told in problem.message
    assert found.limits == Limits()


def test_limits_must_be_a_table() -> None:
    _, problems = load_container_settings(b"limits = 5\n", "lxcd.toml")
    assert [(one.origin, one.key) for one in problems] == [("lxcd.toml:1", "limits")]


BEFORE = [
    "",
    'image = "host"',
    '# mine\n[labels]\na = "[limits]"\nmemory = "b"\n',
    '[limits]\ncpu = 1\nmemory = "1GiB" # enough\n\n# of labels\n[labels]\na = "b"\n',
    "[limits]\n# nothing yet\n\n[[forward]]\nlisten = 1\n",
    'limits.memory = 5 # dotted\nlimits.cpu = 2\n[labels]\na = "b"\n',
    '[[limits.io]]\ndevice = "8:0"\nweight = 5\n',
    '[limits]\nio = [\n  { device = "8:0", weight = 5 },\n  # [limits]\n]\npids = 7\n',
]
VALUES = [
    ("cpu", "1.5"),
    ("cpu", "2"),
    ("cpu", "0-3,6"),
    ("memory", "256MiB"),
    ("memory", "50%"),
    ("pids", "5"),
]


@pytest.mark.parametrize("text", BEFORE)
@pytest.mark.parametrize(("name", "value"), VALUES)
def test_one_is_set_and_removed(text: str, name: str, value: str) -> None:
    before = tomllib.loads(text)
    dotted = "limits.memory" in text and name == "pids"
    if dotted:
        with pytest.raises(ValueError, match="by hand"):
            limits.with_limit(text, name, value)
        return
    made = limits.with_limit(text, name, value)
    after = tomllib.loads(made)
    shown = after["limits"][name]
    assert str(shown) == value
    rest = {key: one for key, one in before.get("limits", {}).items() if key != name}
    assert {key: one for key, one in after["limits"].items() if key != name} == rest
    assert [
        line for line in text.splitlines() if "#" in line and line.lstrip().startswith("#")
    ] == [line for line in made.splitlines() if line.lstrip().startswith("#")]
    gone = tomllib.loads(limits.without_limit(made, name))
    assert gone.get("limits", {}) == rest
    if name not in before.get("limits", {}):
        assert limits.without_limit(made, name).rstrip("\n") == text.rstrip("\n")


def test_a_changed_line_keeps_its_comment_and_place() -> None:
    text = '[limits]\ncpu = 1\nmemory   = "1GiB#"   # enough\npids = 7\n'
    made = limits.with_limit(text.replace("GiB#", "GiB"), "memory", "2GiB")
    assert made == '[limits]\ncpu = 1\nmemory = "2GiB"   # enough\npids = 7\n'


def test_the_last_one_takes_the_table_along() -> None:
    assert limits.without_limit('image = "a"\n\n[limits]\npids = 7\n', "pids") == 'image = "a"\n'
    assert limits.without_limit("[limits]\n# mine\npids = 7\n", "pids") == "[limits]\n# mine\n"


def test_io_is_written_as_toml() -> None:
    made = limits.with_limit("", "io", '[{device = "*", weight = 5}]')
    assert made == '[limits]\nio = [{device = "*", weight = 5}]\n'
    tables = '[[limits.io]]\ndevice = "8:0"\nweight = 5\n\n[labels]\na = "b"\n'
    assert limits.without_limit(tables, "io") == '[labels]\na = "b"\n'
    with pytest.raises(ValueError, match="by hand"):
        limits.with_limit(tables, "io", '[{device = "*", weight = 5}]')


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("memory", "256M", "not a size"),
        ("memory", '1"\nx = 5', "cannot be"),
        ("memory", "\\u0031GiB", "cannot be"),
        ("cpu", "0", "between"),
        ("cpu", "all", "a list of cpus"),
        ("pids", "many", "between"),
        ("pids", "1.5", "between"),
        ("io", "5", "list of tables"),
        ("io", "[", "list of tables"),
        ("io", "[]\ny = 5", "list of tables"),
        ("disk", "5", "none of: cpu"),
    ],
)
def test_what_cannot_be_set(name: str, value: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        limits.with_limit("", name, value)


def test_what_is_not_toml_or_written_unusually_is_for_its_owner() -> None:
    for text in ("nonsense", "limits = { cpu = 1 }\n", '[limits.x]\n[limits]\n"pi\\u0064s" = 5\n'):
        with pytest.raises(ValueError, match="by hand"):
            limits.with_limit(text, "pids", "5")
    with pytest.raises(ValueError, match="none of"):
        limits.without_limit("", "disk")
    assert limits.without_limit("", "pids") == ""


PIECES = (
    *(
        "[limits]",
        "[[limits.io]]",
        "[x]",
        "cpu = 1",
        'memory = "1GiB"',
        "limits.cpu = 2",
        "limits = {}",
        "",
        "# a",
    ),
    *("io = [", "]", "pids = 5", "weight = 5", "x = '''", "'''", "\x0c", "[limits] # b"),
)
TEXTS = st.one_of(
    st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=9).map("\n".join)
)
TYPED = st.one_of(
    st.sampled_from(["5", "1GiB", "0-1", "50%", "[]", "[" * 9999]), st.text(max_size=20)
)


def changed(text: str, name: str, value: str | None) -> str | None:
    try:
        return (
            limits.without_limit(text, name)
            if value is None
            else limits.with_limit(text, name, value)
        )
    except ValueError:
        return None


@STEADY
@given(TEXTS, st.sampled_from([*limits.NAMES, "x"]), st.none() | TYPED)
def test_what_comes_out_says_what_was_meant(text: str, name: str, value: str | None) -> None:
    made = changed(text, name, value)
    if made is None:
        return
    before, after = tomllib.loads(text), tomllib.loads(made)
    assert (name in after.get("limits", {})) is (value is not None)
    for table in (before.setdefault("limits", {}), after.setdefault("limits", {})):
        table.pop(name, None)
    assert before == after


@STEADY
@given(
    st.recursive(
        st.one_of(st.integers(), st.floats(), st.text(max_size=9), st.booleans()),
        lambda one: st.one_of(
            st.lists(one, max_size=3),
            st.dictionaries(st.sampled_from([*limits.NAMES, "device", "weight"]), one, max_size=4),
        ),
    )
)
def test_no_table_raises(value: object) -> None:
    found, _ = limits.read(value)
    assert isinstance(found.settings(GIB), tuple)


def test_a_part_of_the_host() -> None:
    assert Size(ten_thousandths=5000).of(100) == 50
    assert Size(7).of(100) == 7

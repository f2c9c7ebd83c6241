"""Formats: `001` stays a string, nothing is lost, no terminal is moved."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcctl import output
from lxcd.v1 import container_pb2, types_pb2

if TYPE_CHECKING:
    from typing import Any

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["001", "no", "~", "1e3"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def container(**fields: Any) -> Any:
    return container_pb2.Container(name="001", state=types_pb2.STATE_STOPPED, **fields)


def test_plain_has_every_field_and_short_words() -> None:
    message = container(generation=2**60, groups=["a"], cgroups={"cpu": "/lxc/001", "": "/x"})
    message.exit.signal = 9
    message.exit.cause = types_pb2.CAUSE_KEEPER_LOST
    message.exit.time.seconds = 1_700_000_000
    message.exit.time.nanos = 120_000_000
    message.problems.add(severity=types_pb2.Problem.Severity.SEVERITY_WARNING, message="m")
    value = output.plain(message)
    assert value["name"] == "001"
    assert value["state"] == "STOPPED"
    assert value["pid"] == 0
    assert value["generation"] == 2**60
    assert value["start_time"] is None
    assert value["autostart"] is False
    assert value["groups"] == ["a"]
    assert value["cgroups"] == {"": "/x", "cpu": "/lxc/001"}
    assert value["problems"] == [{"severity": "WARNING", "origin": "", "key": "", "message": "m"}]
    assert value["exit"] == {
        "code": None,
        "signal": 9,
        "core_dumped": False,
        "oom_killed": False,
        "time": "2023-11-14T22:13:20.120Z",
        "generation": 0,
        "cause": "KEEPER_LOST",
    }
    assert set(value) == {field.name for field in message.DESCRIPTOR.fields}
    assert json.loads(output.to_json(value)) == value


def test_exit_code_zero_is_not_unset() -> None:
    message = container()
    assert output.plain(message)["exit"] is None
    message.exit.code = 0
    value: Any = output.plain(message)["exit"]
    assert value["code"] == 0


def test_a_word_of_a_newer_daemon() -> None:
    message = types_pb2.Exit.FromString(b"\x38\x63")  # cause = 99
    assert output.plain(message)["cause"] == "99"


def test_csv_starts_with_the_name_and_survives_a_reader() -> None:
    header = output.csv_header(container_pb2.Container.DESCRIPTOR)
    assert header[0] == "name"
    assert "exit.cause" in header
    message = container(rootfs='dir:/a,"b"\nc', command=["sh", "-c", "x, y"])
    text = output.csv_head(header) + "\n" + output.csv_line(header, output.plain(message)) + "\n"
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["name"] == "001"
    assert row["pid"] == "0"
    assert row["rootfs"] == 'dir:/a,"b"\nc'
    assert json.loads(row["command"]) == ["sh", "-c", "x, y"]
    assert row["exit.code"] == ""


def test_csv_header_of_steps_starts_with_the_name() -> None:
    assert output.csv_header(types_pb2.Step.DESCRIPTOR)[0] == "name"


def test_yaml_of_a_container() -> None:
    text = output.to_yaml([{"name": "001", "pid": 0, "groups": [], "exit": {"code": None}}])
    assert text == '- name: "001"\n  pid: 0\n  groups: []\n  exit:\n    code: null\n'


def test_yaml_of_scalars() -> None:
    assert output.to_yaml([]) == "[]\n"
    assert output.to_yaml("\x85\u2028\ud83d\x00é") == '"\\x85\\u2028\\ud83d\\x00é"\n'


def read_yaml(text: str) -> Any:
    """Just what `to_yaml` may write: one value per line, strings always quoted, two blanks per level."""
    lines = text.splitlines(keepends=False)
    assert text == "".join(f"{line}\n" for line in lines)  # no other line breaks inside
    value, rest = _read_block(lines, 0)
    assert not rest
    return value


def _read_block(lines: list[str], depth: int) -> Any:
    first = lines[0][depth:]
    if not (first.startswith("- ") or _key(first)):
        return _scalar(first), lines[1:]
    result: Any = [] if first.startswith("- ") else {}
    while lines and len(lines[0]) - len(lines[0].lstrip(" ")) == depth:
        head = lines[0][depth:]
        if isinstance(result, list):
            assert head.startswith("- ")
            item, lines = _read_block([" " * (depth + 2) + head[2:], *lines[1:]], depth + 2)
            result.append(item)
        else:
            key, rest = _key(head)
            if rest:
                result[key] = _scalar(rest)
                lines = lines[1:]
            else:
                result[key], lines = _read_block(lines[1:], depth + 2)
    return result, lines


def _key(text: str) -> Any:
    if text.startswith('"'):
        end = 1
        while text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        if not text[end + 1 :].startswith(":"):
            return None
        return _scalar(text[: end + 1]), text[end + 2 :].strip(" ")
    key, colon, rest = text.partition(":")
    return (key, rest.strip(" ")) if colon else None


def _scalar(text: str) -> Any:
    if text.startswith('"'):
        body = text[1:-1]
        assert body.isprintable() or "\u3000" in body
        return body.encode("latin-1", "backslashreplace").decode("unicode_escape")
    return json.loads(text)


@given(_JSON)
def test_yaml_by_our_own_rules(value: Any) -> None:
    assert read_yaml(output.to_yaml(value)) == value


@given(_JSON)
def test_yaml_by_pyyaml(value: Any) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(output.to_yaml(value)) == value


@given(st.text())
def test_harmless_text_is_printable(text: str) -> None:
    shown = output.harmless(text)
    assert all(c.isprintable() or c == "\u3000" for c in shown)
    if text.isprintable():
        assert shown == text


def test_escape_sequences_are_shown_not_sent() -> None:
    assert output.harmless("\x1b[2Ja\x9b1mb\x07\r\n") == "\\x1b[2Ja\\x9b1mb\\x07\\r\\n"
    assert output.harmless("a\u202eb") == "a\\u202eb"
    assert output.harmless("a\nb", keep_newlines=True) == "a\nb"


def test_table_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("001", "コンテナ"), ("a-long-name", "x")]
    output.table((("NAME", lambda r: r[0]), ("W", lambda r: r[1]), ("E", lambda _: "")), rows)
    assert capsys.readouterr().out == (
        "NAME         W         E\n001          コンテナ  -\na-long-name  x         -\n"
    )

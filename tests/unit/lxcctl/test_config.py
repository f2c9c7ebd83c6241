"""config get, set, unset, show, edit, check."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from lxcd.v1 import container_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal

    Editor = Callable[[str], None]

TEXT = "# mine\nlxc.uts.name = 001\n"
WARNING = types_pb2.Problem.Severity.SEVERITY_WARNING
ERROR = types_pb2.Problem.Severity.SEVERITY_ERROR


@pytest.fixture
def configured(daemon: FakeDaemon) -> Any:
    message = container_pb2.Container(name="001", etag="e1", config_text=TEXT, lxcpath="/lxc")
    message.config.add(key="lxc.uts.name", value="001", origin="/lxc/001/config:2")
    message.config.add(key="lxc.cap.drop", value="lost")
    message.config.add(key="lxc.cap.drop", value="")
    message.config.add(key="lxc.cap.drop", value="mknod", origin="c:4", not_in_force=True)
    message.config.add(key="lxc.cap.drop", value="sys_\x1btime")
    message.problems.add(severity=WARNING, origin="c:4", key="lxc.cap.drop", message="hm")
    daemon.on["GetContainer"] = lambda _: message
    daemon.on["UpdateContainer"] = lambda _: message
    return daemon


def test_get(configured: FakeDaemon, lxcctl: Lxcctl) -> None:
    assert not configured.requests
    assert lxcctl("config", "get", "001", "lxc.uts.name").out == "001\n"
    assert lxcctl("config", "get", "001", "lxc.cap.drop").out == "mknod\nsys_\\x1btime\n"
    (row,) = json.loads(lxcctl("config", "get", "001", "lxc.uts.name", "--format", "json").out)
    assert row["value"] == "001"
    result = lxcctl("config", "get", "001", "lxc.none")
    assert (result.status, result.err) == (3, "lxcctl: 001: lxc.none is not set\n")


def test_set_and_unset(configured: FakeDaemon, lxcctl: Lxcctl) -> None:
    assert lxcctl("config", "set", "001", "lxc.cap.drop", "a", "b").status == 0
    assert lxcctl("--lxcpath", "/lxc", "config", "unset", "001", "lxc.cap.drop").status == 0
    change, removal = configured.asked("UpdateContainer")
    assert change.changes[0] == container_pb2.ConfigChange(key="lxc.cap.drop", values=["a", "b"])
    assert not change.update_mask.paths
    assert removal.changes[0] == container_pb2.ConfigChange(key="lxc.cap.drop")
    assert removal.container.lxcpath == "/lxc"


def test_set_tells_what_is_wrong_with_that_key(configured: FakeDaemon, lxcctl: Lxcctl) -> None:
    assert not configured.requests
    assert "hm" in lxcctl("config", "set", "001", "lxc.cap.drop", "a").err
    assert lxcctl("config", "set", "001", "lxc.uts.name", "a").err == ""


def test_show(configured: FakeDaemon, lxcctl: Lxcctl) -> None:
    assert not configured.requests
    assert lxcctl("config", "show", "001").out == TEXT
    resolved = lxcctl("config", "show", "001", "--resolved").out.splitlines()
    assert resolved[0] == "lxc.uts.name = 001  # /lxc/001/config:2"
    assert resolved[3] == "lxc.cap.drop = mknod  # c:4, not in force"
    assert len(json.loads(lxcctl("config", "show", "001", "--format", "json").out)) == 5


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An editor made of shell: what it does to the file "$1"."""

    def write(script: str | None) -> None:
        path = tmp_path / "an editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("VISUAL", f"'{path}'")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return write


def left_over(tmp_path: Path) -> Any:
    return [name for name in os.listdir(tmp_path) if name.startswith("lxcctl-")]


def test_edit(configured: FakeDaemon, lxcctl: Lxcctl, editor: Editor, tmp_path: Path) -> None:
    editor(f'stat -c %a "$1" >{tmp_path}/mode; echo "lxc.x = y" >>"$1"')
    assert lxcctl("config", "edit", "001").status == 0
    (request,) = configured.asked("UpdateContainer")
    assert request.container.config_text == f"{TEXT}lxc.x = y\n"
    assert request.container.etag == "e1"
    assert request.container.lxcpath == "/lxc"
    assert list(request.update_mask.paths) == ["config_text"]
    assert int((tmp_path / "mode").read_text(), 8) == stat.S_IRUSR | stat.S_IWUSR
    assert not left_over(tmp_path)


def test_edit_nothing(
    configured: FakeDaemon, lxcctl: Lxcctl, editor: Editor, tmp_path: Path
) -> None:
    editor("true")
    result = lxcctl("config", "edit", "001")
    assert (result.status, result.err) == (0, "lxcctl: 001: nothing changed\n")
    assert not configured.asked("UpdateContainer")
    assert not left_over(tmp_path)


@pytest.mark.parametrize(("code", "status"), [("ABORTED", 4), ("INVALID_ARGUMENT", 2)])
def test_edit_that_is_refused_keeps_the_work(
    configured: FakeDaemon,
    lxcctl: Lxcctl,
    editor: Editor,
    tmp_path: Path,
    refusal: type[Refusal],
    code: str,
    status: int,
) -> None:
    def update(_request: Any) -> None:
        raise refusal(code, "not like this", "REASON")

    configured.on["UpdateContainer"] = update
    editor('echo "lxc.x = y" >>"$1"')
    result = lxcctl("config", "edit", "001")
    assert result.status == status
    (name,) = left_over(tmp_path)
    assert result.err == f"lxcctl: not like this\nthe edited text is in {tmp_path}/{name}\n"
    assert (tmp_path / name).read_text() == f"{TEXT}lxc.x = y\n"


def test_edit_again(
    configured: FakeDaemon,
    lxcctl: Lxcctl,
    editor: Editor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: type[Refusal],
) -> None:
    def update(request: Any) -> Any:
        if request.container.config_text.count("lxc.x") < 2:
            raise refusal("INVALID_ARGUMENT", "config:3: no", "INVALID_ARGUMENT")
        return container_pb2.Container(name="001")

    configured.on["UpdateContainer"] = update
    monkeypatch.setattr("lxcctl.commands.config_edit._asks_again", lambda _: True)
    editor('echo "lxc.x = y" >>"$1"')
    assert lxcctl("config", "edit", "001").status == 0
    assert len(configured.asked("UpdateContainer")) == 2
    assert not left_over(tmp_path)


@pytest.mark.parametrize("script", ["exit 1", None])
def test_edit_with_a_failing_editor(
    configured: FakeDaemon,
    lxcctl: Lxcctl,
    editor: Editor,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
) -> None:
    if script:
        editor(script)
    else:
        monkeypatch.setenv("VISUAL", "/nonexistent/editor")
    assert lxcctl("config", "edit", "001").status == 1
    assert not configured.asked("UpdateContainer")


@pytest.mark.parametrize(("argv", "status"), [([], 0), (["--strict"], 1)])
def test_check_a_container(
    configured: FakeDaemon, lxcctl: Lxcctl, argv: list[str], status: int
) -> None:
    assert not configured.requests
    result = lxcctl("config", "check", "001", *argv)
    assert result.status == status
    assert result.out == "c:4: warning: lxc.cap.drop: hm\n"


def test_check_files(
    daemon: FakeDaemon, lxcctl: Lxcctl, tmp_path: Path, refusal: type[Refusal]
) -> None:
    def create(request: Any) -> Iterator[Any]:
        assert request.validate_only
        if request.name == "check":
            raise refusal("ALREADY_EXISTS", "check exists", "ALREADY_EXISTS")
        origin = f"{request.config_origin}:1"
        message = container_pb2.Container()
        message.problems.add(
            severity=ERROR, origin=origin, key="lxc.x", message=request.config_text
        )
        yield container_pb2.CreateContainerResponse(container=message)

    daemon.on["CreateContainer"] = create
    for name in "ab":
        (tmp_path / name).write_text(f"text {name}")
    result = lxcctl("config", "check", "--file", f"{tmp_path}/a", f"{tmp_path}/b")
    assert result.status == 1
    assert result.out == (
        f"{tmp_path}/a:1: error: lxc.x: text a\n{tmp_path}/b:1: error: lxc.x: text b\n"
    )
    rows = json.loads(lxcctl("config", "check", "--file", f"{tmp_path}/a", "--format", "json").out)
    assert rows[0]["severity"] == "ERROR"


def test_check_a_file_that_is_refused_altogether(
    daemon: FakeDaemon, lxcctl: Lxcctl, tmp_path: Path, refusal: type[Refusal]
) -> None:
    def create(_request: Any) -> None:
        raise refusal("INVALID_ARGUMENT", "no value", "BAD_CONFIG", origin="a:2", key="lxc.x")

    daemon.on["CreateContainer"] = create
    (tmp_path / "a").write_text("x")
    result = lxcctl("config", "check", "--file", str(tmp_path / "a"))
    assert (result.status, result.out) == (1, "a:2: error: lxc.x: no value\n")


def test_check_nothing(lxcctl: Lxcctl) -> None:
    assert lxcctl("config", "check").status == 2

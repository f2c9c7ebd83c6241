"""How LXC's commands fail: in one line, with the exit status of their era."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.compat import NEW, OLD, configuration, lxc, shown
from tests.system.host import Host

_FAILED = {OLD: 255, NEW: 1}
ERAS = pytest.mark.parametrize("era", [OLD, NEW])


def _fails(host: Host, command: str, *arguments: str, era: str, status: int | None = None) -> str:
    """The one line that it complains with."""
    expected = _FAILED[era] if status is None else status
    done = lxc(host, command, *arguments, era=era, status=expected)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"lxc-{command}: ")
    return lines[0]


@ERAS
def test_no_name(shared_host: Host, era: str) -> None:
    assert "No container name specified" in _fails(shared_host, "start", era=era)


@ERAS
def test_an_unknown_option(shared_host: Host, era: str) -> None:
    done = lxc(shared_host, "start", "--nonsense", era=era, status=_FAILED[era])
    first, second, *_ = done.stderr.splitlines()
    assert first == "lxc-start: unrecognized option '--nonsense'"
    assert second.startswith("Usage: lxc-start")


@ERAS
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("attach", ("--", "/bin/true")),
        ("console", ()),
        ("destroy", ()),
        ("freeze", ()),
        ("kill", ()),
        ("netstat", ("-a",)),
        ("start", ()),
        ("unfreeze", ()),
    ],
)
def test_an_unknown_container(
    shared_host: Host, command: str, arguments: tuple[str, ...], era: str
) -> None:
    assert "nobody" in _fails(shared_host, command, "-n", "nobody", *arguments, era=era)


def test_what_is_said_of_an_unknown_container(shared_host: Host) -> None:
    host = shared_host
    assert "nobody" in _fails(host, "info", "-n", "nobody", era=NEW)
    assert "nobody" in _fails(host, "stop", "-n", "nobody", era=NEW, status=2)
    # 0.7 knew only what runs.
    assert shown(host, "info", "-n", "nobody", era=OLD) == "'nobody' is STOPPED\n"
    assert shown(host, "stop", "-n", "nobody", era=OLD) == ""


@ERAS
def test_a_wait_for_an_unknown_container(shared_host: Host, era: str) -> None:
    for name in ("nobody", "../x"):
        state = "RUNNING" if name == "nobody" else "STOPPED"
        done = lxc(
            shared_host, "wait", "-n", name, "-s", state, "-t", "1", era=era, status=_FAILED[era]
        )
        assert done.stdout == ""
        assert (name in done.stderr) == (name == "../x")
    assert shown(shared_host, "wait", "-n", "nobody", "-s", "STOPPED", era=era) == ""


@ERAS
def test_processes_of_an_unknown_container(shared_host: Host, era: str) -> None:
    assert "nobody" in _fails(shared_host, "ps", "--name", "nobody", "-ef", era=era)


@ERAS
@pytest.mark.parametrize("command", ["create", "execute", "start"])
def test_a_missing_file(shared_host: Host, command: str, era: str) -> None:
    more = {"create": ["-t", "none"], "execute": ["/bin/true"]}.get(command, [])
    text = _fails(shared_host, command, "-n", "x", "-f", "/no/such.conf", *more, era=era)
    assert "/no/such.conf" in text
    assert not (shared_host.lxcpath / "x").exists()


@ERAS
def test_a_broken_file(shared_host: Host, era: str) -> None:
    file = shared_host.root / "broken.conf"
    file.write_text("lxc.rootfs.path = /x\nnonsense\nlxc.cap.drop = no_such\n")
    text = _fails(shared_host, "create", "-t", "none", "-n", "x", "-f", str(file), era=era)
    assert f"{file}:" in text
    file.write_bytes(b"# \xa4\xb3\n")
    text = _fails(shared_host, "execute", "-n", "x", "-f", str(file), "/bin/true", era=era)
    assert text.endswith(f"{file}:1: not UTF-8")


@ERAS
def test_one_that_runs_already(shared_host: Host, busybox_root: Path, era: str) -> None:
    host = shared_host
    file = configuration(host, busybox_root, f"box{era}")
    name = f"box{era}"
    lxc(host, "execute", "-d", "-n", name, "-f", file, "/bin/sleep", "100000", era=era)
    try:
        assert name in _fails(host, "execute", "-n", name, "-f", file, "/bin/true", era=era)
        again = _fails(
            host, "start", "-n", name, "-f", file, era=era, status=0 if era == NEW else None
        )
        assert name in again
        assert "running" in again.lower()
        assert name in _fails(host, "create", "-n", name, "-f", file, "-t", "none", era=era)
    finally:
        lxc(host, "stop", "-k", "-n", name, era=era)


@ERAS
def test_one_that_has_a_configuration_of_its_own(
    shared_host: Host, busybox_root: Path, era: str
) -> None:
    host = shared_host
    file = configuration(host, busybox_root, "own")
    lxc(host, "create", "-n", "own", "-f", file, "-t", "none", era=era)
    try:
        assert "own" in _fails(host, "create", "-n", "own", "-f", file, "-t", "none", era=era)
    finally:
        lxc(host, "destroy", "-n", "own", era=era)


@ERAS
@pytest.mark.parametrize("arguments", [("ls",), ("execute", "-n", "x", "/bin/true")])
def test_no_daemon(cold_host: Host, arguments: tuple[str, ...], era: str) -> None:
    text = _fails(cold_host, *arguments, era=era)
    assert f"no daemon at {cold_host.address}" in text
    assert "--address" not in text


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("create", ("x", "-t", "busybox"), "busybox"),
        ("freeze", ("../x",), "../x"),
        ("start", ("-s", "nonsense", "-f", os.devnull, "x"), "nonsense"),
        ("start", ("-p", "file", "x"), "--pidfile"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    shared_host: Host, command: str, arguments: tuple[str, ...], text: str
) -> None:
    assert text in _fails(shared_host, command, *arguments, era=NEW)


def test_an_era_that_there_never_was(shared_host: Host) -> None:
    done = lxc(shared_host, "ls", era="1.0", status=1)
    assert done.stderr == "lxc-ls: LXCD_COMPAT is '1.0': neither 0.7 nor 7.0\n"

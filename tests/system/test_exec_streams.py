"""What goes through an exec: byte for byte, each way, by descriptors or streamed, for as long as anybody wants it."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import exec_pb2, types_pb2
from tests.system import ledger, sessions
from tests.system.boxes import Box, defined
from tests.system.calls import application, idle, refused, seconds
from tests.system.host import Api, Host
from tests.system.machine import DEADLINE, until
from tests.system.sessions import CONTROLLER

# Some 34 MB of Debian: programs, libraries, links, and the names of terminals.
LINES = "for i in $(seq 1000001 %d); do echo $i; done"
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["descriptors", "streamed"])


@pytest.fixture(scope="module")
def debian(shared_host: Host, debian_root: Path) -> Iterator[Box]:
    with idle(shared_host, debian_root, "debian") as made:
        yield made


@pytest.fixture(scope="module")
def app(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with idle(shared_host, busybox_root, "app") as made:
        yield made


# Large things


def exec_argv(made: Box, streamed: bool, *command: str) -> list[str]:  # noqa: FBT001
    options = ("--streamed",) if streamed else ()
    return made.host.ctl_argv("exec", made.name, *options, "--", *command)


def checksum(made: Box, argv: list[str]) -> str:
    """Of what it writes, which comes through a pipe."""
    digest = hashlib.sha256()
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=made.host.environment
    ) as process:
        assert process.stdout is not None
        while data := process.stdout.read(1 << 20):
            digest.update(data)
    assert process.returncode == 0
    return digest.hexdigest()


def packing(directory: str, tree: tuple[str, ...]) -> tuple[str, ...]:
    return ("tar", "--sort=name", "-C", directory, "-cf", "-", *tree)


def back_in(made: Box, streamed: bool, archive: Path, directory: str) -> None:  # noqa: FBT001
    """Unpack it there in the container, from a pipe."""
    with subprocess.Popen(
        exec_argv(made, streamed, "tar", "-C", directory, "-xf", "-"),
        stdin=subprocess.PIPE,
        env=made.host.environment,
    ) as process:
        assert process.stdin is not None
        with open(archive, "rb") as file:
            while data := file.read(1 << 20):
                process.stdin.write(data)
        process.stdin.close()
    assert process.returncode == 0


def rounds(made: Box, streamed: bool, count: int, *tree: str) -> None:  # noqa: FBT001
    """Out so often, alone and eight at once, and in the same way."""
    archive = made.host.root / "usr.tar"
    out = exec_argv(made, streamed, *packing("/", tree))
    with open(archive, "wb") as file:
        # Into a file lxcctl copies itself.
        subprocess.run(
            out, stdin=subprocess.DEVNULL, stdout=file, check=True, env=made.host.environment
        )
    expected = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert archive.stat().st_size > 30_000_000

    def goes_in(number: int) -> str:
        directory = f"/var/tmp/in.{number}"
        made.sh(f"mkdir {directory}")
        back_in(made, streamed, archive, directory)
        seen = checksum(made, exec_argv(made, streamed, *packing(directory, tree)))
        made.sh(f"rm -r {directory}")
        return seen

    for number in range(count):
        assert checksum(made, out) == expected
        assert goes_in(number) == expected
    with ThreadPoolExecutor(8) as pool:
        eight = [pool.submit(checksum, made, out) for _ in range(8)]
        assert {each.result() for each in eight} == {expected}
        assert set(pool.map(goes_in, range(8))) == {expected}
    archive.unlink()


@STREAMED
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tree_goes_out_and_in_with_every_byte(debian: Box, streamed: bool) -> None:  # noqa: FBT001
    rounds(debian, streamed, 10, "usr/bin", "usr/sbin")


@STREAMED
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_tree_goes_out_and_in_a_hundred_times(debian: Box, streamed: bool) -> None:  # noqa: FBT001
    rounds(debian, streamed, 100, "usr")


@STREAMED
def test_stdout_and_stderr_are_never_mixed(app: Box, streamed: bool) -> None:  # noqa: FBT001
    script = (
        "i=1000000; while [ $i -lt 1004000 ]; do i=$((i+1)); echo o$i; echo e$i >&2; done; exit 9"
    )
    done = subprocess.run(
        exec_argv(app, streamed, "/bin/sh", "-c", script),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=app.host.environment,
        check=False,
        timeout=DEADLINE,
    )
    numbers = range(1_000_001, 1_004_001)
    assert done.returncode == 9
    assert done.stdout == b"".join(b"o%d\n" % number for number in numbers)
    assert done.stderr == b"".join(b"e%d\n" % number for number in numbers)


# Many small things


def leftovers(host: Host) -> dict[str, Any]:
    """All that execs could leave: descriptors, processes, records, journal."""
    assert host.daemon is not None
    keeper = host.keeper_pid
    below = ledger.descriptors
    private = host.run_dir / "private"
    names = sorted(
        str(path.relative_to(private))
        for path in private.rglob("*")
        if path.is_file() and ("exec" in path.name or "journal" in path.parts[-2])
    )
    rings = sum(
        "memfd:" in kind for pid in (host.daemon, keeper) for kind in below(pid) for _ in (0,)
    )
    zombies = [str(each) for each in ledger.descendants(keeper) if each.state == "Z"]
    return {"names": names, "rings": rings, "zombies": zombies}


def batches(app: Box, count: int, at_once: int) -> None:
    host = app.host
    app.sh("true")
    until(lambda: not leftovers(host)["zombies"], "what ran is reaped")
    before = leftovers(host)

    def worker(first: int) -> list[str]:
        wrong: list[str] = []
        with Api(host.address) as api:
            for number in range(first, count, at_once):
                words = ["/bin/sh", "-c", f"echo {number}; exit {number % 100}"]
                if number % 4 == 3:
                    request = exec_pb2.RunExecRequest(container="app", command=words)
                    done = api.exec.RunExec(request, timeout=DEADLINE)
                    found = (bytes(done.stdout), done.exit.code)
                else:
                    create = exec_pb2.CreateExecRequest(
                        container="app",
                        command=words,
                        tty=number % 4 == 1,
                        lossless=number % 4 == 2,
                        delete_on_exit=True,
                    )
                    made = api.exec.CreateExec(create, timeout=DEADLINE)
                    attached = sessions.attach(api, made.id)
                    code = attached.to_the_end().exit.code
                    (data,) = attached.data.values()
                    found = (bytes(data).replace(b"\r", b""), code)
                if found != (b"%d\n" % number, number % 100):
                    wrong.append(f"{number}: {found}")
        return wrong

    with ThreadPoolExecutor(at_once) as pool:
        wrong = [text for texts in pool.map(worker, range(at_once)) for text in texts]
    assert wrong == []
    until(lambda: sessions.listed(app.api) == {}, "all are forgotten")
    until(lambda: leftovers(host) == before, f"no more is left than {before}", 30)


@pytest.mark.slow
def test_two_hundred_short_execs_leave_nothing(app: Box) -> None:
    batches(app, 200, 8)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_short_execs_leave_nothing(app: Box) -> None:
    batches(app, 1000, 16)


# Readers


def test_a_process_waits_for_a_reader_that_does_not_read(app: Box) -> None:
    script = LINES % 1_200_000 + "; echo over >&2"
    whole = b"".join(b"%d\n" % number for number in range(1_000_001, 1_200_001))
    with sessions.running(app, "/bin/sh", "-c", script, lossless=True) as found:
        attached = sessions.attach(
            app.api, found.id, lossless=True, giving_credit=False, window_bytes=4096
        )
        attached.until(lambda: attached.offsets.get("stdout", 0) >= 4096)
        # It has written what ring and pipe hold, and waits: not for time, but in the kernel.
        pid = sessions.look(app.api, found.id).pid
        until(lambda: _waits_in_write(pid), "the process waits")
        assert not sessions.look(app.api, found.id).HasField("exit")
        sent = attached.offsets["stdout"]
        assert sent == 4096
        attached.send(credit={"stream": "stdout", "offset": sent})
        attached.until(lambda: attached.offsets["stdout"] > sent)
        begun = bytes(attached.data["stdout"])
        attached.cancel()
        # Whoever comes next goes on where that one was.
        again = sessions.attach(app.api, found.id, lossless=True, offsets={"stdout": len(begun)})
        assert again.to_the_end().exit.code == 0
        assert begun + again.data["stdout"] == whole
        assert again.data["stderr"] == b"over\n"
        assert again.gaps == []


def _waits_in_write(pid: int) -> bool:
    return "pipe_write" in Path(f"/proc/{pid}/wchan").read_text()


def test_a_process_waits_for_nobody_unless_that_is_wanted(app: Box) -> None:
    script = LINES % 1_100_000 + "; exit 4"
    whole = b"".join(b"%d\n" % number for number in range(1_000_001, 1_100_001))
    with sessions.running(app, "/bin/sh", "-c", script) as found:
        attached = sessions.attach(app.api, found.id, giving_credit=False, window_bytes=4096)
        wait = exec_pb2.WaitExecRequest(id=found.id)
        assert app.api.exec.WaitExec(wait, timeout=DEADLINE).exit.code == 4
        attached.until(lambda: attached.offsets.get("stdout", 0) >= 4096)
        attached.send(credit={"stream": "stdout", "offset": attached.offsets["stdout"]})
        attached.until(lambda: bool(attached.gaps))
        attached.cancel()
        late = sessions.attach(app.api, found.id)
        assert late.to_the_end().exit.code == 4
        (kept,) = late.data.values()
        assert whole.endswith(bytes(kept))
        assert late.offsets["stdout"] == len(whole)
        ((_, begin, end),) = attached.gaps
        assert begin == 4096
        assert end >= len(whole) - len(kept)


def test_many_watch_one_exec(app: Box) -> None:
    script = "read go; " + LINES % 1_050_000
    whole = b"".join(b"%d\n" % number for number in range(1_000_001, 1_050_001))
    with sessions.running(app, "/bin/sh", "-c", script, stdin=True, lossless=True) as found:
        results: list[tuple[bytes, int]] = []

        def watch(began: threading.Barrier) -> None:
            with Api(app.host.address) as api:
                attached = sessions.attach(api, found.id, lossless=True)
                began.wait()
                code = attached.to_the_end().exit.code
                results.append((bytes(attached.data["stdout"]), code))

        began = threading.Barrier(10)
        threads = [threading.Thread(target=watch, args=(began,)) for _ in range(9)]
        for thread in threads:
            thread.start()
        began.wait()
        driver = sessions.attach(app.api, found.id, lossless=True, role=CONTROLLER, label="driver")
        listed = sessions.look(app.api, found.id).sessions
        assert len(listed) == 10
        assert [each.label for each in listed if each.role == CONTROLLER] == ["driver"]
        driver.type(b"go\n")
        driver.to_the_end()
        for thread in threads:
            thread.join(DEADLINE)
        assert results == [(whole, 0)] * 9
        assert bytes(driver.data["stdout"]) == whole


def test_an_exec_goes_on_when_everybody_leaves_and_is_found_again(app: Box) -> None:
    script = "while read a; do echo $a; done; exit 6"
    with sessions.running(app, "/bin/sh", "-c", script, stdin=True, lossless=True) as found:
        seen, offset = b"", 0
        for number in range(4):
            attached = sessions.attach(
                app.api, found.id, lossless=True, role=CONTROLLER, offsets={"stdout": offset}
            )
            assert attached.started.input_offset == offset
            attached.type(b"round %d\n" % number)
            attached.shows(b"round %d\n" % number, "stdout")
            seen += bytes(attached.data["stdout"])
            offset = attached.offsets["stdout"]
            attached.send(detach={})
            assert attached.to_the_end().reason == sessions.DETACHED
            assert not sessions.look(app.api, found.id).sessions
        assert seen == b"".join(b"round %d\n" % number for number in range(4))
        live = sessions.attach(app.api, found.id, lossless=True, role=CONTROLLER, live_only=True)
        live.send(input_end=True)
        assert live.to_the_end().exit.code == 6
        assert live.data == {}


def test_what_was_typed_is_typed_once_though_the_one_who_did_is_gone(app: Box) -> None:
    with sessions.running(app, "/bin/cat", stdin=True, lossless=True) as found:
        first = sessions.attach(app.api, found.id, lossless=True, role=CONTROLLER)
        first.send(signal=19)
        # As much as pipe and ring hold, and then what waits for them.
        text = b"".join(b"%07d\n" % number for number in range(21_000))
        first.type(text[: 128 * 1024])
        first.until(lambda: first.acked == first.typed)
        first.send(input=text[128 * 1024 : 150 * 1024])
        first.send(role={"role": sessions.VIEWER})
        first.until(lambda: bool(first.roles))
        first.cancel()
        second = sessions.attach(app.api, found.id, lossless=True, role=CONTROLLER)
        # What waited was dropped with its session, and it knows that nobody acknowledged it.
        assert second.started.input_offset == first.acked == 128 * 1024
        for begin in range(128 * 1024, len(text), 32 * 1024):
            second.type(text[begin : begin + 32 * 1024])
        second.send(input_end=True)
        second.send(signal=18)
        assert second.to_the_end().exit.code == 0
        assert bytes(second.data["stdout"]) == text


# Asking things of it


def test_waiting_signals_sizes_and_deleting(app: Box) -> None:
    api = app.api
    script = "trap 'echo usr1' USR1; trap 'stty size; exit 3' TERM; trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done"
    with sessions.running(app, "/bin/sh", "-c", script, tty=True) as found:
        attached = sessions.attach(api, found.id, lossless=True)
        attached.shows(b"up", "terminal")
        wait = exec_pb2.WaitExecRequest(id=found.id, timeout=seconds(0.05))
        assert refused(lambda: api.exec.WaitExec(wait, timeout=DEADLINE)).reason == "WAIT_TIMEOUT"
        api.exec.SignalExec(exec_pb2.SignalExecRequest(id=found.id, signal=10), timeout=DEADLINE)
        attached.shows(b"usr1", "terminal")
        size: Any = {"rows": 50, "columns": 132}
        api.exec.ResizeExec(exec_pb2.ResizeExecRequest(id=found.id, size=size), timeout=DEADLINE)
        attached.shows(b"50 132", "terminal")
        assert attached.sizes == [(50, 132)]
        keep = exec_pb2.DeleteExecRequest(id=found.id)
        assert refused(lambda: api.exec.DeleteExec(keep, timeout=DEADLINE)).reason == "EXEC_RUNNING"
        api.exec.SignalExec(exec_pb2.SignalExecRequest(id=found.id, signal=15), timeout=DEADLINE)
        ended = api.exec.WaitExec(exec_pb2.WaitExecRequest(id=found.id), timeout=DEADLINE).exit
        # It caught the signal and left by itself.
        assert (ended.code, ended.cause) == (3, types_pb2.CAUSE_SELF)
        again = exec_pb2.SignalExecRequest(id=found.id, signal=15)
        assert refused(lambda: api.exec.SignalExec(again, timeout=DEADLINE)).reason == (
            "EXEC_NOT_RUNNING"
        )
        assert attached.to_the_end().exit.code == 3
        api.exec.DeleteExec(keep, timeout=DEADLINE)
        assert refused(lambda: sessions.look(api, found.id)).reason == "EXEC_NOT_FOUND"
    for tty in (False, True):
        victim = sessions.create(app, "/bin/sleep", "100000", tty=tty)
        watcher = sessions.attach(api, victim.id)
        waiting = api.exec.WaitExec.future(exec_pb2.WaitExecRequest(id=victim.id), timeout=DEADLINE)
        sessions.delete(api, victim.id)
        end = watcher.to_the_end()
        assert end.reason in (sessions.STOPPED, sessions.KICKED)
        assert waiting.result().exit.signal == 9
        assert victim.id not in sessions.listed(api)


def test_pages_of_execs(app: Box) -> None:
    made = [sessions.create(app, "/bin/sleep", "100000") for _ in range(7)]
    names = [each.id for each in made]

    def page(token: str = "", size: int = 3) -> tuple[list[str], str]:
        request = exec_pb2.ListExecsRequest(container="app", page_size=size, page_token=token)
        reply = app.api.exec.ListExecs(request, timeout=DEADLINE)
        return [each.id for each in reply.execs], reply.next_page_token

    first, token = page()
    assert first == names[:3]
    # What the page ended with is gone, and something new is there.
    sessions.delete(app.api, names[2])
    names.append(sessions.create(app, "/bin/sleep", "100000").id)
    second, token = page(token)
    assert second == names[3:6]
    third, token = page(token)
    assert (third, token) == (names[6:], "")
    assert page(size=0)[0] == names[:2] + names[3:]
    assert page(size=-1)[0] == names[:2] + names[3:]
    assert refused(lambda: page("x")).reason == "INVALID_PAGE_TOKEN"
    other = exec_pb2.ListExecsRequest(container="nosuch")
    assert not app.api.exec.ListExecs(other, timeout=DEADLINE).execs
    for name in names[:2] + names[3:]:
        sessions.delete(app.api, name)


# Who goes away


@pytest.mark.slow
def test_a_command_is_killed_once_nobody_comes_back(app: Box) -> None:
    kill = exec_pb2.DISCONNECT_POLICY_KILL
    with sessions.running(app, "/bin/sleep", "100000", on_disconnect=kill) as found:
        attached = sessions.attach(app.api, found.id)
        attached.cancel()
        # Somebody is back in time, leaves on purpose, and it goes on.
        sessions.attach(app.api, found.id).cancel()
        back = sessions.attach(app.api, found.id)
        back.send(detach={})
        back.to_the_end()
        with sessions.running(app, "/bin/sleep", "100000") as kept:
            sessions.attach(app.api, kept.id).cancel()
            with sessions.running(app, "/bin/sleep", "100000", on_disconnect=kill) as doomed:
                sessions.attach(app.api, doomed.id).cancel()
                wait = exec_pb2.WaitExecRequest(id=doomed.id)
                ended = app.api.exec.WaitExec(wait, timeout=DEADLINE).exit
                assert (ended.signal, ended.cause) == (9, types_pb2.CAUSE_REQUESTED)
            assert not sessions.look(app.api, kept.id).HasField("exit")
        assert not sessions.look(app.api, found.id).HasField("exit")


def test_an_exec_that_is_to_be_forgotten_is(app: Box) -> None:
    found = sessions.create(
        app, "/bin/sh", "-c", "echo on; read a", stdin=True, delete_on_exit=True
    )
    attached = sessions.attach(app.api, found.id, role=CONTROLLER)
    attached.shows(b"on\n", "stdout")
    attached.send(input_end=True)
    assert attached.to_the_end().exit.code == 1
    until(lambda: found.id not in sessions.listed(app.api), "it is forgotten")


def test_an_exec_that_somebody_means_to_come_back_to_is_kept(app: Box) -> None:
    found = sessions.create(
        app, "/bin/sh", "-c", "echo on; read a", stdin=True, delete_on_exit=True
    )
    attached = sessions.attach(app.api, found.id, role=CONTROLLER)
    attached.shows(b"on\n", "stdout")
    attached.send(detach={})
    attached.to_the_end()
    again = sessions.attach(app.api, found.id, role=CONTROLLER)
    again.send(input_end=True)
    assert again.to_the_end().exit.code == 1
    assert sessions.look(app.api, found.id).exit.code == 1
    sessions.delete(app.api, found.id)
    assert found.id not in sessions.listed(app.api)


def test_an_exec_in_a_frozen_container_is_deleted_and_leaves_nothing(
    shared_host: Host, busybox_root: Path
) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "cold"), "cold") as made:
        made.start("/bin/sleep", "100000")
        found = sessions.create(made, "/bin/sleep", "77777", tty=True)
        shared_host.ctl("freeze", "cold")
        sessions.delete(made.api, found.id)
        assert sessions.listed(made.api, "cold") == {}
        shared_host.ctl("thaw", "cold")
        until(lambda: not _runs(shared_host, "77777"), "it is gone with the frost")
        assert made.sh("echo on") == "on"
    until(lambda: not _journal(shared_host), "nobody waits for its exit to be acknowledged")


def _runs(host: Host, word: str) -> bool:
    return any(word in line for line in host.machine.processes())


def _journal(host: Host) -> list[str]:
    private = host.run_dir / "private"
    return [str(path) for path in private.rglob("*exec-*") if path.is_file()]

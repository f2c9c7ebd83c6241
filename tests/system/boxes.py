"""One container of a test: define it, start it, look at it from inside. Through the API, as any client."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from lxcd.v1 import console_pb2, container_pb2, exec_pb2, types_pb2
from tests.system import roots
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

# Ids of the mapped containers; no user of the test machine has them.
FIRST_ID = 100_000
IDMAP = f"lxc.idmap = u 0 {FIRST_ID} 65536\nlxc.idmap = g 0 {FIRST_ID} 65536\n"
# What every test container of the busybox root may do without: its init needs a console only.
KERNEL_MOUNTS = "lxc.mount.auto = proc:mixed sys:mixed\n"


class Refused(Exception):  # noqa: N818  what happened is the answer of a working daemon
    """The daemon said no: gRPC's code, its own reason, and what it says beside."""

    def __init__(self, error: grpc.RpcError) -> None:
        call: Any = error
        self.code: str = call.code().name
        self.text: str = call.details()
        self.reason = ""
        self.metadata: dict[str, str] = {}
        for key, value in call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status = status_pb2.Status.FromString(value)
                for detail in status.details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info):
                        self.reason, self.metadata = info.reason, dict(info.metadata)
        super().__init__(f"{self.code} {self.reason}: {self.text} {self.metadata}")


class Box:
    """A container that is defined. Its end is the end of the test's `with`."""

    def __init__(self, host: Host, name: str, config: str) -> None:
        self.host = host
        self.name = name
        self.api = host.channel()
        self.directory = host.lxcpath / name
        self._begun = 0
        request = container_pb2.CreateContainerRequest(
            name=name, config_text=config, config_origin="test"
        )
        self._call(lambda: list(self.api.container.CreateContainer(request, timeout=DEADLINE)))

    @staticmethod
    def _call(call: Any) -> Any:
        try:
            return call()
        except grpc.RpcError as error:
            raise Refused(error) from None

    def start(self, *command: str, **options: Any) -> container_pb2.StartContainerResponse:
        """Start it; `Refused` with the step that failed if it does not."""
        request = container_pb2.StartContainerRequest(name=self.name, command=command, **options)
        reply: container_pb2.StartContainerResponse = self._call(
            lambda: self.api.container.StartContainer(request, timeout=DEADLINE)
        )
        self._begun = reply.generation
        return reply

    def run(self, *command: str, **options: Any) -> exec_pb2.RunExecResponse:
        """Run a command in it to its end, however that is."""
        request = exec_pb2.RunExecRequest(container=self.name, command=command, **options)
        reply: exec_pb2.RunExecResponse = self._call(
            lambda: self.api.exec.RunExec(request, timeout=DEADLINE)
        )
        return reply

    def sh(self, script: str) -> str:
        """Output of a shell script inside, which must succeed."""
        done = self.run("/bin/sh", "-c", script)
        assert done.exit.code == 0, f"{script!r} ended with {done.exit}: {done.stderr.decode()}"
        return done.stdout.decode().rstrip("\n")

    def fails(self, script: str) -> str:
        """What a shell script inside complains of, which must fail."""
        done = self.run("/bin/sh", "-c", script)
        assert done.exit.code > 0, f"{script!r} should have failed"
        return done.stderr.decode()

    def info(self) -> container_pb2.Container:
        """What the daemon knows of it."""
        request = container_pb2.GetContainerRequest(name=self.name)
        found: container_pb2.Container = self._call(
            lambda: self.api.container.GetContainer(request, timeout=DEADLINE)
        )
        return found

    def known(self) -> container_pb2.Container:
        """The same of one that runs, once its network is known: that comes a moment after its start, or lxcd's."""
        until(lambda: bool(self.info().network_interfaces), f"the network of {self.name} is known")
        return self.info()

    def wait(self, *states: int, generation: int = 0) -> container_pb2.WaitContainerResponse:
        """Wait for one of the states; without any for the end of the generation, which is the one that `start` began
        last. One that may be over already must be named: of no name is the end of the next, then.
        """
        named = generation or (0 if states else self._begun)
        request = container_pb2.WaitContainerRequest(name=self.name, generation=named)
        request.states.extend(states)  # type: ignore[arg-type]  # the stubs want the enum
        reply: container_pb2.WaitContainerResponse = self._call(
            lambda: self.api.container.WaitContainer(request, timeout=DEADLINE)
        )
        assert reply.reached
        return reply

    def stop(self, **options: Any) -> container_pb2.StopContainerResponse:
        """Stop it."""
        request = container_pb2.StopContainerRequest(name=self.name, **options)
        reply: container_pb2.StopContainerResponse = self._call(
            lambda: self.api.container.StopContainer(request, timeout=DEADLINE * 1.5)
        )
        return reply

    def restart(self, **options: Any) -> container_pb2.RestartContainerResponse:
        """Restart it."""
        request = container_pb2.RestartContainerRequest(name=self.name, **options)
        reply: container_pb2.RestartContainerResponse = self._call(
            lambda: self.api.container.RestartContainer(request, timeout=DEADLINE * 1.5)
        )
        return reply

    def delete(self, *, force: bool = False) -> container_pb2.DeleteContainerResponse:
        """Delete it."""
        request = container_pb2.DeleteContainerRequest(name=self.name, force=force)
        reply: container_pb2.DeleteContainerResponse = self._call(
            lambda: self.api.container.DeleteContainer(request, timeout=DEADLINE)
        )
        return reply

    def log(self, stream: str = "console") -> bytes:
        """All that it wrote to a stream in its present or last life, as far as it is kept."""
        request = console_pb2.ReadConsoleLogRequest(name=self.name, stream=stream)
        pieces: list[console_pb2.ReadConsoleLogResponse] = self._call(
            lambda: list(self.api.console.ReadConsoleLog(request, timeout=DEADLINE))
        )
        output: bytes = b"".join(piece.data for piece in pieces)
        return output

    def shows(self, *texts: str, stream: str = "console") -> bytes:
        """Follow a stream until it has shown every one of `texts`; what it showed by then."""
        request = console_pb2.ReadConsoleLogRequest(name=self.name, stream=stream, follow=True)
        seen: bytes = b""
        call = self.api.console.ReadConsoleLog(request, timeout=DEADLINE)
        try:
            for piece in call:
                seen += piece.data
                if all(text.encode() in seen for text in texts):
                    return seen
        except grpc.RpcError as error:
            message = f"{stream} never showed {texts}, but:\n{seen.decode(errors='replace')}"
            raise AssertionError(message) from Refused(error)
        finally:
            call.cancel()
        message = f"{stream} ended and had not shown {texts}, but:\n{seen.decode(errors='replace')}"
        raise AssertionError(message)


@contextmanager
def box(host: Host, config: str, name: str = "box", *command: str) -> Iterator[Box]:
    """A container of this configuration, running; killed and deleted at the end."""
    with defined(host, config, name) as made:
        made.start(*command, system=bool(command))
        yield made


@contextmanager
def defined(host: Host, config: str, name: str = "box") -> Iterator[Box]:
    """A container of this configuration, not yet started; killed and deleted at the end."""
    made = Box(host, name, config)
    try:
        yield made
    finally:
        try:
            made.delete(force=True)
        except Refused as refused:
            if refused.reason != "CONTAINER_NOT_FOUND":
                raise
        made.api.close()


def over(host: Host, root: Path, name: str = "box") -> str:
    """The config line of a root file system whose changes go to the test's own directory."""
    return f"lxc.rootfs.path = {roots.overlay(root, host.root / 'upper' / name / 'delta')}\n"


def info(host: Host, name: str) -> dict[str, Any]:
    """`lxcctl info` for programs."""
    found: dict[str, Any] = json.loads(host.ctl("--format", "json", "info", name).stdout)
    return found


def busybox_up(made: Box) -> None:
    """Wait until busybox's init handles signals: its console shell comes after that."""
    made.shows("busybox is up", "busybox#")


def systemd_is_up(made: Box, may_fail: Collection[bytes] = ()) -> None:
    """Wait until systemd has booted; no unit but these has failed."""
    said = b""

    def answers() -> bool:
        # Nobody answers before systemd has opened its socket; then --wait does the waiting.
        nonlocal said
        said = made.run("systemctl", "is-system-running", "--wait").stdout.strip()
        return said not in (b"", b"offline")

    until(answers, "systemd answers")
    failed = made.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
    assert {line.split()[0] for line in failed.splitlines()} <= {*may_fail}
    assert said == (b"degraded" if failed else b"running")


def generation_runs(made: Box, generation: int) -> None:
    """Wait until a later life of it is up."""

    def there() -> bool:
        found = made.info()
        return found.generation >= generation and found.state == types_pb2.STATE_RUNNING

    until(there, f"generation {generation} of {made.name} runs")


def tree_hash(top: Path) -> str:
    """Everything below a directory as one number: names, kinds, owners, modes, links, contents."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            facts = [os.path.relpath(path, top), found.st_mode, found.st_uid, found.st_gid]
            if stat.S_ISLNK(found.st_mode):
                facts.append(os.readlink(path))
            elif stat.S_ISREG(found.st_mode):
                facts.append(hashlib.sha256(Path(path).read_bytes()).hexdigest())
            elif not stat.S_ISDIR(found.st_mode):
                facts.append(found.st_rdev)
            digest.update(repr(facts).encode())
    return digest.hexdigest()

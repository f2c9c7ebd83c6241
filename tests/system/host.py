"""lxcd on a machine of its own: every root below one directory, nothing shared with the lxcd of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import grpc
from grpc_health.v1 import health_pb2_grpc

from lxcd.v1 import (
    console_pb2_grpc,
    container_pb2_grpc,
    event_pb2_grpc,
    exec_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    network_pb2_grpc,
    stats_pb2_grpc,
)
from tests.system import ledger
from tests.system.machine import DEADLINE, Machine, until

CHECKOUT = Path(__file__).resolve().parents[2]

# A daemon that was just started again is there at once, not after gRPC's usual second of back-off.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    # How long one attempt may take, by its strange name: on a busy machine more than a moment.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_CONNECTED = "03"  # in /proc/net/unix: SS_CONNECTED


class Api:
    """A synchronous channel to lxcd with a stub for every service."""

    # The generated stubs are typed for grpc.aio alone; they work with either kind of channel.
    container: Any
    exec: Any
    console: Any
    event: Any
    host: Any
    network: Any
    stats: Any
    health: Any

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        channel = cast("Any", self.channel)
        self.container = container_pb2_grpc.ContainerServiceStub(channel)
        self.exec = exec_pb2_grpc.ExecServiceStub(channel)
        self.console = console_pb2_grpc.ConsoleServiceStub(channel)
        self.event = event_pb2_grpc.EventServiceStub(channel)
        self.host = host_pb2_grpc.HostServiceStub(channel)
        self.network = network_pb2_grpc.NetworkServiceStub(channel)
        self.stats = stats_pb2_grpc.StatsServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def close(self) -> None:
        """Close the channel; calls that are under way are cancelled."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Host:
    """A machine with lxcd on it. `start_daemon` first; `close` at the end stops all and tells what was left over."""

    def __init__(self, trees: Sequence[str] = ()) -> None:
        """Of the host's cgroup trees it has `trees`, as `unified`, or all."""
        # Not pytest's tmp_path: mapped users must get through to a root file system, and socket paths are short.
        self.root = Path(tempfile.mkdtemp(prefix=ledger.OWN_PREFIX))
        self.root.chmod(0o755)
        self.lxcpath = self.root / "lxcpath"
        self.run_dir = self.root / "run"
        self.state_dir = self.root / "state"
        self.config = self.root / "lxcd.toml"
        self.temporary = self.root / "tmp"
        self.log = self.root / "lxcd.log"
        for directory in (self.lxcpath, self.run_dir, self.state_dir, self.temporary):
            directory.mkdir()
        # 0711 and not what mkdir makes of the umask: that is what lxcd's own runtime directory has.
        self.run_dir.chmod(0o711)
        self.config.touch()
        self.log.touch()
        self.socket = self.run_dir / "lxcd.sock"
        self.address = f"unix:{self.socket}"
        # Of lxcd and of lxcctl; a test may change it before it starts them.
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.root),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(CHECKOUT),
            "LXCD_ADDRESS": self.address,
            ledger.MARK: os.environ[ledger.MARK],
        }
        self.daemon: int | None = None
        self.module = "lxcd"  # a test may start one with more doors
        self._final_log = ""
        self._apis: list[Api] = []
        self.machine = Machine(self.root, trees)

    # lxcd

    @property
    def roots(self) -> list[str]:
        """The flags which tell lxcd to live below `root`."""
        return [
            *("--lxcpath", str(self.lxcpath)),
            *("--runtime-dir", str(self.run_dir)),
            *("--state-dir", str(self.state_dir)),
            *("--config", str(self.config)),
        ]

    def start_daemon(self, *flags: str) -> int:
        """Start lxcd, also a second time on what an earlier one left; its pid, once the socket accepts."""
        assert self.daemon is None, "lxcd runs already"
        argv = [sys.executable, "-m", self.module, *self.roots, *flags]
        self.daemon = pid = self.machine.spawn(argv, self.environment, self.log)

        def answers() -> bool:
            status = self.machine.poll(pid)
            if status is not None:
                self.daemon = None
                message = f"lxcd ended with {status} instead of starting:\n{self.log_text()}"
                raise AssertionError(message)
            return self._accepts()

        until(answers, f"lxcd accepts on {self.socket}")
        return pid

    def stop_daemon(self) -> int:
        """SIGTERM to lxcd alone; its exit status."""
        return self._end_daemon(signal.SIGTERM)

    def kill_daemon(self) -> None:
        """SIGKILL to lxcd alone."""
        self._end_daemon(signal.SIGKILL)

    @property
    def keeper_pid(self) -> int:
        """The pid of the keeper, as lxcd reports it."""
        with self.channel() as api:
            reply = api.host.GetHost(host_pb2.GetHostRequest(), timeout=DEADLINE)
            return int(reply.keeper_pid)

    def shutdown(self) -> None:
        """`lxcd shutdown`: containers, lxcd and its keeper end. Starts lxcd first if it is not there."""
        if self.daemon is None:
            self.start_daemon()
        assert self.daemon is not None
        argv = [sys.executable, "-m", "lxcd", "--runtime-dir", str(self.run_dir), "shutdown"]
        done = subprocess.run(
            argv,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, (
            f"lxcd shutdown ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
        self.machine.wait(self.daemon)
        self.daemon = None

    # Talking to it

    def ctl_argv(self, *arguments: str) -> list[str]:
        """The command line of lxcctl, for a test which runs it by itself: on a terminal, say. Uses `environment`."""
        return [sys.executable, "-m", "lxcctl", *arguments]

    def ctl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002  subprocess's word
        check: bool = True,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run lxcctl, off any terminal; `env` adds to its environment. With `check` it must exit with 0."""
        data = None if input is None else input.encode()
        done = self.ctl_bytes(*arguments, input=data, check=check, env=env)
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def ctl_bytes(
        self,
        *arguments: str,
        input: bytes | None = None,  # noqa: A002  subprocess's word
        check: bool = True,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """`ctl` with output as it comes."""
        done = subprocess.run(
            self.ctl_argv(*arguments),
            env={**self.environment, **(env or {})},
            input=input or b"",
            capture_output=True,
            check=False,
            timeout=DEADLINE,
        )
        if check and done.returncode != 0:
            words = " ".join(arguments)
            output = f"{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}"
            message = f"lxcctl {words} ended with {done.returncode}:\n{output}"
            raise AssertionError(message)
        return done

    def channel(self) -> Api:
        """A new channel to lxcd with stubs. Closed by the caller, or with the host."""
        api = Api(self.address)
        self._apis.append(api)
        return api

    def connections(self) -> set[str]:
        """Those of tests and of lxcctl that lxcd has accepted and not closed yet, by inode."""
        # The kernel counts an accepted socket among those of the network that it was called from.
        lines = Path("/proc/self/net/unix").read_text().splitlines()
        rows = [line.split() for line in lines if str(self.socket) in line]
        return {row[6] for row in rows if row[5] == _CONNECTED}

    def log_text(self) -> str:
        """What lxcd wrote to stdout and stderr so far; after `close` all it ever wrote."""
        return self.log.read_text(errors="replace") if self.log.exists() else self._final_log

    # The end

    def close(self) -> None:
        """Shut everything down and remove it. AssertionError with all that went wrong on the way or was left over."""
        problems: list[str] = []
        for api in self._apis:
            api.close()
        try:
            # What an lxcd that was killed had prepared is swept by the next one.
            slots = self.run_dir / "private/slots"
            if self.daemon is not None or self.machine.processes() or slots.exists():
                self.shutdown()
            until(lambda: not self.machine.processes(), "nothing runs on the machine any more", 30)
        except (AssertionError, subprocess.SubprocessError) as error:
            problems.append(str(error))
            problems += [f"still running: {line}" for line in self.machine.processes()]
        else:
            problems += self._traces()
            problems += [f"left in TMPDIR: {name}" for name in os.listdir(self.temporary)]
        self.machine.halt()
        self._final_log = self.log_text()
        inside = [
            mount for mount in ledger.mounts(os.getpid()) if mount.startswith(f"{self.root}/")
        ]
        if inside:
            # Removing the tree would go through the mounts into what is not ours.
            problems += [f"mounted on this machine: {mount}" for mount in inside]
        else:
            shutil.rmtree(self.root)
        assert not problems, "\n  ".join(["the host did not end well:", *problems])

    def _traces(self) -> list[str]:
        """Of the machine, once all has ended. Devices go some time after the last process of their network."""
        left: list[str] = []

        def none() -> bool:
            left[:] = self.machine.traces()
            return not left

        with suppress(AssertionError):
            until(none, "nothing is left on the machine", 30)
        return left

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

    def _end_daemon(self, number: int) -> int:
        assert self.daemon is not None, "lxcd does not run"
        pid, self.daemon = self.daemon, None
        self.machine.kill(pid, number)
        return self.machine.wait(pid)

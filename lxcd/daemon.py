"""The composition root: builds every object once, wires them, runs, ends. No logic."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING

from lxcd import __version__, errors
from lxcd.cgroup import tree
from lxcd.kernel import process
from lxcd.paths import Paths
from lxcd.rpc.consoles import Consoles
from lxcd.rpc.containers import Containers
from lxcd.rpc.events import Events as EventServicer
from lxcd.rpc.execs import Execs
from lxcd.rpc.hosts import Hosts
from lxcd.rpc.networks import Networks as NetworkServicer
from lxcd.rpc.replay import Replays
from lxcd.rpc.server import Server, refuse_served
from lxcd.rpc.side import Side
from lxcd.rpc.stats import Stats
from lxcd.supervisor import execs, host, launch, service, shutdown
from lxcd.supervisor.addresses import Addresses
from lxcd.supervisor.alarms import Alarms
from lxcd.supervisor.errands import Errands
from lxcd.supervisor.events import Events
from lxcd.supervisor.faults import Faults
from lxcd.supervisor.house import House
from lxcd.supervisor.keeper import Keeper
from lxcd.supervisor.networks import Networks
from lxcd.supervisor.pool import Pool
from lxcd.supervisor.records import Records
from lxcd.supervisor.recovery import Recovery
from lxcd.supervisor.registry import Registry
from lxcd.supervisor.statistics import Statistics
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.config.daemon import Settings
    from lxcd.rpc.scraping import Scraping

_log = logging.getLogger(__name__)
_GRACE_SECONDS = 2.0
_LAST_SECONDS = 45.0
_OOM_SCORE = -900
_COLLECTED_OBJECTS = 20_000


async def run(settings: Settings, *, leave_at_once: bool = False) -> None:
    """Serve until SIGTERM or SIGINT (containers go on), or until a Drain that leaves; with
    `leave_at_once` that is the first thing done.
    """
    paths = Paths(settings.lxcpath, settings.runtime_dir, settings.state_dir)
    os.umask(0o022)
    host.require()
    for missing in host.missing_capabilities():
        _log.warning("%s is missing: what needs it is done without, or fails by name", missing)
    _make_directories(paths)
    with contextlib.closing(_Lock(paths.lock)) as lock:
        _prepare_process()
        keeper = Keeper(paths, launch.own_build(), managed=settings.keeper == "service")
        events = _events(paths.events)
        try:
            refuse_served(settings.listen or (f"unix:{paths.socket}",))
            await keeper.connect()
            late = partial(_end_here, keeper, lock)
            await _serve(settings, paths, keeper, events, late, leave_at_once=leave_at_once)
        except* errors.LxcdError as group:
            # The first is the cause; a TaskGroup had it wrapped.
            raise _first(group) from None
        finally:
            keeper.close()
            events.close()


async def _serve(
    settings: Settings,
    paths: Paths,
    keeper: Keeper,
    events: Events,
    late: Callable[[], None],
    *,
    leave_at_once: bool,
) -> None:
    """`late` is called if what is under way does not end when lxcd leaves."""
    loop = asyncio.get_running_loop()
    leave = asyncio.Event()
    trees = await in_thread(tree.find_trees)
    pool = Pool(paths.slots, settings.prepared_max)
    async with asyncio.TaskGroup() as tasks:
        pool.house = house = House(
            paths=paths,
            keeper=keeper,
            pool=pool,
            faults=Faults(os.environ.get("LXCD_FAULTS", ""), keeper),
            records=Records(paths.records),
            events=events,
            trees=trees,
            host=host.facts(trees),
            tasks=tasks,
            errands=Errands(),
        )
        networks = _watching(house, settings)
        registry = Registry(house)
        house.init_of = registry.init_of

        async def drain(leaving: bool) -> tuple[list[str], list[str]]:  # noqa: FBT001
            await server.not_serving()
            seconds = settings.shutdown_timeout_seconds
            result = await shutdown.drain(house, registry, seconds, leaving=leaving)
            if leaving:
                # Behind the reply.
                loop.call_later(0.1, leave.set)
            return result

        replays = Replays(house.begin)
        side = Side(_side_socket(settings, paths))
        known = execs.Execs(house)
        statistics = Statistics(house)
        server = Server(
            Containers(house, registry, replays, side),
            Execs(house, registry, known, replays, side),
            Consoles(house, registry, replays),
            EventServicer(house),
            Hosts(house, registry, replays, drain, settings.default_config),
            NetworkServicer(house, registry, replays),
            Stats(registry, statistics),
        )
        keeper.on_lost = lambda why: _lost(house, why)
        keeper.on_found = lambda: _found(house)
        await in_thread(pool.recover)
        await Recovery(house, registry).run(known.recover() | networks.adopt())
        house.begin(networks.recover())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave.set)
        # First, so that lxcd is there for nobody if it fails.
        scraping = await _scraping(settings, registry, statistics, events)
        side.listen()
        await server.listen(settings.listen or (f"unix:{paths.socket}",))
        _tell_start(events, paths)
        staying = tasks.create_task(keeper.stay())
        _collect_rarely()
        service.tell("READY=1")
        if leave_at_once:
            await drain(True)
        await leave.wait()
        keeper.part()
        await _stop_serving(server, side, scraping)
        staying.cancel()
        house.end()
        given_up = loop.call_later(_LAST_SECONDS, late)
        house.let_go()
        known.close()
        networks.close()
        registry.close()
        await pool.close()
    await pool.sweep()
    given_up.cancel()


def _collect_rarely() -> None:
    """What is there by now stays: a full collection, which may come at any moment, need not look at
    it again (12 ms).
    """
    gc.collect()
    gc.freeze()
    # Little of what a call makes goes round in circles: it is looked for in tens of calls' at once.
    # By default that is done some five times in a start, and takes a twentieth of it.
    gc.set_threshold(_COLLECTED_OBJECTS)


def _end_here(keeper: Keeper, lock: _Lock) -> None:
    """A thread waits for a file system that does not answer, or a child for a device. The next lxcd
    goes on with what this one has written down, as after a crash.
    """
    _log.error("what is under way has not ended in %g s: left to the next lxcd", _LAST_SECONDS)
    # A thread that hears no signal keeps all that is open.
    keeper.close()
    lock.close()
    logging.shutdown()
    os._exit(1)


def _watching(house: House, settings: Settings) -> Networks:
    """Have it know what happens to containers by itself."""
    house.networks = networks = Networks(house, settings.lxc_net)
    house.addresses = Addresses(house.begin, house.lull)
    house.addresses.on_change.append(networks.follow)
    house.alarms = Alarms(house.trees, house.begin, house.lull)
    return networks


async def _scraping(
    settings: Settings, registry: Registry, statistics: Statistics, events: Events
) -> Scraping | None:
    if not settings.metrics_listen:
        return None
    from lxcd.rpc import scraping  # noqa: PLC0415 - who does not want it does not wait for it

    found = scraping.of_all(registry, statistics, events)
    await found.listen(settings.metrics_listen)
    return found


def _tell_start(events: Events, paths: Paths) -> None:
    events.add("daemon.started", message=f"lxcd {__version__}, pid {os.getpid()}")
    _log.info("lxcd %s serves %s", __version__, paths.socket)


async def _stop_serving(server: Server, side: Side, scraping: Scraping | None) -> None:
    service.tell("STOPPING=1")
    side.close()
    if scraping is not None:
        await scraping.close()
    await server.stop(_GRACE_SECONDS)


def _side_socket(settings: Settings, paths: Paths) -> str:
    """Beside the first socket of the API, where clients look for it."""
    if not settings.listen:
        return paths.side_socket
    own = settings.listen[0].removeprefix("unix:")
    return os.path.join(os.path.dirname(own), os.path.basename(paths.side_socket))


def _lost(house: House, why: str) -> None:
    """Containers go on; what was being prepared does not."""
    house.events.add("daemon.keeper_lost", message=why)
    house.pool.clear()


def _found(house: House) -> None:
    house.events.add("daemon.keeper_found", message=f"pid {house.keeper.pid}")
    house.pool.refill()


def _first(group: BaseExceptionGroup[errors.LxcdError]) -> errors.LxcdError:
    error = group.exceptions[0]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _make_directories(paths: Paths) -> None:
    """The runtime directory 0711, its private part and the state directory 0700 (I13)."""
    try:
        for path, mode in (
            (paths.runtime_dir, 0o711),
            (paths.private, 0o700),
            (paths.records, 0o700),
            (paths.execs, 0o700),
            (paths.logs, 0o700),
            (paths.namespaces, 0o700),
            (paths.network_records, 0o700),
            (paths.network_files, 0o755),
            (paths.state_dir, 0o700),
            (paths.networks, 0o700),
        ):
            os.makedirs(path, mode=mode, exist_ok=True)
        for path, mode in ((paths.runtime_dir, 0o711), (paths.private, 0o700)):
            os.chmod(path, mode)
    except OSError as error:
        raise errors.from_oserror(error, "making lxcd's directories") from None


def _events(path: str) -> Events:
    try:
        return Events(path)
    except OSError as error:
        raise errors.from_oserror(error, f"writing {path}") from None


class _Lock:
    """One lxcd for each runtime directory. The kernel lets go of it when the process ends."""

    def __init__(self, path: str) -> None:
        try:
            self._take(path)
        except OSError as error:
            raise errors.from_oserror(error, f"writing {path}") from None

    def _take(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 20, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise errors.AlreadyExists(
                f"another lxcd (pid {pid}) has this runtime directory: {os.path.dirname(path)}",
                "ALREADY_RUNNING",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Let go."""
        os.close(self._fd)


def _prepare_process() -> None:
    process.prctl(process.PR_SET_DUMPABLE, 0)
    # The last but the keeper to be killed for want of memory; without CAP_SYS_RESOURCE, which was
    # said to be missing, like everybody.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) > _OOM_SCORE:
            file.write(str(_OOM_SCORE).encode())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

"""The asyncio side of the keeper's protocol: finds the keeper or starts one, and another when it is
lost.

Holds a copy of every pidfd, terminal and ring that the keeper holds, and hands them to the next
one. Its word counts: it reaps the children and knows the time, also of those that end before it
comes. While none can be had the kernel's word does (`unkept.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

from lxcd import errors
from lxcd.console.session import Reason
from lxcd.keeper import protocol
from lxcd.keeper.ring import Ring
from lxcd.kernel import libc
from lxcd.kernel.fd import Fd
from lxcd.supervisor import launch
from lxcd.supervisor.held import Held
from lxcd.supervisor.joining import Joining
from lxcd.supervisor.line import Line
from lxcd.supervisor.unkept import Unkept

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.console.stream import Stream
    from lxcd.paths import Paths

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 10.0
_CONNECTS = 3
_Result = TypeVar("_Result")


def gone() -> errors.Unavailable:
    """What is raised where a keeper is needed and none is there."""
    return errors.Unavailable("the keeper is gone; a new one is on its way", "KEEPER_LOST")


def _silent() -> errors.Unavailable:
    return errors.Unavailable(
        f"what listens at the keeper's socket did not answer in {_ANSWER_SECONDS:g} s",
        "KEEPER_LOST",
    )


class _HungUpError(Exception):
    """What listens at the keeper's socket went away, or said what no keeper says, before it could
    be made use of.
    """


class Keeper:
    """The one keeper of this runtime directory. `losses` counts how often it was lost."""

    def __init__(self, paths: Paths, build: str, *, managed: bool = False) -> None:
        self._joining = Joining(paths, build, managed=managed)
        self._build = build
        self._line: Line | None = None
        self._poke = Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._prepared: dict[str, asyncio.Future[Held]] = {}
        self._synced: asyncio.Future[None] | None = None
        self._upgraded: asyncio.Future[str] | None = None
        self._told: set[str] = set()  # children that the present keeper has told of
        self._forgotten: set[str] = set()  # while there was no keeper
        self._awaited: set[Stream] = set()  # those that somebody wants to see grow
        self._foreign = False  # it speaks another version
        self._open = False  # it has told what it holds: requests may come
        self._leaving = False
        self._lost = asyncio.Event()
        self._settled = asyncio.Event()  # there is one, or none could be had
        self._unkept = Unkept(self._end)
        self.children: dict[str, Held] = {}
        self._heard_pid = 0
        self.pid = 0  # of the last one that took requests
        self.build = ""
        self.losses = 0
        self.on_lost: Callable[[str], None] | None = None
        self.on_found: Callable[[], None] | None = None

    # ---- coming together

    async def connect(self) -> None:
        """Find the keeper of this runtime directory or start one, bring it up to date, learn what
        it holds. Raises Unavailable.
        """
        self._joining.forget()
        for tries in range(_CONNECTS, 0, -1):
            try:
                await self._connect()
            except _HungUpError as error:
                # It may have been about to end, or ended and not yet let go of its socket.
                if tries == 1:
                    raise self._joining.hung_up(error) from None
            except BaseException:
                self._hang_up("connecting has failed")
                raise
            else:
                self._joining.forget()
                return

    async def stay(self) -> None:
        """For ever: get another keeper when this one is lost, and hand it what it left."""
        pause = 0.0
        while True:
            await self._lost.wait()
            if self._leaving:
                return
            try:
                await self.connect()
            except (errors.LxcdError, OSError) as error:
                self._unkept.watch(list(self.children.values()))
                self._settled.set()
                _log.error("no keeper: %s; the next try is in %.1f s", error, pause)
                await asyncio.sleep(pause)
                pause = min(10.0, pause * 2 + 0.1)
                continue
            pause = 0.0
            if self.on_found is not None:
                self.on_found()

    async def _connect(self) -> None:
        while True:
            connection = await self._joining.reach()
            loop = asyncio.get_running_loop()
            self._lost.clear()
            self._foreign = False
            self._told.clear()
            self._synced = loop.create_future()
            self._line = Line(connection, self._hear, self._hang_up)
            loop.add_reader(self._poke.fileno(), self._poked)
            self._say(protocol.Hello(protocol.VERSION, self._build), [self._poke.fileno()])
            try:
                # It never blocks for anybody: what is silent for so long is no keeper.
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._synced
            except TimeoutError:
                raise _silent() from None
            if launch.newer(self._build, self.build):
                await self._upgrade()
            if not self._foreign:
                break
            # It has become what we speak with: from the start.
            self._hang_up("upgraded to another version")
        try:
            self._hand_back()
        except errors.Unavailable:
            raise _HungUpError("it went away while it was told of children") from None

    async def _upgrade(self) -> None:
        """Have the keeper exec our version of it. If that does not work the old one goes on."""
        upgraded = self._upgraded = asyncio.get_running_loop().create_future()
        try:
            await self._joining.have_candidate(
                lambda end: self._say(protocol.Upgrade(), [end]), upgraded
            )
            async with asyncio.timeout(_ANSWER_SECONDS):
                why = await upgraded
        except TimeoutError:
            # It has seen the candidate's end, unless it is the new image already and hangs itself.
            raise _silent() from None
        except OSError as error:
            why = str(error)
        finally:
            self._upgraded = None
        if why:
            _log.error(
                "the keeper %s could not be upgraded to %s: %s", self.build, self._build, why
            )
            if self._foreign:
                raise errors.Unavailable(
                    f"the keeper is {self.build} and could not be upgraded: {why}", "KEEPER_VERSION"
                )
        else:
            _log.info("the keeper is %s now", self._build)
            self.build = self._build

    def _hand_back(self) -> None:
        """Give the keeper what an earlier one held and it does not, and tell it what could not be
        told meanwhile.
        """
        self._open, self.pid = True, self._heard_pid
        self._settled.set()
        for id_ in self._forgotten:
            self._send(protocol.Forget(id_))
        self._forgotten.clear()
        for child in list(self.children.values()):
            self._unkept.unwatch(child)
            self._adopt(child)
            if child.acknowledged:
                self.acknowledge(child)
            for stream in child.streams.values():
                if stream.ring is not None and stream.ring.hold:
                    self.drained(child, stream)

    def adopt(self, child: Held) -> None:
        """Have the keeper look after a child that an earlier one has forked; the next one, if there
        is none now.
        """
        self.children[child.id] = child
        with contextlib.suppress(errors.Unavailable):
            self._adopt(child)

    def _adopt(self, child: Held) -> None:
        how = child.exited
        if how is None and child.pidfd.closed:
            return
        streams = child.open_streams()
        if child.id not in self._told:
            fds = [child.pidfd.fileno()] if how is None else []
            self._send(child.adoption(len(streams)), fds)
        for adopted, fds in streams:
            self._send(adopted, fds)

    # ---- asking

    async def there(self) -> None:
        """Wait until there is a keeper, if the next one is on its way. Raises Unavailable when
        there is none for too long, and at once while none can be had.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._settled.wait()
        if not self._open:
            raise gone()

    async def prepare(
        self, id_: str, kind: str, flags: int, channel: int, procs: list[int]
    ) -> Held:
        """Have a child forked that waits for its Spec on `channel`; see protocol.Prepare."""
        future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._prepared[id_] = future
        try:
            self._send(protocol.Prepare(id_, kind, flags, len(procs)), [channel, *procs])
            return await future
        finally:
            self._prepared.pop(id_, None)

    async def known(self, child: Held, *streams: str) -> bool:
        """Wait until the process that it goes on as, and its streams, are held here, or never will
        be: it has ended, or its keeper was lost. What is not held cannot be handed to the next.
        """

        def held() -> bool:
            return child.forked and all(name in child.streams for name in streams)

        await child.until(lambda: held() or child.exited is not None or self.lost(child))
        return held()

    def lost(self, child: Held) -> bool:
        """Whether the keeper that has forked it is no more."""
        return child.under != self.losses

    # These are made up for with the next keeper if there is none now.

    def drained(self, child: Held, stream: Stream) -> None:
        """A held ring has room again."""
        with contextlib.suppress(errors.Unavailable):
            self._send(protocol.Drained(child.id, stream.name))

    def take_input(self, child: Held, stream: Stream, ring: Ring) -> None:
        """What is put into this ring from now on is to be written to the stream."""
        with contextlib.suppress(errors.Unavailable):
            self._send(protocol.TakeInput(child.id, stream.name), [ring.memfd])

    def feed(self, child: Held, stream: Stream) -> None:
        """There is more in its input ring, or its end."""
        with contextlib.suppress(errors.Unavailable):
            self._send(protocol.Feed(child.id, stream.name))

    def acknowledge(self, child: Held) -> None:
        """Its exit has been taken note of, durably."""
        child.acknowledged = True
        with contextlib.suppress(errors.Unavailable):
            self._send(protocol.Acknowledge(child.id))

    def forget(self, child: Held) -> None:
        """Nobody asks for its output any more; for a child that has ended."""
        self._drop(child)
        try:
            self._send(protocol.Forget(child.id))
        except errors.Unavailable:
            self._forgotten.add(child.id)

    def leave(self) -> None:
        """Ask the keeper to end with its last child. It is not replaced then."""
        self._leaving = True
        with contextlib.suppress(errors.Unavailable):
            self._send(protocol.Leave())

    def _send(self, request: protocol.Request, fds: list[int] | None = None) -> None:
        """Send, if there is a keeper that has come as far as to take requests."""
        try:
            if self._open:
                self._say(request, fds)
                return
        except _HungUpError:
            pass
        raise gone()

    def _say(self, request: protocol.Request, fds: list[int] | None = None) -> None:
        """Send, or queue with copies of the descriptors. Raises _HungUpError."""
        if self._line is None:
            raise _HungUpError("it is gone")
        try:
            self._line.send(protocol.encode(request), fds or [])
        except OSError as error:
            self._hang_up(str(error))
            raise _HungUpError(str(error)) from None

    # ---- listening

    def _hear(self, data: bytes, fds: list[Fd]) -> None:
        try:
            self._take(protocol.decode_answer(data), fds)
        except (protocol.ProtocolError, IndexError, ValueError) as error:
            if not self._foreign:
                self._hang_up(str(error))
        except errors.Unavailable as error:
            _fail(self._synced, error)
            self._hang_up(error.text)

    def _take(self, answer: protocol.Answer, fds: list[Fd]) -> None:
        """One answer; its descriptors are closed unless somebody keeps them."""
        match answer:
            case protocol.Welcome():
                self._welcome(answer)
            case protocol.Synced():
                _settle(self._synced, None)
            case protocol.Upgraded():
                _settle(self._upgraded, "")
            case protocol.NotUpgraded():
                _settle(self._upgraded, answer.why)
            case _ if self._foreign:
                # Told again in our own words, once it is upgraded.
                return
            case protocol.Child():
                self._add(answer, fds)
            case protocol.Refused():
                _fail(self._prepared.get(answer.id), libc.oserror(answer.errno, answer.syscall))
            case protocol.Exited():
                self._exited(answer)
            case _ if answer.id in self.children:
                self._take_of(self.children[answer.id], answer, fds)
            case _:
                return

    def _welcome(self, answer: protocol.Welcome) -> None:
        self._heard_pid, self.build = answer.pid, answer.build
        self._foreign = answer.version != protocol.VERSION
        if self._foreign and not launch.newer(self._build, answer.build):
            raise errors.Unavailable(
                f"the keeper is {answer.build}, which lxcd {self._build} cannot talk to: start the"
                " lxcd that it belongs to",
                "KEEPER_VERSION",
            )

    def _take_of(
        self,
        child: Held,
        answer: protocol.Forked
        | protocol.Streams
        | protocol.RingMade
        | protocol.InputMade
        | protocol.Closed,
        fds: list[Fd],
    ) -> None:
        match answer:
            case protocol.Forked():
                self._unkept.unwatch(child)
                child.pidfd.close()
                child.pid, child.pidfd, child.forked = answer.pid, fds[0], True
                child.wake()
            case protocol.Streams():
                child.take_streams(dict(zip(answer.names, fds, strict=True)))
            case protocol.RingMade():
                stream = child.stream(answer.stream)
                if stream.ring is None:
                    stream.ring = Ring(fds[0].take())
                    for port in child.ports.values():
                        if stream in port.outputs:
                            port.begun(stream)
                stream.wake()
            case protocol.InputMade():
                stream = child.stream(answer.stream)
                if stream.input is None:
                    stream.input = Ring(fds[0].take())
            case protocol.Closed():
                child.stream(answer.stream).end()

    def _add(self, answer: protocol.Child, fds: list[Fd]) -> None:
        self._told.add(answer.id)
        child = self.children.get(answer.id)
        if child is not None or answer.id in self._forgotten:
            # Of an earlier keeper, and known to this one too: its service manager kept it.
            return
        child = Held(answer.id, answer.kind, answer.pid, fds[0] if fds else Fd(-1))
        child.awaited = self._awaited
        child.under = self.losses
        self.children[answer.id] = child
        future = self._prepared.get(answer.id)
        if future is not None and not future.done():
            future.set_result(child)
        elif self._synced is not None and self._synced.done():
            # Whoever asked for it has given up: its channel is closed, so it ends by itself.
            child.on_exit = self.forget

    def _exited(self, answer: protocol.Exited) -> None:
        child = self.children.get(answer.id)
        if answer.id in self._forgotten:
            return
        if child is None:
            # Only its exit is left of it, from before a new keeper.
            child = Held(answer.id, "init", answer.pid, Fd(-1))
            self.children[answer.id] = child
        if child.exited is None:
            self._end(child, answer)
        elif child.acknowledged:
            # To a keeper that is gone.
            self.acknowledge(child)

    def _end(self, child: Held, how: protocol.Exited) -> None:
        self._unkept.unwatch(child)
        child.end(how)
        if child.on_exit is not None:
            child.on_exit(child)

    def _poked(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._poke.fileno())
        for stream in list(self._awaited):
            stream.wake()

    def _drop(self, child: Held) -> None:
        self._unkept.unwatch(child)
        self.children.pop(child.id, None)
        child.close()

    # ---- parting

    def _hang_up(self, why: str) -> None:
        """The connection is over, from whichever side."""
        if self._line is None:
            return
        self._line.close()
        self._line = None
        was_open, self._open = self._open, False
        self.losses += 1
        for future in self._prepared.values():
            _fail(future, gone())
        _fail(self._synced, _HungUpError(why))
        _fail(self._upgraded, _HungUpError(why))
        for child in list(self.children.values()):
            child.wake()
        self._lost.set()
        if self._leaving or not was_open:
            # Not one that we had: why it could not be had is told where it was wanted.
            return
        self._settled.clear()
        _log.error("the keeper is gone: %s", why)
        if self.on_lost is not None:
            self.on_lost(why)

    def part(self) -> None:
        """Lxcd leaves: whoever is attached to something is told that it goes on without us."""
        for child in self.children.values():
            for port in child.ports.values():
                port.end(Reason.LEAVING)

    def close(self) -> None:
        """Leave the keeper alone; it goes on."""
        if self._line is not None:
            self._line.close()
            self._line = None
        asyncio.get_running_loop().remove_reader(self._poke.fileno())
        for child in list(self.children.values()):
            self._drop(child)
        self._poke.close()


def _settle(future: asyncio.Future[_Result] | None, result: _Result) -> None:
    if future is not None and not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any] | None, error: Exception) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
        # Nobody may wait for it any more.
        future.exception()

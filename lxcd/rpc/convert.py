"""What the house knows ↔ messages of the API. No decisions."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from lxcd import errors
from lxcd.supervisor import limiting
from lxcd.supervisor.state import Exit, State
from lxcd.v1 import container_pb2, event_pb2, stream_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lxcd.config.model import Line, Problem
    from lxcd.console.stream import Stream
    from lxcd.container.plan import Plan
    from lxcd.network.picture import Address, Counters, Interface, Picture, Route
    from lxcd.supervisor import events, processes
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.definition import Definition
    from lxcd.supervisor.limiting import Limits
    from lxcd.supervisor.start import Started
    from lxcd.supervisor.stopping import Stopped

_SEVERITIES = {
    "warning": types_pb2.Problem.SEVERITY_WARNING,
    "error": types_pb2.Problem.SEVERITY_ERROR,
}
FAMILIES: dict[int, types_pb2.AddressFamily.ValueType] = {
    socket.AF_INET: types_pb2.ADDRESS_FAMILY_INET,
    socket.AF_INET6: types_pb2.ADDRESS_FAMILY_INET6,
}


def text_of(value: str) -> str:
    """Protobuf wants UTF-8; what a file holds may be anything."""
    try:
        return value.encode(errors="surrogateescape").decode(errors="replace")
    except UnicodeEncodeError:
        # A lone surrogate that stands for no byte.
        return value.encode(errors="replace").decode()


def timestamp(time_ns: int) -> Timestamp:
    """Nanoseconds since 1970 as a message."""
    return Timestamp(seconds=time_ns // 1_000_000_000, nanos=time_ns % 1_000_000_000)


def nanoseconds(message: Timestamp) -> int:
    """The reverse."""
    return message.seconds * 1_000_000_000 + message.nanos


def state(value: State) -> types_pb2.State.ValueType:
    """A state as the enum."""
    return types_pb2.State.Value(f"STATE_{value.value}")


def states(values: Iterable[types_pb2.State.ValueType]) -> frozenset[State]:
    """The reverse, of a list. Raises InvalidArgument."""
    found: set[State] = set()
    for value in values:
        name = types_pb2.State.Name(value) if value in types_pb2.State.values() else ""
        try:
            found.add(State(name.removeprefix("STATE_")))
        except ValueError:
            raise errors.InvalidArgument(f"no such state: {value}", "INVALID_STATE") from None
    return frozenset(found)


def exit_(value: Exit) -> types_pb2.Exit:
    """How a process ended; neither code nor signal where nobody knows."""
    message = types_pb2.Exit(
        core_dumped=value.core_dumped,
        oom_killed=value.oom_killed,
        time=timestamp(value.time_ns),
        generation=value.generation,
        cause=types_pb2.Cause.Value(f"CAUSE_{value.cause.value}"),
    )
    if value.known and value.signal:
        message.signal = value.signal
    elif value.known:
        message.code = value.code
    return message


def stream_state(stream: Stream) -> stream_pb2.StreamState:
    """What is there of a stream."""
    return stream_pb2.StreamState(
        name=stream.name,
        tail_offset=stream.tail,
        head_offset=stream.head,
        closed=stream.closed,
    )


def problem(value: Problem) -> types_pb2.Problem:
    """One problem of a configuration."""
    return types_pb2.Problem(
        severity=_SEVERITIES[value.severity],
        origin=text_of(value.origin),
        key=text_of(value.key),
        message=text_of(value.message),
    )


def config_item(line: Line) -> types_pb2.ConfigItem:
    """One line of a configuration."""
    return types_pb2.ConfigItem(
        key=text_of(line.key),
        value=text_of(line.value),
        origin=text_of(line.origin),
        not_in_force=not line.in_force,
    )


def defines(items: Iterable[types_pb2.ConfigItem]) -> tuple[tuple[str, str], ...]:
    """The reverse, of what a request asks for. Control characters never get into a config file
    (I8).
    """
    found: list[tuple[str, str]] = []
    for item in items:
        if not item.key.startswith("lxc."):
            raise errors.InvalidArgument(
                f"not a key of a container: {item.key!r}", "INVALID_CONFIG"
            )
        for word in (item.key, item.value):
            if any(ord(char) < 32 or char in "\x7f\x85\u2028\u2029" for char in word):  # noqa: PLR2004
                raise errors.InvalidArgument(
                    f"{item.key!r} holds a control character", "INVALID_CONFIG", key=item.key
                )
        found.append((item.key, item.value))
    return tuple(found)


def container(actor: Container, *, full: bool = False) -> container_pb2.Container:
    """A container as it is now; its configuration too, where it can be read."""
    record = actor.record
    message = container_pb2.Container(
        name=text_of(actor.name),
        lxcpath=text_of(actor.lxcpath),
        state=state(actor.state),
        pid=record.pid if actor.state.alive else 0,
        generation=record.generation,
        defined=actor.defined,
        application=record.request.application and actor.state.alive,
        ephemeral=record.request.ephemeral and actor.state.alive,
        command=[text_of(word) for word in record.command] if actor.state.alive else [],
        cgroups={key or "unified": text_of(path) for key, path in record.cgroups.items()},
        state_reason=text_of(actor.state_reason),
    )
    if actor.state.alive:
        message.start_time.CopyFrom(timestamp(record.started_ns))
        message.shares_network = "net" not in record.namespaces
    # Looked at once: this may be a thread, and its life end meanwhile.
    network = actor.network
    if network is not None:
        describe_network(message, network)
    if record.exit is not None:
        message.exit.CopyFrom(exit_(record.exit))
    if actor.child is not None:
        message.streams.extend(sorted(actor.child.streams))
    try:
        definition = actor.definition()
    except errors.LxcdError as error:
        # It can be listed, and deleted, whatever has become of its configuration.
        message.problems.add(severity=types_pb2.Problem.SEVERITY_ERROR, message=text_of(error.text))
        return message
    _describe(message, definition, full=full)
    message.ephemeral = message.ephemeral or definition.config.ephemeral
    return message


def definition_only(name: str, definition: Definition) -> container_pb2.Container:
    """A configuration that nothing was made of: the answer to `validate_only`."""
    message = container_pb2.Container(name=text_of(name), state=types_pb2.STATE_STOPPED)
    _describe(message, definition, full=True)
    return message


def _describe(message: container_pb2.Container, definition: Definition, *, full: bool) -> None:
    config = definition.config
    message.etag = definition.etag
    message.unprivileged = bool(config.idmap)
    message.autostart = config.start_auto
    message.groups.extend(text_of(group) for group in config.groups)
    if config.rootfs is not None:
        message.rootfs = text_of(f"{config.rootfs.kind}:{config.rootfs.path}")
    message.problems.extend(problem(value) for value in definition.problems)
    if full:
        message.config.extend(config_item(line) for line in config.lines)
        message.config_text = definition.text.decode(errors="replace")


def steps(plan: Plan, limits: Limits, failure: errors.StartFailed | None) -> list[types_pb2.Step]:
    """A plan: what lxcd limits and takes on the host's side first, then the child's steps."""
    found = [
        types_pb2.Step(
            name="limit", description=text_of(words), origin=text_of(origin), side="host"
        )
        for words, origin in limiting.describe(limits)
    ]
    found += [
        types_pb2.Step(
            name=wanted.step,
            description=text_of(wanted.describe()),
            origin=text_of(wanted.origin),
            side="host",
        )
        for wanted in plan.resources
    ]
    first = len(found)
    found += [
        types_pb2.Step(
            name=step.name,
            description=text_of(step.describe()),
            origin=text_of(step.origin),
            side="child",
        )
        for step in plan.spec.steps
    ]
    for index, message in enumerate(found):
        message.index = index
    if failure is not None:
        _mark(found, first, failure)
    return found


def _mark(found: list[types_pb2.Step], first: int, failure: errors.StartFailed) -> None:
    """Where the last start failed. The child counts its own steps; for the host's side name and
    line tell.
    """
    known = failure.metadata
    index = int(known.get("index", "-1"))
    if index >= 0:
        candidates = found[first + index : first + index + 1]
    else:
        candidates = [
            step
            for step in found[:first]
            if step.name == known.get("step") and step.origin == text_of(known.get("origin", ""))
        ]
    for step in candidates[:1]:
        step.failed = True
        step.failed_syscall = known.get("syscall", "")
        step.failed_text = text_of(known.get("text", failure.text))
        step.failed_errno = errno_number(known.get("errno", ""))


def errno_number(name: str) -> int:
    """The number of an errno by its name; 0 if there is none."""
    return int(getattr(errno, name, 0)) if name.startswith("E") else 0


def event(value: events.Event) -> event_pb2.Event:
    """One event."""
    message = event_pb2.Event(
        sequence=value.sequence,
        time=timestamp(value.time_ns),
        type=value.type,
        container=text_of(value.container),
        lxcpath=text_of(value.lxcpath),
        generation=value.generation,
        message=text_of(value.message),
        details={text_of(key): text_of(text) for key, text in value.details.items()},
    )
    if value.state is not None:
        message.state = state(value.state)
    if value.exit is not None:
        message.exit.CopyFrom(exit_(value.exit))
    return message


def process(value: processes.Process) -> container_pb2.Process:
    """One process."""
    return container_pb2.Process(
        pid=value.pid,
        container_pid=value.container_pid,
        container=text_of(value.container),
        comm=text_of(value.comm),
        command=[text_of(word) for word in value.command],
        parent_pid=value.parent_pid,
        uid=value.uid,
        state=value.state,
    )


def stopped(value: Stopped) -> container_pb2.StopContainerResponse:
    """How a stop went."""
    message = container_pb2.StopContainerResponse(method=value.method, killed=value.killed)
    if value.exit is not None:
        message.exit.CopyFrom(exit_(value.exit))
    return message


def started(definition: Definition, value: Started) -> container_pb2.StartContainerResponse:
    """How a start went."""
    return container_pb2.StartContainerResponse(
        pid=value.child.pid,
        generation=value.record.generation,
        timings_usec=value.timings_usec,
        problems=[problem(found) for found in (*definition.problems, *value.problems)],
    )


def describe_network(message: container_pb2.Container, picture: Picture) -> None:
    """Put what is known of its network into a container."""
    message.network_interfaces.extend(interface(one) for one in picture.interfaces)
    message.network_routes.extend(route(one) for one in picture.routes)
    message.network_truncated = picture.cut


def add_counters(message: container_pb2.Container, found: Mapping[int, Counters]) -> None:
    """Put into it what has passed its devices."""
    for one in message.network_interfaces:
        value = found.get(one.index)
        if value is not None:
            one.counters.CopyFrom(counters(value))


def interface(value: Interface) -> types_pb2.NetworkInterface:
    """One device."""
    return types_pb2.NetworkInterface(
        name=text_of(value.name),
        index=value.index,
        type=text_of(value.kind),
        up=value.up,
        carrier=value.carrier,
        flags=value.flags,
        hardware_address=value.hardware_address,
        mtu=value.mtu,
        addresses=[address(one) for one in value.addresses],
        host_index=value.peer_index,
        host_name=text_of(value.peer_name),
    )


def address(value: Address) -> types_pb2.NetworkAddress:
    """One address."""
    return types_pb2.NetworkAddress(
        family=FAMILIES.get(value.family, types_pb2.ADDRESS_FAMILY_UNSPECIFIED),
        address=value.address,
        prefix_length=value.prefix_length,
        scope=value.scope,
        peer=value.peer,
        tentative=value.tentative,
        duplicate=value.duplicate,
        deprecated=value.deprecated,
    )


def route(value: Route) -> types_pb2.NetworkRoute:
    """One route."""
    return types_pb2.NetworkRoute(
        family=FAMILIES.get(value.family, types_pb2.ADDRESS_FAMILY_UNSPECIFIED),
        destination=value.destination,
        gateway=value.gateway,
        interface=text_of(value.interface),
        source=value.source,
        metric=value.metric,
        type=value.kind,
    )


def counters(value: Counters) -> types_pb2.NetworkCounters:
    """What has passed a device."""
    return types_pb2.NetworkCounters(
        rx_bytes=value.rx_bytes,
        rx_packets=value.rx_packets,
        rx_errors=value.rx_errors,
        rx_dropped=value.rx_dropped,
        tx_bytes=value.tx_bytes,
        tx_packets=value.tx_packets,
        tx_errors=value.tx_errors,
        tx_dropped=value.tx_dropped,
        rx_overruns=value.rx_overruns,
        tx_overruns=value.tx_overruns,
    )

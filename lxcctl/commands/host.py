"""`host` and `checkconfig`: the daemon, its machine, and what the kernel offers."""

from __future__ import annotations

from lxcctl import output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.errors import FAILED
from lxcctl.wire import local_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.host_pb2 import GetHostResponse, KernelFeature


def _no_options(_parser: Parser) -> None:
    pass


def _get_host(session: Session) -> GetHostResponse:
    from lxcd.v1.host_pb2 import GetHostRequest, GetHostResponse

    return session.channel.call(
        "HostService/GetHost", GetHostRequest(), GetHostResponse, LOOK_SECONDS
    )


def _host(session: Session, _args: Namespace) -> int:
    host = _get_host(session)
    if session.form == "csv":
        header = output.csv_header(host.DESCRIPTOR)
        output.records("csv", header, [output.plain(host)])
    elif session.form != "table":
        output.document(session.form, output.plain(host))
    else:
        for label, value in _describe(host):
            output.line(f"{label:<15} {output.harmless(value)}".rstrip())
    return 0


def _describe(host: GetHostResponse) -> Iterator[tuple[str, str]]:
    yield "Version:", host.version
    yield "Hostname:", host.hostname
    yield "Kernel:", f"{host.kernel_release} {host.architecture}"
    yield "Cgroups:", host.cgroup_layout
    yield "PID:", f"{host.pid}, keeper {host.keeper_pid}"
    if host.HasField("start_time"):
        yield "Started:", local_time(host.start_time)
    yield "Containers:", f"{host.containers}, {host.running} running"
    yield "Lxcpath:", host.lxcpath
    yield "Runtime dir:", host.runtime_dir
    yield "State dir:", host.state_dir
    yield "Default config:", host.default_config
    missing = [feature.name for feature in host.features if not feature.available]
    yield "Missing:", ", ".join([*missing, *host.missing_capabilities]) or "nothing"


def _checkconfig(session: Session, _args: Namespace) -> int:
    host = _get_host(session)
    if session.form == "table":
        report(host)
    else:
        header = output.csv_header(_feature_kind())
        output.records(session.form, header, [output.plain(item) for item in host.features])
    lacking = any(item.required and not item.available for item in host.features)
    return FAILED if lacking else 0


def _feature_kind() -> Descriptor:
    from lxcd.v1.host_pb2 import KernelFeature

    return KernelFeature.DESCRIPTOR


def report(host: GetHostResponse) -> None:
    """In lxc-checkconfig's form, and below it what a missing thing means."""
    groups: dict[str, list[KernelFeature]] = {}
    for item in host.features:
        groups.setdefault(item.group, []).append(item)
    output.line(f"Kernel {output.harmless(f'{host.kernel_release} {host.architecture}')}")
    for group, items in groups.items():
        output.line(f"--- {output.harmless(group)} ---")
        for item in items:
            output.line(output.harmless(f"{item.name}: {_verdict(item)}"))
        output.line("")
    if host.missing_capabilities:
        output.line("--- Capabilities of lxcd ---")
        for capability in host.missing_capabilities:
            output.line(output.harmless(f"{capability}: missing"))
        output.line("")


def _verdict(item: KernelFeature) -> str:
    if item.available:
        return "enabled"
    reasons = ["required"] if item.required else []
    if item.needed_by:
        reasons.append(f"needed by {item.needed_by}")
    if item.detail:
        reasons.append(item.detail)
    return f"missing ({'; '.join(reasons)})" if reasons else "missing"


VERBS = {"checkconfig": (_no_options, _checkconfig), "host": (_no_options, _host)}

"""list, info, ps, plan, host, checkconfig."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING

import pytest

from lxcctl.commands.processes import label
from lxcctl.errors import ClientError
from lxcd.v1 import container_pb2, host_pb2, types_pb2

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


def container(name: str = "001", **fields: Any) -> Any:
    fields.setdefault("state", types_pb2.STATE_RUNNING)
    return container_pb2.Container(name=name, lxcpath="/var/lib/lxc", **fields)


def listed(*containers: container_pb2.Container) -> Any:
    return lambda _: container_pb2.ListContainersResponse(containers=containers)


def test_list_as_table(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    stopped = container("evil\x1b[2J", state=types_pb2.STATE_STOPPED, groups=["a", "b"])
    stopped.exit.signal = 9
    stopped.exit.cause = types_pb2.CAUSE_OOM
    daemon.on["ListContainers"] = listed(container(pid=77, rootfs="dir:/r"), stopped)
    result = lxcctl("list")
    head, first, second = result.out.splitlines()
    assert head.split() == [
        "NAME", "STATE", "PID", "STARTED", "EXIT", "AUTOSTART", "GROUPS", "IPV4", "IPV6", "UNPRIVILEGED",
        "ROOTFS",
    ]  # fmt: skip
    assert first.split() == ["001", "RUNNING", "77", "-", "-", "no", "-", "-", "-", "no", "dir:/r"]
    assert re.split("  +", second) == [
        "evil\\x1b[2J", "STOPPED", "-", "-", "SIGKILL OOM", "no", "a,b", "-", "-", "no", "-",
    ]  # fmt: skip


def networked() -> Any:
    message = container(pid=77)
    lo = message.network_interfaces.add(name="lo", index=1, type="loopback", flags=0x49, up=True)
    lo.addresses.add(family=types_pb2.ADDRESS_FAMILY_INET, address="127.0.0.1", scope="host")
    lo.addresses.add(family=types_pb2.ADDRESS_FAMILY_INET, address="10.9.9.9", scope="global")
    eth = message.network_interfaces.add(
        name="eth0\x1b",
        index=2,
        type="veth",
        flags=0x11043,
        up=True,
        mtu=1500,
        host_index=7,
        host_name="vethA",
        hardware_address="02:00:00:00:00:01",
    )
    for family, address, scope in (
        (types_pb2.ADDRESS_FAMILY_INET, "10.0.0.2", "global"),
        (types_pb2.ADDRESS_FAMILY_INET, "10.0.0.3", "global"),
        (types_pb2.ADDRESS_FAMILY_INET6, "fd00::2", "global"),
        (types_pb2.ADDRESS_FAMILY_INET6, "fe80::2", "link"),
    ):
        eth.addresses.add(
            family=family, address=address, scope=scope, prefix_length=24, tentative=scope == "link"
        )
    eth.counters.rx_bytes = 2**40
    message.network_routes.add(
        family=types_pb2.ADDRESS_FAMILY_INET,
        destination="0.0.0.0/0",
        gateway="10.0.0.1",
        interface="eth0",
        type="unicast",
    )
    message.network_routes.add(
        family=types_pb2.ADDRESS_FAMILY_INET,
        destination="192.0.2.0/24",
        type="blackhole",
        metric=9,
    )
    message.network_truncated = True
    return message


def test_list_shows_what_others_reach_it_by(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    many = networked()
    for number in range(20):
        many.network_interfaces[1].addresses.add(
            family=types_pb2.ADDRESS_FAMILY_INET, address=f"10.1.0.{number}", scope="global"
        )
    daemon.on["ListContainers"] = listed(networked(), many)
    _, first, second = (line.split() for line in lxcctl("list").out.splitlines())
    assert first[7:9] == ["10.0.0.2,10.0.0.3", "fd00::2"]
    assert second[7] == "10.0.0.2,10.0.0.3,10.1.0.0,10.1.0.1,+18"


def test_info_shows_the_network(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["GetContainer"] = lambda _: networked()
    text = lxcctl("info", "001").out
    for line in (
        "Network:        lo up no-carrier loopback mtu 0",
        "                eth0\\x1b up no-carrier veth 02:00:00:00:00:01 mtu 1500 host vethA",
        "                  10.0.0.2/24 global",
        "                  fe80::2/24 link tentative",
        "                  rx 1099511627776 bytes, 0 packets, 0 errors, 0 dropped",
        "Routes:         default via 10.0.0.1 dev eth0",
        "                blackhole 192.0.2.0/24 metric 9",
        "                ... and more than are kept",
    ):
        assert f"{line}\n" in text
    one = json.loads(lxcctl("info", "001", "--format", "json").out)
    device = one["network_interfaces"][1]
    assert device["addresses"][0]["family"] == "INET"
    assert (device["counters"]["rx_bytes"], device["host_name"]) == (2**40, "vethA")
    assert one["network_interfaces"][0]["counters"] is None


def test_info_of_one_without_a_network_of_its_own(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["GetContainer"] = lambda _: container(pid=77, shares_network=True)
    assert "Network:        not its own\n" in lxcctl("info", "001").out


def test_list_pages_and_filters(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    def page(request: Any) -> Any:
        assert request.view == container_pb2.VIEW_BASIC
        assert list(request.states) == [types_pb2.STATE_RUNNING, types_pb2.STATE_FROZEN]
        at = int(request.page_token or 0)
        return container_pb2.ListContainersResponse(
            containers=[container(f"{at:03}")], next_page_token=str(at + 1) if at < 2 else ""
        )

    daemon.on["ListContainers"] = page
    result = lxcctl("list", "-1", "--state", "running", "--state", "FROZEN")
    assert result.out == "000\n001\n002\n"


def test_list_for_programs(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListContainers"] = listed(container(generation=2**40))
    (row,) = json.loads(lxcctl("list", "--format", "json").out)
    assert (row["name"], row["state"], row["pid"], row["generation"]) == (
        "001",
        "RUNNING",
        0,
        2**40,
    )
    assert "config_text" not in row
    text = lxcctl("--format=csv", "list").out
    assert text.startswith("name,lxcpath,state,pid,")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["name"], row["pid"], row["exit.code"]) == ("001", "0", "")
    assert lxcctl("list", "--format", "yaml").out.startswith('- name: "001"\n  lxcpath: "/var')


@pytest.mark.parametrize(
    ("form", "text"), [("json", "[]\n"), ("yaml", "[]\n"), ("csv", "name,lxcpath,")]
)
def test_empty_list(daemon: FakeDaemon, lxcctl: Lxcctl, form: str, text: str) -> None:
    daemon.on["ListContainers"] = listed()
    assert lxcctl("list", "--format", form).out.startswith(text)


def full() -> Any:
    message = container(
        pid=77,
        generation=3,
        defined=True,
        rootfs="dir:/r",
        command=["/sbin/init", "a b"],
        cgroups={"": "/lxc/001", "cpu": "/x"},
    )
    message.exit.code = 1
    message.exit.generation = 2
    message.exit.cause = types_pb2.CAUSE_SELF
    message.exit.time.seconds = 1_700_000_000
    message.start_time.seconds = 1_700_000_100
    message.config.add(key="lxc.uts.name", value="001")
    message.config.add(key="lxc.new", value="x", not_in_force=True)
    message.problems.add(
        severity=types_pb2.Problem.Severity.SEVERITY_WARNING, origin="c:3", message="hm"
    )
    return message


def test_info_as_a_block(
    daemon: FakeDaemon, lxcctl: Lxcctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    daemon.on["GetContainer"] = lambda _: full()
    text = lxcctl("info", "001").out
    for line in (
        "Name:           001",
        "State:          RUNNING",
        "PID:            77",
        "Generation:     3",
        "Command:        /sbin/init 'a b'",
        "Rootfs:         dir:/r",
        "Unprivileged:   no",
        "Not in force:   lxc.new",
        "Problems:       c:3: warning: hm",
        "Cgroups:        /lxc/001",
        "                cpu:/x",
    ):
        assert f"{line}\n" in text
    assert re.search(r"^Exit: +1 SELF, 2023-11-1\d .*\(generation 2\)$", text, re.MULTILINE)
    assert daemon.asked("GetContainer")[0].view == container_pb2.VIEW_FULL


def test_info_as_json(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["GetContainer"] = lambda _: full()
    one = json.loads(lxcctl("info", "001", "--format", "json").out)
    assert one["exit"]["cause"] == "SELF"
    assert one["config"][1]["not_in_force"] is True
    assert len(json.loads(lxcctl("info", "001", "002", "--format", "json").out)) == 2


def test_info_of_some_that_are_not_there(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def get(request: Any) -> Any:
        if request.name == "002":
            raise refusal("NOT_FOUND", "no container 002", "NOT_FOUND")
        return container(request.name)

    daemon.on["GetContainer"] = get
    result = lxcctl("info", "001", "002", "003")
    assert result.status == 3
    assert result.err == "lxcctl: no container 002\n"
    assert "Name:           001" in result.out
    assert "Name:           003" in result.out


PROCESSES = [
    container_pb2.Process(pid=1, container_pid=1, comm="init", command=["/sbin/init"]),
    container_pb2.Process(pid=30, container_pid=1, container="001", comm="init", command=["init"]),
    container_pb2.Process(pid=31, container_pid=2, container="001", comm="crond\x1b"),
    container_pb2.Process(
        pid=40, container_pid=1, container="002", comm="sshd", command=["sshd", "-D"]
    ),
]


def test_ps_is_the_articles_table(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListProcesses"] = lambda _: container_pb2.ListProcessesResponse(processes=PROCESSES)
    assert lxcctl("ps", "--all").out == (
        "PID  INSIDE  CONTAINER  COMMAND\n"
        "1    1       -          /sbin/init\n"
        "30   1       001        init\n"
        "31   2       001        [crond\\x1b]\n"
        "40   1       002        sshd -D\n"
    )
    assert daemon.asked("ListProcesses")[0].include_host
    rows = json.loads(lxcctl("ps", "001", "--format", "json").out)
    assert rows[1]["container"] == "001"
    assert list(daemon.asked("ListProcesses")[1].names) == ["001"]


PS: list[str] = [
    *"""\
UID          PID    PPID  C CMD
root           1       0  0 /sbin/init 30
root          30       1  0 init
verylong+ 4194304      1  0 cmd with 31
root          40       1  0 \x1b]0;x\x07sshd
""".splitlines()
]


def test_ps_of_the_host_is_labelled() -> None:
    owners = {30: "001", 40: "002", 4194304: "long-name-1"}
    assert list(label(PS, owners, everything=False)) == [
        "CONTAINER  UID          PID    PPID  C CMD",
        "001        root          30       1  0 init",
        "long-name-1 verylong+ 4194304      1  0 cmd with 31",
        "002        root          40       1  0 \\x1b]0;x\\x07sshd",
    ]
    assert list(label(PS, {}, everything=True))[1] == (
        "-          root           1       0  0 /sbin/init 30"
    )


def test_ps_with_the_pid_first_or_empty_columns_before_it() -> None:
    lines = ["    PID TTY", "      7 ?", "LABEL PID".rjust(9)]
    assert list(label(lines[:2], {7: "001"}, everything=False))[1] == "001              7 ?"
    assert list(label(["LABEL       PID X", "              7 y"], {7: "001"}, everything=False))[1:]


def test_ps_without_a_pid_column() -> None:
    with pytest.raises(ClientError, match="PID column"):
        list(label(["PPID COMMAND", "1 x"], {}, everything=True))


def test_ps_runs_the_hosts_ps(
    daemon: FakeDaemon, lxcctl: Lxcctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "ps"
    fake.write_text('#!/bin/sh\necho "PID ARGS"\necho " 30 $*"\nexit 0\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    daemon.on["ListProcesses"] = lambda _: container_pb2.ListProcessesResponse(processes=PROCESSES)
    result = lxcctl("ps", "001", "--", "-e", "-f")
    assert result.out == "CONTAINER  PID ARGS\n001         30 -e -f\n"
    fake.write_text("#!/bin/sh\necho oops >&2\nexit 3\n")
    result = lxcctl("ps", "--", "--nonsense")
    assert (result.status, result.err) == (3, "oops\n")


def plan(_request: Any) -> Any:
    return container_pb2.PlanContainerResponse(
        steps=[
            types_pb2.Step(index=0, name="a", description="make a", side="host", origin="default"),
            types_pb2.Step(
                index=1,
                name="b",
                description="mount b",
                side="child",
                origin="c:2",
                failed=True,
                failed_syscall="fsmount",
                failed_errno=1,
                failed_text="no \x1b",
            ),
        ]
    )


def test_plan(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["PlanContainer"] = plan
    result = lxcctl("plan", "001", "--", "sh")
    assert re.split("  +", result.out.splitlines()[0]) == ["STEP", "SIDE", "WHAT", "ORIGIN"]
    assert result.out.splitlines()[1].split() == ["0", "host", "make", "a", "default"]
    assert re.split("  +", result.out.splitlines()[2]) == [
        "x 1",
        "child",
        "mount b -- FAILED: fsmount: EPERM (Operation not permitted): no \\x1b",
        "c:2",
    ]
    assert list(daemon.asked("PlanContainer")[0].command) == ["sh"]
    value = json.loads(lxcctl("plan", "001", "--format", "json").out)
    assert [step["failed"] for step in value["steps"]] == [False, True]
    assert lxcctl("plan", "001", "--format", "csv").out.startswith("name,index,description,")


def host(*, required: bool = False) -> Any:
    return lambda _: host_pb2.GetHostResponse(
        version="0.1.0",
        kernel_release="6.1",
        architecture="x86_64",
        pid=5,
        keeper_pid=6,
        default_config="/etc/x.conf",
        features=[
            host_pb2.KernelFeature(group="Namespaces", name="Pid namespace", available=True),
            host_pb2.KernelFeature(
                group="Namespaces",
                name="User namespace",
                required=required,
                needed_by="unprivileged containers",
                detail="EPERM",
            ),
            host_pb2.KernelFeature(group="Misc", name="Macvlan"),
        ],
        missing_capabilities=["CAP_SYS_ADMIN"],
    )


def test_checkconfig(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["GetHost"] = host()
    result = lxcctl("checkconfig")
    assert result.status == 0
    assert result.out == (
        "Kernel 6.1 x86_64\n"
        "--- Namespaces ---\n"
        "Pid namespace: enabled\n"
        "User namespace: missing (needed by unprivileged containers; EPERM)\n"
        "\n"
        "--- Misc ---\n"
        "Macvlan: missing\n"
        "\n"
        "--- Capabilities of lxcd ---\n"
        "CAP_SYS_ADMIN: missing\n"
        "\n"
    )


def test_checkconfig_lacks_what_is_required(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["GetHost"] = host(required=True)
    result = lxcctl("checkconfig")
    assert result.status == 1
    assert "User namespace: missing (required; needed by" in result.out
    result = lxcctl("checkconfig", "--format", "json")
    assert result.status == 1
    assert json.loads(result.out)[1]["required"] is True


def test_host(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["GetHost"] = host()
    assert "PID:            5, keeper 6\n" in lxcctl("host").out
    assert "Default config: /etc/x.conf\n" in lxcctl("host").out
    assert json.loads(lxcctl("host", "--format", "json").out)["keeper_pid"] == 6
    assert lxcctl("host", "--format", "csv").out.startswith("version,kernel_release")

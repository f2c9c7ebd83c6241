"""A device node comes, or goes, and that breaks at each of its steps: nothing is left, and the next try works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lxcd.cgroup import device_control, devices
from lxcd.cgroup.tree import Payload
from lxcd.v1 import container_pb2
from tests.system.boxes import Refused
from tests.system.calls import idle
from tests.system.consistency import Watch
from tests.system.fault_cases import FAULTS, NAME, OF_NODES
from tests.system.host import Host
from tests.system.machine import DEADLINE
from tests.system.tracer import at_call, strike

BLOCK = "/dev/loop5"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", OF_NODES)
def test_a_node_fails_cleanly_at_every_step(
    cold_host: Host,
    busybox_root: Path,
    tmp_path: Path,
    step: str,
    fault: str,
    record_property: Callable[..., None],
) -> None:
    host, syscall = cold_host, OF_NODES[step]
    # One that was prepared ahead would not be traced.
    host.config.write_text("prepared_max = 0\n")
    host.start_daemon()
    watch = Watch(host, NAME)
    with idle(host, busybox_root, NAME) as made:
        container = made.api.container
        keeper, known = host.keeper_pid, made.known()
        payload = Payload(dict(known.cgroups), ())
        if device_control.in_force(payload) == devices.EVERYTHING:
            device_control.enforce(payload, devices.DEFAULT)
        before = device_control.in_force(payload)
        add = container_pb2.AddDeviceNodeRequest(name=NAME, path=BLOCK)
        remove = container_pb2.RemoveDeviceNodeRequest(name=NAME, container_path=BLOCK)
        taken = step == "unbind_node"
        if taken:
            container.AddDeviceNode(add, timeout=DEADLINE)
        what = {"EIO": "error=EIO", "kill-child": "signal=SIGKILL"}.get(fault, "signal=SIGSTOP")
        trace = tmp_path / "trace"
        with at_call(keeper, syscall, what, trace):
            call = (
                container.RemoveDeviceNode.future(remove, timeout=DEADLINE)
                if taken
                else container.AddDeviceNode.future(add, timeout=DEADLINE)
            )
            if fault.endswith(("keeper", "daemon")):
                strike(host, keeper, fault, trace)
            error = call.exception()
        if host.daemon is None:
            host.start_daemon()
        # Who has passed the barrier needs no keeper any more.
        done = fault == "kill-keeper" and step != "make_node"
        assert (error is None) == done, error
        refused = Refused(error) if error is not None else None
        if refused is None:
            pass
        elif fault == "EIO":
            told = {key: refused.metadata.get(key) for key in ("step", "syscall", "errno")}
            assert told == {"step": step, "syscall": syscall, "errno": "EIO"}, refused
        elif fault == "kill-child":
            assert refused.reason == "NODE_CUT_SHORT", refused
        elif fault == "kill-keeper":
            assert refused.reason == "KEEPER_LOST", refused
        else:
            assert refused.code in ("UNAVAILABLE", "CANCELLED"), refused
        watch.is_clean({known.pid}, set(known.cgroups.values()))
        if taken:
            # The right went first.
            assert device_control.in_force(payload) == before
        elif not done:
            if fault != "kill-daemon":
                assert device_control.in_force(payload) == before
                made.fails(f"ls {BLOCK}")
            container.AddDeviceNode(add, timeout=DEADLINE)
        if not taken:
            made.sh(f"dd if={BLOCK} of=/dev/null count=0")
        if not (taken and done):
            container.RemoveDeviceNode(remove, timeout=DEADLINE)
        made.fails(f"ls {BLOCK}")
        assert device_control.in_force(payload) == before
        assert made.known() == known
    record_property("faults", json.dumps(["node", fault, {step: "done" if done else "error"}]))

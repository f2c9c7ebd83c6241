"""The configuration texts of the article, word for word."""

from __future__ import annotations

RESOURCES = """\
# resource allocations
lxc.cgroup.cpuset.cpus = 0
        # CPU0
lxc.cgroup.cpu.shares = 512
        # Half of default
lxc.cgroup.memory.limit_in_bytes = 268435456
        # 256MB
lxc.cgroup.memory.memsw.limit_in_bytes = 536870912
        # 512MB

# device access list
lxc.cgroup.devices.deny = a *:* rwm
        # deny all
lxc.cgroup.devices.allow = c 1:3 rwm
        # null
lxc.cgroup.devices.allow = c 1:5 rwm
        # zero
lxc.cgroup.devices.allow = c 5:1 rwm
        # console
lxc.cgroup.devices.allow = c 5:0 rwm
        # tty
lxc.cgroup.devices.allow = c 4:* rwm
        # tty*
lxc.cgroup.devices.allow = c 1:9 rwm
        # urandom
lxc.cgroup.devices.allow = c 1:8 rwm
        # random
lxc.cgroup.devices.allow = c 5:2 rwm
        # ptmx
lxc.cgroup.devices.allow = c 136:* rwm
        # pts/*
lxc.cgroup.devices.allow = c 254:0 rwm
        # rtc0
"""

"""The configuration texts of the article, byte for byte."""

from __future__ import annotations

CONF_001 = """\
# network configuration
lxc.utsname = 001
lxc.network.type = veth
lxc.network.name = eth0
lxc.network.flags = up
lxc.network.link = br0
lxc.network.ipv4 = 192.168.122.101/24

# file system configuration
lxc.rootfs = /lxc/rootfs/001
lxc.mount.entry=/dev /lxc/rootfs/001/dev/ none bind 0 0
lxc.mount.entry=/dev/pts /lxc/rootfs/001/dev/pts none bind 0 0
"""

CONF_002 = """\
# network configuration
lxc.utsname = 002
lxc.network.type = veth
lxc.network.name = eth0
lxc.network.flags = up
lxc.network.link = br0
lxc.network.ipv4 = 192.168.122.102/24

# file system configuration
# file system configuration
lxc.rootfs = /lxc/rootfs/002
lxc.mount.entry=/dev /lxc/rootfs/002/dev/ none bind 0 0
lxc.mount.entry=devpts /lxc/rootfs/002/dev/pts devpts gid=5,mode=620,newinstance,ptmxmode=0666 0 0
lxc.mount.entry=proc /lxc/rootfs/002/proc proc nodev,noexec,nosuid 0 0
lxc.mount.entry=sysfs /lxc/rootfs/002/sys sysfs defaults  0 0
lxc.mount.entry=none /lxc/rootfs/002/proc/sys/fs/binfmt_misc binfmt_misc defaults  0 0
"""

# To be appended to either.
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

# Of the guest; the blank at its end is the article's.
GUEST_FSTAB = """\
tmpfs                   /dev/shm                tmpfs   defaults        0 0
devpts                  /dev/pts                devpts  gid=5,mode=620  0 0
sysfs                   /sys                    sysfs   defaults        0 0
proc                    /proc                   proc    defaults        0 0
none                    /proc/sys/fs/binfmt_misc binfmt_misc defaults    0 0\x20
"""

# What lxc-checkconfig shows, behind two lines about where the kernel's configuration is.
CHECKCONFIG = """\
--- Namespaces ---
Namespaces: enabled
Utsname namespace: enabled
Ipc namespace: enabled
Pid namespace: enabled
User namespace: enabled
Network namespace: enabled
Multiple /dev/pts instances: enabled

--- Control groups ---
Cgroup: enabled
Cgroup namespace: enabled
Cgroup device: enabled
Cgroup sched: enabled
Cgroup cpu account: enabled
Cgroup memory controller: enabled
Cgroup cpuset: enabled

--- Misc ---
Veth pair device: enabled
Macvlan: enabled
Vlan: enabled
File capabilities: enabled
"""

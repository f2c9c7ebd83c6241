"""The article's steps, in its order."""

from __future__ import annotations

from contrib.walkthrough import texts
from contrib.walkthrough.figures import Chapter, Step

_PREPARING = (
    Step(
        "checkconfig",
        "# lxc-checkconfig",
        texts.CHECKCONFIG,
        "the same rows in the same order; enabled is whatever this lxcd needs",
    ),
    Step(
        "bridge",
        "/etc/sysconfig/network-scripts/ifcfg-br0\n/etc/sysconfig/network-scripts/ifcfg-eth0",
        "",
        "br0 is 192.168.122.199/24, eth0 is in it, 192.168.122.1 reaches it",
    ),
    Step(
        "bind-root",
        "# mkdir -p /lxc/rootfs/001\n# mount -o bind / /lxc/rootfs/001",
        "",
        "/ is to be seen there",
    ),
    Step(
        "mount-image",
        "# mkdir -p /lxc/rootfs/002\n"
        "# losetup /dev/loop0 /mnt/images/rhel60vm.img\n"
        "# kpartx -a /dev/loop0\n"
        "# mount /dev/mapper/loop0p2 /lxc/rootfs/002",
        "",
        "the image's second partition is mounted there, with the guest's init and inittab",
    ),
    Step(
        "guest-changes",
        "rc.sysinit, halt, start-ttys.conf, fstab\n"
        "# rm /lxc/rootfs/002/etc/sysconfig/network-scripts/ifcfg-eth*",
        "",
        "they read as in the article",
    ),
)

_APPLICATION = (
    Step(
        "execute",
        "# lxc-execute -n 001 -f /lxc/conf/001.conf /usr/sbin/sshd",
        "",
        "it says nothing, does not come back, and sshd answers at 192.168.122.101",
    ),
    Step(
        "execute-login",
        "# ssh root@192.168.122.101",
        "root@192.168.122.101's password:\n[root@001 ~]#",
        "somebody on another machine logs in with the password and sees the container's name",
    ),
    Step(
        "execute-uname",
        "[root@001 ~]# uname -a",
        "Linux 001 2.6.32-71.el6.x86_64 #1 SMP Wed Sep 1 01:33:01 EDT 2010"
        " x86_64 x86_64 x86_64 GNU/Linux",
        "the node is 001, the rest is this host's",
    ),
    Step(
        "execute-ifconfig",
        "[root@001 ~]# ifconfig eth0",
        "inet addr:192.168.122.101  Bcast:192.168.122.255  Mask:255.255.255.0\n"
        "UP BROADCAST RUNNING MULTICAST  MTU:1500  Metric:1",
        "eth0 is up, runs, has this address, mask and broadcast",
    ),
    Step(
        "execute-route",
        "[root@001 ~]# route -n",
        "192.168.122.0   0.0.0.0         255.255.255.0   U     0      0        0 eth0",
        "that route and no other: no default route",
    ),
    Step(
        "execute-ps",
        "# ps -ef",
        "lxc-execute -n 001 -f /lxc/conf/001.conf /usr/sbin/sshd\n"
        "/usr/local/lib/lxc/lxc-init -- /usr/sbin/sshd",
        "the host sees lxc-execute as it was typed, and lxc-init -- /usr/sbin/sshd",
    ),
    Step(
        "execute-pts",
        "# echo HOGE > /dev/pts/0",
        "(that it comes to the terminal of somebody on the host)",
        "from 001, whose /dev/pts is the host's, HOGE comes to a terminal of the host",
    ),
    Step(
        "execute-stop",
        "# lxc-stop -n 001",
        "",
        "it says nothing, lxc-execute comes back, nothing of 001 is left",
    ),
    Step(
        "execute-gateway",
        "[root@001 ~]# route -n",
        "(no default route: it is to be set by hand after each login)",
        "with lxc.network.ipv4.gateway in the file nobody sets a default route by hand",
    ),
)

_SYSTEM = (
    Step("create", "# lxc-create -n 002 -f /lxc/conf/002.conf", "", "002 is defined by that file"),
    Step(
        "boot",
        "# lxc-start -n 002",
        "                Welcome to Red Hat Enterprise Linux Server\n"
        "Setting hostname rhel60vm01:                               [  OK  ]\n"
        "Mounting local filesystems:                                [  OK  ]\n"
        "Starting sshd:                                             [  OK  ]\n"
        "rhel60vm01 login:",
        "the guest's messages and its login prompt come to this terminal",
    ),
    Step("login", "rhel60vm01 login: root", "", "root logs in there, on the console"),
    Step(
        "ps",
        "# lxc-ps --name 002 -ef",
        "",
        "ps with a column of containers: the guest's init, sshd and crond, nobody else's",
    ),
    Step(
        "netstat",
        "# lxc-netstat --name 002 -a",
        "",
        "the guest's port 22 listens, and nothing of the host",
    ),
    Step(
        "system-route",
        "[root@rhel60vm01 ~]# route -n",
        "(that rc.sysinit sets it from /etc/sysconfig/network)",
        "the default route of the guest's own GATEWAY line",
    ),
    Step(
        "two-servers",
        "# ssh root@192.168.122.101\n# ssh root@192.168.122.102",
        "(that two servers on one port are what chroot cannot have, and containers can)",
        "from another machine each answers on its own port 22, by its own name",
    ),
    Step(
        "system-pts",
        "# echo HOGE > /dev/pts/0",
        "(that this cannot be done any more)",
        "from 002, whose /dev/pts is its own, HOGE does not come to a terminal of the host",
    ),
    Step(
        "poweroff",
        "[root@rhel60vm01 ~]# poweroff",
        "(that the container then stops by itself)",
        "the guest's services end, its halt runs, lxc-start comes back",
    ),
    Step("start-daemon", "# lxc-start -n 002 -d", "", "it comes back at once, 002 comes up behind"),
    Step("stop", "# lxc-stop -n 002", "", "002 does not run any more"),
    Step(
        "destroy",
        "# lxc-destroy -n 002",
        "",
        "002 is defined no more, its root file system is untouched",
    ),
    Step(
        "unmount-image",
        "# umount /lxc/rootfs/002\n# kpartx -d /dev/loop0\n# losetup -d /dev/loop0",
        "",
        "neither is busy, while another container runs that was started meanwhile",
    ),
    Step(
        "ls",
        "# lxc-ls",
        "003  004  005  006\n003  005  006",
        "two lines: those that are defined, those that run",
    ),
    Step(
        "info",
        "# lxc-info -n 003\n# lxc-info -n 004",
        "'003' is RUNNING\n'004' is STOPPED",
        "word for word",
    ),
)

_LIMITS = (
    Step(
        "limits-values",
        "lxc.cgroup.cpuset.cpus = 0 …",
        "",
        "the block, appended to 001.conf, is in force: each value is in the container's cgroups",
    ),
    Step(
        "limits-cpus",
        "lxc.cgroup.cpuset.cpus = 0",
        "",
        "one processor is to be had in the container",
    ),
    Step(
        "limits-memory",
        "lxc.cgroup.memory.limit_in_bytes = 268435456\n"
        "lxc.cgroup.memory.memsw.limit_in_bytes = 536870912",
        "",
        "200 MB are to be had; what exceeds memory and swap is killed, the container lives on",
    ),
    Step(
        "limits-devices-allowed",
        "lxc.cgroup.devices.allow = c 1:3 rwm …",
        "",
        "each device of the list can be made, and opening it is not refused",
    ),
    Step(
        "limits-devices-refused",
        "lxc.cgroup.devices.deny = a *:* rwm",
        "",
        "no other can be made, and those of /dev, the host's, cannot be opened",
    ),
    Step(
        "limits-by-hand",
        "# echo … > /lxc/cgroup/001/cpu.shares",
        "",
        "values written by hand into the container's directory take effect and stay",
    ),
)

_UNPREPARED = (
    Step(
        "untouched-boot",
        "# lxc-start -n 002",
        "(that an rc.sysinit which was not rewritten has terrible effects)",
        "the same image, with nothing prepared in it or on the host, comes up with its services",
    ),
    Step(
        "untouched-ttys",
        "rhel60vm01 login: root",
        "(nobody: logins are moved to the console)",
        "its login prompts wait on tty1 to tty6; root logs in on one",
    ),
    Step(
        "untouched-halt",
        "[root@rhel60vm01 ~]# poweroff",
        "(that a halt which was not rewritten may turn off the host's swap)",
        "its halt script runs to its end; swap and clock of the host are what they were",
    ),
    Step(
        "untouched-image",
        "# losetup -a",
        "(that loop devices are made first)",
        "no loop device is left, the image is as it was",
    ),
)

CHAPTERS = (
    Chapter("Preparing", _PREPARING),
    Chapter("An application container", _APPLICATION),
    Chapter("A system container", _SYSTEM),
    Chapter("Limits", _LIMITS),
    Chapter("Without preparation", _UNPREPARED),
)
STEPS = tuple(step for chapter in CHAPTERS for step in chapter.steps)

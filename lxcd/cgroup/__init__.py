"""The container's directories in the host's cgroup trees: version 1, version 2, or both.

    tree.py      which trees there are, and a container's directories in them
    freezer.py   freeze and thaw
    devices.py   rules about devices, and what they come to
    device_program.py   the same as a program for version 2
    device_control.py   having the kernel obey them
    limits.py    what a configuration limits, translated to what this host has
    equivalents.py   the table of that; formulas.py, amounts.py: how values are read and written
    writing.py   limits written to the container's directories, and read back
    readback.py  what the kernel made of it; in which order it is changed, and undone
    facts.py     what a translation needs to know of the host
    killing.py   kill all that is in them, however fast it forks
    counters.py  how often limits were met, and how many were killed for want of memory
    watch.py     word from the kernel that this has happened
    kmsg.py      what the kernel's log says of it: the victim's name
    usage.py     what a container uses; usage_v1.py, usage_v2.py: of the kernel's files
    reading.py   reading those, many containers in one go

Names are LXC's: `lxc.payload.NAME`, with -1, -2 … behind it where that is taken, the same in every
tree. Only directories that were made here are ever removed.
"""

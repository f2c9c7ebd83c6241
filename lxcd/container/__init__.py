"""One container: plan it here, do it there.

`plan.py` is a pure function from a configuration and facts about the host to a `Plan`: the
`resources` that lxcd opens on the host's side, the `Spec` (a flat list of steps that travels to the
child as system calls, in a sealed memfd), and what lxcd does at each barrier in between. The child
was prepared before anybody asked: it waits in namespaces and cgroups of its own, and its first step
forks it into the container's pid namespace and cgroup of version 2. A command that joins a running
container walks steps too, beginning with `join.py`.

The steps stand in `namespaces.py`, `rootfs.py`, `mounts.py`, `devices.py`, `nodes.py`,
`credentials.py`, `join.py`: small frozen dataclasses with `describe()` for people and
`compile(walk)`, which writes the calls: `walk.py` knows the safe ways, `calls.py` what travels.
`program.py` is the end, the exec. The child that makes the calls is `kernel/native/walker.c`, four
kilobytes in which nothing is parsed, looked up or decided, and nothing is of the keeper; and no
path string below the container's tree is resolved twice. PID 1 of an application container stays
above its command: `kernel/native/pid1.c`.

The keeper loads none of this room but what it builds its own tree by.
"""

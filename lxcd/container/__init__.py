"""One container: plan it here, do it there.

`plan.py` is a pure function from a configuration and facts about the host to a `Plan`: the
`resources` that lxcd opens on the host's side, the `Spec` (a flat list of steps that travels to the
child as a sealed memfd), and what lxcd does at each barrier in between. The child was prepared
before anybody asked: it waits in namespaces and cgroups of its own, and its first step forks it
into the container's pid namespace and cgroup of version 2. `init.py` is the life of the child that
walks the steps; `program.py` its end, the exec. PID 1 of an application container stays above its
command: `pid1/` is that one as a program of a kilobyte, exec'ed like the command, and `reaper.py`
the same as a copy of the keeper, where it cannot be exec'ed. A command that joins a running
container walks steps too, beginning with `join.py`.

The steps stand in `namespaces.py`, `rootfs.py`, `mounts.py`, `devices.py`, `credentials.py`,
`join.py`: small frozen dataclasses with `describe()` for people and `apply(walk)` for the deed.
After the fork nothing is parsed, looked up or decided, no module is imported, no path string below
the container's tree is resolved twice.

`plan.py`, `mount_plan.py` and `draft.py` (and with them `lxcd.config`) are never loaded by the
keeper.
"""

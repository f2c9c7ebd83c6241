"""lxcd: a container supervisor. You ring at `rpc`, `supervisor` decides, `keeper` forks,
`container` builds, `kernel` is the ground.

    rpc          front door: messages in, messages out; the only room that knows gRPC
    supervisor   one actor per container; state, policy, undo; what happened
    console      sessions with terminals and pipes: cursors into the keeper's rings
    network      devices, bridges of its own, addresses; the only pyroute2
    storage      root file systems that are no directories: disk images, block devices
    images       what a new container is made of
    cgroup       directories in the cgroup trees: limits, devices, freezing, what is used
    keeper       a small process of its own that forks, reaps, and holds terminals; survives lxcd
    container    the plan of one container, and the child that walks it
    config       what the user wrote
    kernel       Linux as Python functions; the only ctypes
    log, paths, errors, threads   the foundation

Imports go down this list, never up. `daemon.py` builds every object once and wires them;
`__main__.py` reads flags; `v1` is the generated wire format.
"""

__version__ = "0.1.0"

"""Configuration: text in, frozen dataclasses out.

What it is for: reading and writing the `key = value` texts of LXC, of every era from 0.7 to 7.0,
and lxcd's own TOML files; telling, with file and line, what is wrong in them. A text that somebody
wrote is never an exception here: it is a `model.Problem`.

What is not in it: whether a path exists, whether the kernel can do it, what a start makes of it
(`container.plan`). No logging, no asyncio, no system calls but those of `reader.HostFiles`, which
a caller may replace.

Who may call: every room above (`container`, the workshops, `supervisor`, `rpc`). Never the keeper.

    reader       lines with their origin, includes expanded, everything bounded
    values       one value: numbers, signals, sizes, paths
    entries      one item of a list key: mounts, id ranges, variables
    keys         the table of all keys; nic_keys: of network devices; legacy_keys: former names
    nics         which line belongs to which network device
    rootfs       [TYPE:]PATH
    loader       text -> ContainerConfig
    check        rules across keys, and what is understood but not in force
    writer       set and unset keys in a text
    names        what a container may be called
    forwards     ports of the host that lead to a container; limits: its limits, in words
    daemon       lxcd.toml, lxc.conf, and a container's own lxcd.toml
    model        the data itself
    characters   which characters may stand where
"""

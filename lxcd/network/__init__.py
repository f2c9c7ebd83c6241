"""The network workshop: devices of containers, bridges of ours, addresses that are known.

    netlink.py    rtnetlink: requests in few sends, dumps, notifications. The only pyroute2.
    namespace.py  sockets in another network namespace
    device.py     a device as the configuration wants it
    requests.py   what the kernel is asked for to have it
    wiring.py     devices as they are: made, and taken away again

It knows the kernel's networks, configurations, and nothing of containers' lives: which device is
made when, and what becomes of it, the supervisor decides. Its calls block, for as long as locks
that all network namespaces share are held: they belong in a thread.
"""

"""The network workshop: devices of containers, bridges of ours, addresses that are known.

    netlink.py    rtnetlink: requests in few sends, dumps, notifications. The only pyroute2.
    namespace.py  sockets in another network namespace
    device.py     a device as the configuration wants it
    requests.py   what the kernel is asked for to have it
    links.py      devices of the host, asked by name
    wiring.py     devices as they are: made, and taken away again
    definition.py a managed network as data and as a text; lxcnet.py: what LXC's own script has
    bridge.py     its bridge
    port.py       one device of one container in it; reservations.py: which address is kept for it
    dnsmasq.py    command line, files and leases of the program that answers in it
    firewall.py   rules of all of them, as texts for nft(8)
    dump.py       netlink read fast, for what is asked often or may be long
    picture.py    what there is in a namespace, from such messages
    watch.py      one namespace, watched
    sockets.py    the sockets of one
    counters.py   what has passed the devices of one

It knows the kernel's networks, configurations, and nothing of containers' lives: which device is
made when, and what becomes of it, the supervisor decides. Its calls block, for as long as locks
that all network namespaces share are held: they belong in a thread.
"""

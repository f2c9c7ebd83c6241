"""lxcd-keeper: the small separate process that forks, reaps, and holds what must outlive lxcd.

It is the parent of every init and every exec. It holds their pidfds, the masters of their terminals
and its ends of their pipes, drains those into rings in shared memory, writes to them what lxcd puts
into others, and journals how each child ended until lxcd has taken note. It decides nothing.

    launcher.py   makes the keeper's minimal mount tree, and has the keeper exec'ed in it
    __main__.py   entry: a new keeper, a candidate, or one that takes over
    loop.py       the keeper, put together
    epoll.py      the one thing that it waits in
    link.py       its end of the connection to lxcd
    children.py   all children: made, heard, reaped, adopted
    streams.py    what they write and what is typed to them
    child.py      one child and its streams
    spawn.py      the fork
    ending.py     how one ended, from whoever can tell
    ring.py       a stream's history in shared memory; lxcd maps the same pages
    journal.py    exits that lxcd has not acknowledged, on disk
    store.py      descriptors that others keep while there is no keeper: a service manager, or
    trustee.py    a process of ours, the keeper's parent
    trust.py      the way to it, and another one when it is lost
    upgrade.py    another image under the same pid
    handover.py   what one image leaves to the next
    protocol.py   every message both ways; lxcd imports this too

It can be replaced in three ways, none of which a running container notices. *Upgraded*: it execs
the new code itself, children stay its own, and so it still reaps them. *Lost, with lxcd there*:
lxcd starts another and hands it copies of every pidfd, terminal and ring (ADOPT). *Lost with lxcd*:
the trustee has the copies, or a service manager; not of children that only wait to become
something. The children of a lost keeper are not the next one's own: the trustee inherits them, and
says how they ended. Of others PIDFD_GET_INFO does (Linux 6.15), or a zombie's /proc/PID/stat.
Neither tells of a reboot(2) inside: under a service manager, whose fd store is no parent, a
container that has lost its keeper once ends where it would have come up again.

One thread, the standard library and `lxcd.kernel`. No grpc, asyncio, logging, threading. A child
shares nothing with it: it is another program before it runs its first instruction (`kernel/spawn`),
which costs the clone and its namespaces, half a millisecond, whatever the keeper holds.
"""

"""lxcd-keeper: the small separate process that forks, reaps, and holds what must outlive lxcd.

It is the parent of every init and every exec. It holds their pidfds, the masters of their terminals
and the read ends of their pipes, drains those into rings in shared memory, and journals how each
child ended until lxcd has taken note. It decides nothing.

    launcher.py   makes the keeper's minimal mount tree and execs the keeper in it
    __main__.py   entry: prepares the process, then the loop
    loop.py       the one epoll loop: lxcd's messages, pidfds, terminals, orphans
    child.py      one child and its streams
    spawn.py      the fork
    ring.py       a stream's history in shared memory; lxcd maps the same pages
    journal.py    exits that lxcd has not acknowledged, on disk
    protocol.py   every message both ways; lxcd imports this too

One thread, the standard library and `lxcd.kernel`, `lxcd.container` (but its plan). No grpc,
asyncio, logging, threading: a forked child must be cheap and safe. A child costs 1.2-1.5 ms from a
process of this size, 4.4 ms from one with the daemon's imports.
"""

"""Terminals and pipes of what runs: who reads them, who types. Cursors into the keeper's rings,
nothing else.

    stream.py    one stream as lxcd sees it, and following it
    port.py      what sessions attach to: a terminal, or the pipes of one process
    session.py   one who is attached: where he is, how much he may be sent, what he may do
    logfile.py   a console on disk

A reader is an offset. It can be slow, go away, come back: the keeper drains all the same. What is
typed goes into a ring too, which the keeper empties: what was taken is written, whatever dies.
"""

"""The front door: messages in, messages out. The only room that knows gRPC and protobuf.

    server.py     the server, its sockets, health, reflection
    side.py       the side socket, for what gRPC cannot carry: who a caller is, descriptors
    status.py     one table: error class -> gRPC code
    replay.py     work that is finished whoever waits; request_id: a retry gets the first answer
    convert.py    records ↔ messages
    sockets.py    sockets of containers ↔ messages
    requests.py   reading fields that several requests have
    starting.py   StartContainer, of a container that is defined or that only the request defines
    waiting.py    WaitContainer: for a state, for an end, or for a condition
    attaching.py  a session over a bidirectional call, of either service
    scraping.py   the endpoint for Prometheus
    metrics.py    what containers use, as metrics for it
    shutdown.py   `lxcd shutdown`, from outside

`containers.py`, `execs.py`, `consoles.py`, `events.py`, `hosts.py`, `networks.py`, `stats.py` are
one servicer each; a method converts, calls, converts.
"""

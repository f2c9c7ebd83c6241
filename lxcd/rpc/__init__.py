"""The front door: messages in, messages out. The only room that knows gRPC and protobuf.

    server.py     the server, its sockets, health, reflection
    status.py     one table: error class -> gRPC code
    replay.py     work that is finished whoever waits; request_id: a retry gets the first answer
    convert.py    records ↔ messages
    requests.py   reading fields that several requests have
    shutdown.py   `lxcd shutdown`, from outside

`containers.py`, `execs.py`, `consoles.py`, `events.py`, `hosts.py` are one servicer each; a method
converts, calls, converts.
"""

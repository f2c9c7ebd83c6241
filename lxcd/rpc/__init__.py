"""The front door: messages in, messages out. The only room that knows gRPC and protobuf.

server.py      the server, its sockets, health, reflection status.py      one table: error class ->
gRPC code replay.py      request_id: a retry gets the first answer convert.py     records ↔ messages
containers.py, execs.py, consoles.py, events.py, hosts.py   one servicer each: convert, call,
convert
"""

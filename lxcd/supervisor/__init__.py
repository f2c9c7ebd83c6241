"""The office: the only place that decides.

house.py       what every actor works with
state.py       states, and the table of allowed transitions
registry.py    name -> actor; create, rename, delete; what was found after a restart
container.py   one actor per container: its state, its present life
definition.py  a container's config file: read when it changed, written on request
reports.py     hearing from a child while it walks
removal.py     deleting what is a container's own, and nothing else
shutdown.py    the orderly end of all
start.py       the start: cgroups, resources, keeper, barriers; undone if it fails
stop.py        how to ask which init to shut down
stopping.py    the stop: ask, wait, kill
execs.py       commands that join a container
processes.py   who belongs to which container
keeper.py      the asyncio side of the keeper's protocol; starts or finds the keeper
records.py     what must survive the daemon: one small file a container
events.py      what happened, numbered
host.py        what this host can do
"""

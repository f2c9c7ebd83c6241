"""The office: the only place that decides.

house.py       what every actor works with
state.py       states, and the table of allowed transitions
registry.py    name -> actor; create, rename, delete
recovery.py    what a restart finds: who goes on, what is to be finished or undone
container.py   one actor per container: its state, its present life
definition.py  a container's config file: read when it changed, written on request
pool.py        prepared children, and the cgroups that they wait in
lull.py        what can wait does so while somebody waits for a start
making.py      a container's directory, whole or not at all
removal.py     deleting what is a container's own, and nothing else
shutdown.py    the orderly end of all
plans.py       plans of late: what is started again is not compiled again
start.py       the start: a child, cgroups, resources, id maps; undone if it fails
patience.py    how long it waits for an image that is busy
walking.py     the child's walk, from outside: barriers, and how it ended
limiting.py    what it may use: applied at the start, changed while it runs
updating.py    a change of its configuration: of the file, of what runs, of both
nics.py        network devices of one life: made beside the walk, taken away at its end
hotplug.py     one more of them while it runs, one less
addresses.py   what is known of their networks, and who is told when it changes
sockets.py     its sockets, and which of its processes hold them
networks.py    managed networks: up when somebody needs them, and who is connected to them
connecting.py  who that is: ports, addresses, names, filters, forwards
forwarding.py  ports of the host that lead to containers, on request
network_changes.py  managed networks on request: defined, changed, deleted
network_store.py    what of them is on disk
nameserver.py  the dnsmasq of one of them
ruleset.py     the nftables tables of all of them
nodes.py       device nodes that it is given while it runs, and their rights
reports.py     hearing from a child while it walks
faults.py      for tests: a start breaks at a given place
stop.py        how to ask which init to shut down
freezing.py    and letting go on
changes.py     waiting for something to be as one wants it
stopping.py    the stop: ask, wait, kill
rebooting.py   a restart that only asks, and kills nobody
ending.py      the end of a life, and what it leads to
execs.py       commands that join a container, by their ids; and the short way
exec.py        one of them
errands.py     what somebody else may make wait for ever
collecting.py  all that a command writes, for who wants it in one piece
programs.py    programs of the host, run through the keeper
entering.py    how a command gets into a container
ports.py       where sessions attach to what the keeper holds
consolelog.py  the session that fills a console's log file
processes.py   who belongs to which container
keeper.py      the asyncio side of the keeper's protocol; another keeper when one is lost
line.py        the connection to it
held.py        a child of the keeper, as lxcd holds it
unkept.py      children while no keeper can be had
joining.py     the way to the keeper's socket
launch.py      the keeper's process, and a candidate for its place
service.py     telling a service manager how we are
statistics.py  what they use, sampled for all who ask at once
records.py     what must survive the daemon: one small file a container
events.py      what happened, numbered
alarms.py      kills for want of memory and limits that are met, of all that run
kills.py       how many the kernel has counted, and whom its log names
pace.py        how often it is told what goes on and on
alarm_events.py  how it is told
edits.py       what has changed in a configuration
host.py        what this host can do
"""

"""What of lxcd is machine code: three small sources in C, and what they become.

Nobody who installs lxcd needs a compiler: `images.py` holds the code, made by `generate.py`, for
the machines that it names; `contrib/check` makes it again where there is one.

spawn.c    a vfork with namespaces, which Python cannot do: `kernel/spawn.py` calls it
walker.c   the child of the keeper that walks a Spec: see `container/walk.py`
pid1.c     what stays as PID 1 of an application container
machine.h  what differs between machines
"""

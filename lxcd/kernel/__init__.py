"""Linux as Python functions: one wrapper per system call, no policy, no logging, no state.

A wrapper has the kernel's name and raises OSError with the errno, the path it was about, and the
name of the system call in `.syscall`. Descriptors go in and out as plain integers and are
close-on-exec; who closes them is said in each docstring. This is the only room that imports ctypes.

Needs Linux 5.12: clone3(2) (5.3, CLONE_INTO_CGROUP 5.7), the mount API by descriptors (5.2),
openat2(2) (5.6), mount_setattr(2) (5.12). `features.missing()` names what an older kernel lacks.
"""

"""The errors that reach a caller of the API, and nothing else.

    LxcdError                 text, reason (for programs), metadata (for programs)
    ├── InvalidArgument       the request cannot be right, whatever the state of things
    ├── NotFound              no such container, exec, stream …
    ├── AlreadyExists         the name is taken
    ├── FailedPrecondition    it is right, but not now: wrong state, missing kernel feature
    ├── Aborted               somebody else's change came first (etag, operation in progress)
    ├── PermissionDenied      the caller may not
    ├── ResourceExhausted     no space, no descriptors, too much output
    ├── Unavailable           lxcd or its keeper is not there right now: try again
    ├── DeadlineExceeded      it took longer than the caller allowed
    ├── StartFailed           a container did not come up: step, system call, errno, origin
    └── Internal              a mistake of ours

`kernel` raises OSError; the rooms above it turn that into one of these where they know the object's
name and what to do about it. `rpc/status.py` maps classes to gRPC codes. A reason is
SCREAMING_SNAKE and never changes once published.
"""

from __future__ import annotations

import errno
import os


class LxcdError(Exception):
    """An error for the caller. `reason` is stable; `metadata` names the objects that are
    concerned.
    """

    reason = "INTERNAL"

    def __init__(self, text: str, /, reason: str = "", **metadata: str) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason or type(self).reason
        self.metadata = metadata


class InvalidArgument(LxcdError):
    """The caller's request cannot be carried out, whatever the state of things. Change the
    request.
    """

    reason = "INVALID_ARGUMENT"


class NotFound(LxcdError):
    """What the caller named does not exist."""

    reason = "NOT_FOUND"


class AlreadyExists(LxcdError):
    """What the caller wants to make exists."""

    reason = "ALREADY_EXISTS"


class FailedPrecondition(LxcdError):
    """The state of the container or of the host does not allow it now."""

    reason = "FAILED_PRECONDITION"


class Aborted(LxcdError):
    """Something else happened first. Look again, then retry."""

    reason = "ABORTED"


class PermissionDenied(LxcdError):
    """The caller may not do this."""

    reason = "PERMISSION_DENIED"


class ResourceExhausted(LxcdError):
    """Out of space, memory, descriptors or quota."""

    reason = "RESOURCE_EXHAUSTED"


class Unavailable(LxcdError):
    """Not possible right now for a cause that passes: retry."""

    reason = "UNAVAILABLE"


class DeadlineExceeded(LxcdError):
    """It took longer than the caller allowed."""

    reason = "DEADLINE_EXCEEDED"


class StartFailed(LxcdError):
    """A container did not come up. Metadata: step, syscall, errno, origin, index."""

    reason = "START_FAILED"


class Internal(LxcdError):
    """A mistake of ours."""

    reason = "INTERNAL"


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def from_oserror(error: OSError, doing: str, **metadata: str) -> LxcdError:
    """Word an OSError of the kernel as an error for the caller: what was done, to what, and why it
    failed.
    """
    number = error.errno or 0
    path = error.filename if isinstance(error.filename, str) else ""
    text = f"{doing}: {os.strerror(number)}" + (f": {path}" if path else "")
    syscall = getattr(error, "syscall", "")
    known = {"errno": errno.errorcode.get(number, str(number)), **metadata}
    if syscall:
        known["syscall"] = syscall
    if number in _NO_SPACE:
        return ResourceExhausted(text, **known)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FailedPrecondition(text, "HOST_REFUSED", **known)
    return FailedPrecondition(text, "HOST_FAILED", **known)

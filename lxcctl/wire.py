"""What values of the API mean to a person, and the way back.

Works on messages without importing their modules, so that it costs nothing before a call.
"""

from __future__ import annotations

from lxcctl.arguments import STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from lxcd.v1.types_pb2 import Exit, Problem

CAUSES = ("UNSPECIFIED", "SELF", "REQUESTED", "REBOOT", "OOM", "KEEPER_LOST", "UNKNOWN")
_SEVERITIES = ("problem", "warning", "error")
ERROR_SEVERITY = 2

_NANO = 1_000_000_000


def set_duration(field: Duration, span: float) -> None:
    """Put seconds into a Duration; also zero, which is not the same as unset."""
    field.seconds = int(span)
    field.nanos = round((span - int(span)) * 1e9) % _NANO
    field.SetInParent()


def state_name(number: int) -> str:
    """LXC's word for a state; the number of one that a newer daemon knows."""
    return STATES[number] if 0 <= number < len(STATES) else str(number)


def signal_name(number: int) -> str:
    """`SIGKILL`, `SIGRTMIN+3`."""
    import signal

    if number > signal.SIGRTMIN:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_status(end: Exit) -> int:
    """The status that a shell would show."""
    kind = end.WhichOneof("how")
    if kind == "signal":
        return 128 + end.signal
    # An end of which neither is known (the keeper was lost) is not a success.
    return end.code if kind == "code" else 1


def exit_words(end: Exit) -> str:
    """`0 SELF`, `SIGKILL REQUESTED`, `SIGSEGV SELF core`."""
    kind = end.WhichOneof("how")
    words = ["?"]
    if kind == "code":
        words = [str(end.code)]
    elif kind == "signal":
        words = [signal_name(end.signal)]
    cause = CAUSES[end.cause] if 0 <= end.cause < len(CAUSES) else str(end.cause)
    words.append("-" if end.cause == 0 else cause)
    if end.core_dumped:
        words.append("core")
    if end.oom_killed and cause != "OOM":
        words.append("OOM")
    return " ".join(words)


def rfc3339(stamp: Timestamp) -> str:
    """As protobuf's JSON has it: UTC, the fraction only as long as it needs to be."""
    import time

    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp.seconds))
    return f"{text}{_fraction(stamp.nanos)}Z"


def duration_text(span: Duration) -> str:
    """As protobuf's JSON has it: `1.500s`."""
    sign = "-" if span.seconds < 0 or span.nanos < 0 else ""
    return f"{sign}{abs(span.seconds)}{_fraction(abs(span.nanos))}s"


def _fraction(nanos: int) -> str:
    if not nanos:
        return ""
    digits = f"{nanos:09}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f".{digits}"


def local_time(stamp: Timestamp) -> str:
    """For a person, in the time zone of the client."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp.seconds))


def moment(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 from `10m` (so long ago) or RFC 3339; else ValueError."""
    import argparse
    import datetime as dt

    from lxcctl.arguments import seconds

    try:
        return max(0, now_ns - round(seconds(text) * 1e9))
    except argparse.ArgumentTypeError:
        pass
    when = dt.datetime.fromisoformat(text)
    # Without a zone it is meant as local time.
    whole = when.replace(microsecond=0).timestamp()
    return int(whole) * _NANO + when.microsecond * 1000


def set_timestamp(field: Timestamp, moment_ns: int) -> None:
    """Put nanoseconds since 1970 into a Timestamp."""
    field.seconds, field.nanos = divmod(moment_ns, _NANO)
    field.SetInParent()


def problem_line(problem: Problem) -> str:
    """`file:line: severity: key: message`, without the parts that are not known."""
    severity = _SEVERITIES[problem.severity] if problem.severity < len(_SEVERITIES) else "problem"
    parts = (problem.origin, severity, problem.key, problem.message)
    return ": ".join(part for part in parts if part)

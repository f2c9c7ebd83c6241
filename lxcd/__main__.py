"""`lxcd`: the daemon's command line. `lxcd shutdown` asks a running one to stop everything and
leave; `lxcd keeper` becomes the keeper.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import sys
from dataclasses import replace

from lxcd import __version__, errors, log, paths
from lxcd.config import daemon as settings_file

_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lxcd", description="Container supervisor.")
    parser.add_argument(
        "verb",
        nargs="?",
        choices=["shutdown", "keeper"],
        help="shutdown: stop all containers, then lxcd. keeper: become the keeper (for a service"
        " manager; lxcd starts its own else)",
    )
    parser.add_argument(
        "--keeper", choices=["own", "service"], help="service: wait for it, never start one (own)"
    )
    parser.add_argument("--config", metavar="FILE", help=f"settings (default {paths.SETTINGS})")
    parser.add_argument("--lxcpath", metavar="DIR", help=f"containers (default {paths.LXCPATH})")
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help=f"sockets, runtime state (default {paths.RUNTIME_DIR})"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help=f"images, snapshots (default {paths.STATE_DIR})"
    )
    parser.add_argument(
        "--listen", metavar="ADDRESS", action="append", help="unix:PATH; may be given several times"
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="(info)"
    )
    parser.add_argument("--version", action="version", version=f"lxcd {__version__}")
    return parser


def settings_of(options: argparse.Namespace) -> settings_file.Settings:
    """What the command line says counts most, then the settings file; LXC's own system
    configuration, for what is as it is by default.
    """
    settings = settings_file.Settings()
    path = options.config or paths.SETTINGS
    try:
        with open(path, "rb") as file:
            settings, problems = settings_file.load_settings(file.read(), path)
        for problem in problems:
            print(f"lxcd: {problem.origin}: {problem.message}", file=sys.stderr)
    except OSError as error:
        if options.config:
            raise errors.InvalidArgument(f"{path}: {error.strerror}") from None
    settings = _with_system_config(settings)
    for name in ("lxcpath", "runtime_dir", "state_dir"):
        value = getattr(options, name)
        if value:
            settings = replace(settings, **{name: os.path.abspath(value)})
    if options.keeper:
        settings = replace(settings, keeper=options.keeper)
    if options.listen:
        settings = replace(settings, listen=tuple(options.listen))
    return settings


def _with_system_config(settings: settings_file.Settings) -> settings_file.Settings:
    try:
        with open(paths.SYSTEM_CONFIG, "rb") as file:
            system, _ = settings_file.load_system(file.read(), paths.SYSTEM_CONFIG)
    except OSError:
        return settings
    if system.lxcpath and settings.lxcpath == paths.LXCPATH:
        settings = replace(settings, lxcpath=system.lxcpath)
    if system.default_config and settings.default_config == paths.DEFAULT_CONFIG:
        settings = replace(settings, default_config=system.default_config)
    return settings


def _is_without_daemon(settings: settings_file.Settings) -> bool:
    """There is a keeper or what one has left, and no lxcd that it belongs to."""
    from lxcd.supervisor import joining  # noqa: PLC0415 - as above

    roots = paths.Paths(settings.lxcpath, settings.runtime_dir, settings.state_dir)
    try:
        with open(roots.lock, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return joining.is_inhabited(roots)
    except OSError:
        return False


def main() -> int:
    """Entry of the command `lxcd`."""
    options = _parser().parse_args()
    try:
        settings = settings_of(options)
        if options.verb == "shutdown" and not _is_without_daemon(settings):
            from lxcd.rpc import shutdown  # noqa: PLC0415 - the daemon does not need a client

            return shutdown.shut_down(settings)
        if os.geteuid() != 0:
            raise errors.PermissionDenied("lxcd has to be started by root")
        if options.verb == "keeper":
            from lxcd.supervisor import launch  # noqa: PLC0415

            launch.become_keeper(settings.runtime_dir)
        log.set_up(options.log_level)
        import uvloop  # noqa: PLC0415 - what is imported here, --help does not wait for

        from lxcd import daemon  # noqa: PLC0415

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            # Without a daemon, but with what one has left: be the daemon that stops it.
            runner.run(daemon.run(settings, leave_at_once=options.verb == "shutdown"))
    except errors.LxcdError as error:
        print(f"lxcd: {error.text}", file=sys.stderr)
        return _UNAVAILABLE if isinstance(error, errors.Unavailable) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Making a container's directory, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config import writer
from lxcd.images import host as host_image
from lxcd.supervisor import removal
from lxcd.supervisor.definition import CONFIG_NAME, SETTINGS_NAME, ConfigFile

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container

# The configuration of a container that is being renamed, until its directory is; the new name
# follows.
_RENAMED = "config.lxcd-for-"


def with_defines(text: bytes, items: tuple[tuple[str, str], ...], *, keep_first: str = "") -> bytes:
    """Write keys into a text; `keep_first` only where the text does not have it."""
    for key, value in items:
        if key == keep_first and writer.values_of(text, key):
            continue
        text = writer.add_value(text, key, value)
    return text


def write_directory(
    directory: str, text: bytes, skeleton: host_image.Skeleton | None, owner: str
) -> None:
    """Make LXCPATH/NAME whole or not at all: under a hidden name first."""
    aside = removal.hidden(directory, removal.CREATING, owner)
    try:
        os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
        if os.path.lexists(aside):
            removal.remove_tree(aside)
        # 0770 is LXC's. Setuid files made inside must not be reached by users of the host (I13).
        os.mkdir(aside, 0o770)
        try:
            if skeleton is not None:
                host_image.build(os.path.join(aside, "rootfs"), skeleton)
                with open(os.path.join(aside, SETTINGS_NAME), "x", encoding="ascii") as settings:
                    settings.write(f'image = "{host_image.NAME}"\n')
            with open(os.path.join(aside, CONFIG_NAME), "xb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, directory)
        except BaseException:
            removal.remove_tree(aside)
            raise
    except OSError as error:
        raise errors.from_oserror(error, f"making {directory}") from None


def write_transient(directory: str, skeleton: host_image.Skeleton, owner: str) -> None:
    """Make it whole or not at all, as `_write_directory` does."""
    aside = removal.hidden(directory, removal.CREATING, owner)
    try:
        os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
        for old in (aside, directory):
            # Of an earlier life of this very container, which is over: its name is free.
            if os.path.lexists(old):
                removal.remove_tree(old)
        os.mkdir(aside, 0o770)
        try:
            host_image.build(os.path.join(aside, "rootfs"), skeleton)
            os.rename(aside, directory)
        except BaseException:
            removal.remove_tree(aside)
            raise
    except OSError as error:
        raise errors.from_oserror(error, f"making {directory}") from None


def rename(actor: Container, target: str, new_name: str) -> None:
    """Give a stopped container's directory another name; its configuration follows.

    That stands beside the old one, under a name that says for which directory it is, before the
    directory is renamed: whoever is killed in between leaves what `finish_renames` can finish.
    """
    old = actor.directory
    text = actor.definition().text
    changed = text.replace(f"{old}/".encode(), f"{target}/".encode())
    if actor.definition().config.uts_name == actor.name:
        changed = writer.set_key(changed, "lxc.uts.name", (new_name,))
    waiting = _RENAMED + new_name
    if changed != text:
        beside = ConfigFile(old, waiting)
        beside.write(changed, like=os.path.join(old, CONFIG_NAME))
    try:
        os.rename(old, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(old, waiting))
        raise errors.from_oserror(error, f"renaming {old}") from None
    if changed != text:
        os.rename(os.path.join(target, waiting), os.path.join(target, CONFIG_NAME))


def finish_renames(lxcpath: str) -> None:
    """Go on where a crash of the host has cut renames short: no record tells of them then."""
    for name in os.listdir(lxcpath) if os.path.isdir(lxcpath) else []:
        finish_rename(os.path.join(lxcpath, name))


def finish_rename(directory: str) -> None:
    """Have a directory the configuration that goes with its name, whichever it had when a rename
    was cut short.
    """
    with contextlib.suppress(OSError):
        for entry in os.listdir(directory):
            path = os.path.join(directory, entry)
            if entry == _RENAMED + os.path.basename(directory):
                os.rename(path, os.path.join(directory, CONFIG_NAME))
            elif entry.startswith(_RENAMED):
                os.unlink(path)

"""Which line belongs to which network device. State over the lines of a text, in their order."""

from __future__ import annotations

from dataclasses import dataclass, field

from lxcd.config import nic_keys
from lxcd.config.model import Nic, Problem, Setting
from lxcd.config.reader import in_same_text


@dataclass(slots=True)
class _Draft:
    kind: str = ""
    origin: str = ""
    # By name: place in the text, value.
    options: dict[str, list[tuple[int, Setting]]] = field(
        default_factory=dict[str, "list[tuple[int, Setting]]"]
    )

    def settings(self) -> tuple[Setting, ...]:
        """Return all options in the order of the text."""
        all_of_them = [one for held in self.options.values() for one in held]
        return tuple(one for _, one in sorted(all_of_them, key=lambda pair: pair[0]))


class Network:
    """The devices so far. Feed it every line of the network, then ask for `nics`."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._drafts: dict[int, _Draft] = {}
        self._largest = -1
        self._count = 0
        # The device that `lxc.network.X` without a number is about: the last that
        # `lxc.network.type` began.
        self._current: int | None = None
        # Options before the first `lxc.network.type`. LXC refuses them; we keep them for the
        # device that follows.
        self._early: list[tuple[str, str, str, str]] = []

    def name(self, what: nic_keys.NicName) -> str:
        """Say the modern name of a key, without taking it in."""
        index = what.index
        if index is None and what.option:
            begins = what.option == nic_keys.TYPE
            index = self._next() if begins or self._current is None else self._current
        parts = ["lxc.net", *([] if index is None else [str(index)]), what.option]
        return ".".join(part for part in parts if part)

    def take(self, what: nic_keys.NicName, key: str, value: str, origin: str) -> str:
        """Take in one line and return its modern name.

        Args:
            what: the key, taken apart.
            key: the key as written, for messages.
            value: may be empty, which clears.
            origin: the line.
        """
        name = self.name(what)
        if not what.option:
            if value:
                self._problem("error", origin, key, "takes only an empty value, which clears it")
            elif what.index is None:
                self._clear()
            else:
                self._drafts.pop(what.index, None)
            return name
        if what.index is not None:
            self._set(what.index, what.option, value, key, origin)
        elif what.option == nic_keys.TYPE and value:
            # Looked at first: with a type that is none, the options behind it still belong to a
            # device of their own.
            self._current = self._next()
            self._set(self._current, nic_keys.TYPE, value, key, origin)
            for option, text, early_key, where in self._early:
                self._set(self._current, option, text, early_key, where)
            self._early.clear()
        elif self._current is None:
            text = "stands before lxc.network.type: taken for the device that follows"
            self._problem("warning", origin, key, text)
            self._early.append((what.option, value, key, origin))
        else:
            self._set(self._current, what.option, value, key, origin)
        return name

    def nics(self) -> tuple[Nic, ...]:
        """Return the devices in the order of their numbers; one without a type is a problem."""
        found: list[Nic] = []
        for index, draft in sorted(self._drafts.items()):
            if draft.kind:
                found.append(Nic(index, draft.kind, draft.settings(), draft.origin))
            elif draft.settings():
                key = f"lxc.net.{index}.type"
                text = f"network device {index} has options, but no type"
                self._problem("error", draft.settings()[0].origin, key, text)
        for _, _, key, origin in self._early:
            self._problem("error", origin, key, "no lxc.network.type that it could belong to")
        return tuple(found)

    def origins(self) -> dict[str, str]:
        """Return where each single value of each device comes from, by its modern name."""
        found: dict[str, str] = {}
        for index, draft in self._drafts.items():
            if draft.kind:
                found[f"lxc.net.{index}.type"] = draft.origin
            for one in draft.settings():
                if not nic_keys.OPTIONS[one.name].several:
                    found[f"lxc.net.{index}.{one.name}"] = one.origin
        return found

    def _next(self) -> int:
        return self._largest + 1

    def _clear(self) -> None:
        self._drafts.clear()
        self._largest = -1
        self._early.clear()
        self._current = None

    def _set(self, index: int, option: str, value: str, key: str, origin: str) -> None:
        draft = self._drafts.setdefault(index, _Draft())
        self._largest = max(self._largest, index)
        self._count += 1
        row = nic_keys.OPTIONS[option]
        if value:
            try:
                row.read(value)
            except ValueError as error:
                self._problem("error", origin, key, str(error))
                return
        held = draft.options.setdefault(option, [])
        # LXC takes the last of two values, and an empty one as none at all.
        if not row.several or not value:
            before = draft.origin if option == nic_keys.TYPE else held[0][1].origin if held else ""
            if value and in_same_text(origin, before):
                text = f"given again: this counts, not {before}"
                self._problem("warning", origin, key, text)
            held.clear()
        if option == nic_keys.TYPE:
            draft.kind, draft.origin = value, origin if value else ""
        elif value:
            held.append((self._count, Setting(option, value, origin)))

    def _problem(self, severity: str, origin: str, key: str, message: str) -> None:
        self.problems.append(
            Problem("error" if severity == "error" else "warning", origin, key, message)
        )

"""Plans of late: what is started again and again is compiled once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from lxcd.container import plan

if TYPE_CHECKING:
    from lxcd.supervisor.definition import Definition

_KEPT = 32  # some 60 kB each


class Plans:
    """For this host."""

    def __init__(self, host: plan.Host) -> None:
        self._host = host
        self._kept: OrderedDict[int, tuple[Definition, plan.Life, plan.Plan]] = OrderedDict()

    def compile(self, definition: Definition, life: plan.Life) -> plan.Plan:
        """See `plan.compile_plan`. A definition that has not changed is the same object."""
        found = self._kept.get(id(definition))
        if found is None or found[0] is not definition or found[1] != life:
            made = plan.compile_plan(definition.config, self._host, life)
            found = self._kept[id(definition)] = definition, life, made
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(id(definition))
        return found[2]

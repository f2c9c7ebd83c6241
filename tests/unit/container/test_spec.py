from __future__ import annotations

from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.container import init, spec
from lxcd.container.join import Join
from lxcd.container.spec import Spec, Step

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=400)
TEXT = st.binary(max_size=8).map(lambda data: data.decode(errors="surrogateescape"))


def every_step() -> list[type[Step]]:
    found = {
        kind
        for room in (*init.STEP_ROOMS, init)
        for kind in vars(room).values()
        if isinstance(kind, type) and issubclass(kind, Step) and kind is not Step
    }
    return sorted(found, key=lambda kind: kind.__name__)


def values(hint: Any) -> st.SearchStrategy[Any]:
    if hint is str:
        return TEXT
    if hint is int:
        return st.integers()
    if hint is bool:
        return st.booleans()
    if hint is type(None):
        return st.none()
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*(values(argument) for argument in arguments))
    return st.one_of(*(values(argument) for argument in arguments))


def steps() -> st.SearchStrategy[Step]:
    return st.one_of(
        *(
            st.builds(
                kind,
                **{
                    name: values(hint)
                    for name, hint in get_type_hints(kind).items()
                    if name != "name"
                },
            )
            for kind in every_step()
        )
    )


def test_the_list_is_whole() -> None:
    assert Join in every_step()
    assert len(every_step()) >= 24
    assert len({kind.name for kind in every_step()}) == len(every_step())


@STEADY
@given(TEXT, st.lists(steps(), max_size=3))
def test_round_trip(container: str, these: list[Step]) -> None:
    made = Spec(container, tuple(these))
    assert spec.decode(made.encode()) == made

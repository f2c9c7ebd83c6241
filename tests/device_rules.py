"""Lists of device rules, and accesses to devices, such that one is often about the other."""

from __future__ import annotations

from hypothesis import strategies as st

from lxcd.cgroup.devices import ALL, EVERYTHING, Kind, Policy, Rule

# What nobody has, or what may be opened by anybody: the kernel tests open them.
MAJORS, MINORS = (1, 5, 200), (3, 5, 7)

KINDS: tuple[Kind, ...] = ("b", "c")
ACCESSES: list[tuple[Kind, int, int, int]] = [
    (kind, major, minor, access)
    for kind in KINDS
    for major in MAJORS
    for minor in MINORS
    for access in range(ALL + 1)
]


def rules() -> st.SearchStrategy[Rule]:
    """One rule, mostly about one or several devices."""
    some = st.builds(
        Rule,
        st.booleans(),
        st.sampled_from(KINDS),
        st.sampled_from((None, *MAJORS)),
        st.sampled_from((None, *MINORS)),
        st.integers(1, ALL),
    )
    return st.one_of(some, some, some, some, st.builds(Rule, st.booleans(), st.just("a")))


def rule_lists() -> st.SearchStrategy[list[Rule]]:
    """Some of them, in order."""
    return st.lists(rules(), max_size=12)


def policies() -> st.SearchStrategy[Policy]:
    """What they come to."""
    return rule_lists().map(EVERYTHING.but)

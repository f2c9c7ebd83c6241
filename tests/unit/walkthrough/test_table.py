"""The article's steps as data, and what `contrib/article` makes of what came of one."""

from __future__ import annotations

from dataclasses import replace

from contrib.walkthrough import image, inside, report
from contrib.walkthrough.figures import Result, Shown, from_line, lacks, to_line
from contrib.walkthrough.preparations import PREPARATIONS
from contrib.walkthrough.table import CHAPTERS, STEPS

_GOOD = Result("info", Shown("'003' is RUNNING", "# lxc-info -n 003", "a reason"))


def test_every_step_is_carried_out_and_no_other() -> None:
    names = [step.name for step in STEPS]
    assert sorted(names) == sorted(inside.ACTS)
    assert len(set(names)) == len(names)
    assert all(step.typed and step.holds for step in STEPS)


def test_a_result_crosses_as_a_line() -> None:
    for result in (_GOOD, Result("ls", Shown(wrong=("one", "two")))):
        assert from_line(to_line(result)) == result
        assert "\n" not in to_line(result)


def test_what_a_text_lacks() -> None:
    assert lacks("one two", "one") == ()
    assert lacks("one two", "one", "three") == ("it does not show 'three'",)


def test_a_step_is_shown_beside_the_article() -> None:
    shown = report.step(_GOOD)
    assert shown.index("'004' is STOPPED") < shown.index("here:") < shown.rindex("'003' is RUNNING")
    assert "a reason" in shown
    assert "  ok: word for word\n" in shown
    bad = replace(_GOOD, shown=replace(_GOOD.shown, wrong=("other words",)))
    assert "DIFFERS: word for word\n    but other words\n" in report.step(bad)


def test_chapters_begin_with_their_title() -> None:
    for chapter in CHAPTERS:
        for step in chapter.steps:
            shown = report.step(Result(step.name, Shown()))
            assert (f"\n{chapter.title}\n=" in shown) == (step is chapter.steps[0])


def test_the_summary_counts_what_differs_and_what_was_not_reached() -> None:
    results = {
        "info": _GOOD,
        "ls": Result("ls", Shown(wrong=("other lines",))),
    }
    shown = report.summary(["info", "ls", "boot"], results)
    assert "1 of 3 steps as in the article." in shown
    assert "differs: ls: other lines\n" in shown
    assert "not reached: boot\n" in shown


def test_each_preparation_of_the_article_has_its_answer() -> None:
    shown = report.preparations()
    for word in (
        *("development tools", "SELinux", "NetworkManager", "cgconfig", "/lxc/cgroup", "ptmx"),
        *("rc.sysinit", "halt", "start-ttys", "inittab", "ifcfg", "fstab", "loop", "route"),
    ):
        assert word in shown
    assert all(one.reason for one in PREPARATIONS)


def test_the_partition_table_of_the_image() -> None:
    table = image.partition_table()
    assert len(table) == 66
    assert table[-2:] == b"\x55\xaa"
    # Kind, first sector, number of sectors: of the second entry, which the article mounts.
    assert table[16 + 4] == 0x83
    assert int.from_bytes(table[24:28], "little") * 512 == image.ROOT_OFFSET_BYTES

"""Regular expressions as lxc-ls takes them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
from lxc_compat.__main__ import dispatch
from lxc_compat.regex import compiled

from lxcd.v1 import container_pb2

if TYPE_CHECKING:
    from tests.unit.lxcctl.conftest import FakeDaemon

_CLASSES = {
    "alnum": "aZ0",
    "alpha": "aZ",
    "blank": " \t",
    "cntrl": "\x01\x7f",
    "digit": "09",
    "graph": "a0!",
    "lower": "az",
    "print": "a !",
    "punct": "!_-.",
    "space": " \n\t",
    "upper": "AZ",
    "xdigit": "09afAF",
}
_ALL = "".join(map(chr, range(1, 128)))


@pytest.mark.parametrize("name", sorted(_CLASSES))
def test_classes(name: str) -> None:
    inside, outside = compiled(f"^[[:{name}:]]$"), compiled(f"^[^[:{name}:]]$")
    assert all(inside.search(letter) for letter in _CLASSES[name])
    for letter in _ALL:
        assert bool(inside.search(letter)) != bool(outside.search(letter))


@pytest.mark.parametrize(
    ("text", "holds", "lacks"),
    [
        ("^a", "ab", "ba"),
        ("er$", "longer", "err"),
        ("^(web|db)[0-9]{2}$", "db07", "db7"),
        ("[[:digit:]_-]", "a-", "ab"),
        # Of these Python warns, or thinks otherwise.
        ("[[a]", "[", "b"),
        ("[]x]", "]", "["),
        (r"[\d]", "\\", "7"),
        ("^[+--]$", ",", "."),
        ("^[a||b]$", "|", "c"),
        ("^a{,2}$", "aa", "aaa"),
        ("^a{2}$", "aa", "a"),
        ("^a{2,}b$", "aaab", "ab"),
        ("^a*?$", "aa", "b"),
        ("^a++$", "aa", ""),
        ("^(a|b*)*c$", "abbac", "abba"),
        ("[[.-.]x]", "-", "y"),
        ("^[[=a=]-c]$", "b", "-"),
        ("^[a-]$", "-", "b"),
        ("a)", "a)", "a"),
        ("^a|b$", "ac", "ca"),
        ("(^|-)web($|-)", "a-web", "aweb"),
        (r"\<eb", "eb1", "web1"),
        (r"^(a)\1$", "aa", "a1"),
        (r"a\.b", "a.b", "axb"),
        (r"^\a\-$", "a-", "a"),
        ("^.$", "\n", ""),
    ],
)
def test_what_is_found(text: str, holds: str, lacks: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compiled(text)
    assert found.search(holds)
    assert not found.search(lacks)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "(",
            "(a",
            "[",
            "[a",
            "[]",
            "[^]",
            "\\",
            "[[:alpha:",
            "[[:nosuch:]]",
            "[b-a]",
            "[a-[:digit:]]",
        ),
        *(
            "[[:alpha:]-z]",
            "[[.ab.]]",
            "*a",
            "(*a)",
            "a|+",
            "^*",
            r"\b?",
            "a{2,1}",
            "a{",
            "a{}",
            "a{x}",
        ),
        *("a{99999}", r"\1"),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        compiled(text)


def test_one_that_is_too_deep() -> None:
    with pytest.raises(ValueError, match="parentheses"):
        compiled("(" * 100_000)


def test_what_ls_makes_of_them(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LXCD_ADDRESS", daemon.address)
    names = ("a1", "web-2", "7")
    daemon.on["ListContainers"] = lambda _: container_pb2.ListContainersResponse(
        containers=[container_pb2.Container(name=name, defined=True) for name in names]
    )
    for arguments, shown in (
        (["^[[:alpha:]]"], "a1\nweb-2\n"),
        (["--filter=[[:punct:]]"], "web-2\n"),
        ([""], "a1\nweb-2\n7\n"),
        ([], "a1\nweb-2\n7\n"),
    ):
        assert dispatch("lxc-ls", ["-1", *arguments]) == 0
        assert capsys.readouterr() == (shown, "")
    assert dispatch("lxc-ls", ["[[:alpha:"]) == 1
    assert capsys.readouterr().err.startswith("lxcctl: --filter: '[[:alpha:': ")

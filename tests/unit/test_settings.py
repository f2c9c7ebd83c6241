"""Which of the settings counts: the command line's, those of lxcd.toml, or LXC's own."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from lxcd import paths
from lxcd.__main__ import settings_of

NONE = ("/var/lib/lxc", "/etc/lxc/default.conf")


@pytest.mark.parametrize(
    ("toml", "conf", "lxcpath", "found"),
    [
        ("", "", None, NONE),
        ("", "lxc.lxcpath = /c\n", None, ("/c", NONE[1])),
        ("", "lxc.default_config = /c.conf\n", None, (NONE[0], "/c.conf")),
        ('lxcpath = "/t"', "lxc.lxcpath = /c\nlxc.default_config = /c.conf\n", None, ("/t", "/c.conf")),
        ('default_config = "/t.conf"', "lxc.lxcpath = /c\nlxc.default_config = /c.conf\n", None, ("/c", "/t.conf")),
        ('lxcpath = "/t"', "lxc.lxcpath = /c\n", "/o", ("/o", NONE[1])),
    ],
)  # fmt: skip
def test_which_counts(
    toml: str,
    conf: str,
    lxcpath: str | None,
    found: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "lxcd.toml").write_text(toml)
    (tmp_path / "lxc.conf").write_text(conf)
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", str(tmp_path / "lxc.conf"))
    options = Namespace(
        config=str(tmp_path / "lxcd.toml"),
        lxcpath=lxcpath,
        runtime_dir=None,
        state_dir=None,
        keeper=None,
        listen=None,
    )
    settings = settings_of(options)
    assert (settings.lxcpath, settings.default_config) == found

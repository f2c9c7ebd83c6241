"""Containers that are not there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from lxc_compat.__main__ import dispatch

from lxcd.v1 import container_pb2

if TYPE_CHECKING:
    from tests.unit.lxcctl.conftest import FakeDaemon, Refusal

ERAS = pytest.mark.parametrize("era", ["7.0", "0.7"])


@pytest.fixture(autouse=True)
def absent(daemon: FakeDaemon, refusal: type[Refusal], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> Any:
        raise refusal("NOT_FOUND", "no container box", "CONTAINER_NOT_FOUND")

    monkeypatch.setenv("LXCD_ADDRESS", daemon.address)
    daemon.on["GetContainer"] = daemon.on["WaitContainer"] = refuse


@ERAS
def test_a_wait_until_its_time_is_over(era: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXCD_COMPAT", era)
    begin = time.monotonic()
    status = dispatch("lxc-wait", ["-n", "box", "-s", "RUNNING|FROZEN", "-t", "1"])
    assert status == (1 if era == "7.0" else 255)
    assert 1 <= time.monotonic() - begin < 10
    assert dispatch("lxc-wait", ["-n", "box", "-s", "RUNNING", "-t", "0"]) == status
    assert dispatch("lxc-wait", ["-n", "box", "-s", "RUNNING|STOPPED"]) == 0


@ERAS
def test_a_wait_for_one_that_comes(
    daemon: FakeDaemon, refusal: type[Refusal], era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXCD_COMPAT", era)

    def come(_: Any) -> Any:
        if len(daemon.asked("WaitContainer")) < 3:
            raise refusal("NOT_FOUND", "no container box", "CONTAINER_NOT_FOUND")
        return container_pb2.WaitContainerResponse(reached=True)

    daemon.on["WaitContainer"] = come
    assert dispatch("lxc-wait", ["-n", "box", "-s", "RUNNING"]) == 0


def test_in_the_eyes_of_an_old_lxc_it_does_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXCD_COMPAT", "0.7")
    assert dispatch("lxc-info", ["-n", "001"]) == 0
    assert dispatch("lxc-stop", ["-n", "001"]) == 0
    assert capsys.readouterr() == ("'001' is STOPPED\n", "")
    assert dispatch("lxc-info", ["-n", "001", "-p"]) == 255


def test_in_those_of_a_new_one_it_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("lxc-info", ["-n", "001"]) == 1
    assert dispatch("lxc-stop", ["-n", "001"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "lxcctl: 001 doesn't exist\nlxcctl: 001 is not running\n"

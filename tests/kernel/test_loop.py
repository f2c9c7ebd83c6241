"""Loop devices of the real kernel: attached, shown, and gone with the last who has them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import loop
from lxcd.kernel.fd import Fd
from tests.kernel.inits import until

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Fd]:
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE // 2) + b"x" * (SIZE // 2))
    with Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC)) as opened:
        yield opened


def attach(file: Fd, *, read_only: bool = False, reference: str = "") -> tuple[int, Fd]:
    """A part of the file behind a device that was free; others may want the same."""
    with Fd(loop.open_control()) as control:
        while True:
            number = loop.free_number(control.fileno())
            device = Fd(loop.open_device(number, writable=not read_only))
            try:
                loop.configure(
                    device.fileno(), file.fileno(), SIZE // 2, 4096, reference, read_only=read_only
                )
            except OSError as error:
                device.close()
                if error.errno != errno.EBUSY:
                    raise
            else:
                return number, device


def is_free(number: int) -> bool:
    """Nothing of ours is behind it any more; somebody else may have it by now."""
    backing = Path(f"/sys/block/loop{number}/loop/backing_file")
    try:
        return "pytest" not in backing.read_text()
    except OSError:
        return True


@pytest.mark.parametrize("read_only", [False, True])
def test_what_was_attached_is_shown_and_read(file: Fd, read_only: bool) -> None:  # noqa: FBT001
    number, device = attach(file, read_only=read_only, reference="container c" + "x" * 100)
    with device:
        found = loop.status(device.fileno())
        own = os.fstat(file.fileno())
        assert (found.device, found.inode, found.behind) == (own.st_dev, own.st_ino, 0)
        assert (found.offset_bytes, found.size_bytes) == (SIZE // 2, 4096)
        assert (found.read_only, found.autoclear) == (read_only, True)
        assert found.reference == ("container c" + "x" * 100)[:63]
        assert os.pread(device.fileno(), 8192, 0) == b"x" * 4096
        with Fd(loop.open_device(number, writable=False)) as other:
            assert loop.status(other.fileno()) == found
    until(lambda: is_free(number), "it is free")


def test_one_that_is_taken_is_busy(file: Fd) -> None:
    number, device = attach(file)
    with device, Fd(loop.open_device(number, writable=True)) as late:
        with pytest.raises(OSError, match="busy") as caught:
            loop.configure(late.fileno(), file.fileno(), 0, 0, "", read_only=False)
        assert caught.value.errno == errno.EBUSY
    until(lambda: is_free(number), "it is free")


def test_a_lock_lasts_as_long_as_the_device(file: Fd, tmp_path: Path) -> None:
    assert kernel_fd.lock_range(file.fileno(), SIZE // 2, 4096, exclusive=True)
    number, device = attach(file)
    file.close()
    with Fd(os.open(tmp_path / "image", os.O_RDWR | os.O_CLOEXEC)) as other:
        again = other.fileno()
        with device:
            assert not kernel_fd.lock_range(again, 0, 0, exclusive=True)
            assert not kernel_fd.lock_range(again, SIZE // 2 + 4095, 1, exclusive=False)
            assert kernel_fd.lock_range(again, 0, SIZE // 2, exclusive=True)
            assert kernel_fd.is_locked(again, SIZE // 2, 1)
            assert not kernel_fd.is_locked(again, SIZE // 2 + 4096, 0)
        until(lambda: is_free(number), "it is free")
        until(lambda: kernel_fd.lock_range(again, 0, 0, exclusive=True), "the lock is gone")

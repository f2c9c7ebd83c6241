from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lxcd.container.guest_fstab import fitted

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=300)
_FIELDS = st.lists(
    st.sampled_from(
        [
            *("UUID=1", "LABEL=a", "/dev/sdb1", "/srv", "/", "none", "swap", "ext4", "tmpfs"),
            *("loop", "defaults,bind", "0", "#", "\\040", "\\777", "\udcff", "x" * 50),
        ]
    ),
    max_size=7,
)
_FILES = st.lists(st.one_of(st.just(""), _FIELDS.map("\t".join)), max_size=8).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogateescape")
)


def _left_out(line: str, *devices: str) -> str:
    """What is said of a line; empty where it stays."""
    fit = fitted(f"{line}\n".encode(), devices)
    if fit is None:
        return ""
    last = fit.decode().splitlines()[-1]
    assert last.startswith("# ")
    assert last.endswith(f": {line}")
    return last.removeprefix("# ").removesuffix(f": {line}")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("UUID=5b5b9f0a-7f0c / ext4 errors=remount-ro 0 1", "mounted already"),
        ("/dev/root / ext4", "mounted already"),
        ("UUID=0f4d3c52 /boot ext4 defaults 0 2", "no such device here"),
        ('UUID="0f4d3c52" /boot ext4 defaults 0 2', "no such device here"),
        ("  LABEL=home\t/home  xfs nofail", "no such device here"),
        ("PARTUUID=1 /a ext4", "no such device here"),
        ("PARTLABEL=1 /a ext4", "no such device here"),
        ("/dev/vdc1 /srv xfs defaults 0 2", "no such device here"),
        ("/dev/mapper/vg-var\\040x /var xfs defaults", "no such device here"),
        ("/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0", "no such device here"),
        ("UUID=c1f0 none swap sw 0 0", "swap is the host's"),
        ("/swapfile none swap sw 0 0", "swap is the host's"),
        ("/images/a.iso /mnt iso9660 ro,loop=/dev/loop3 0 0", "no loop devices here"),
        ("/images/a.iso /mnt iso9660 loop,ro", "no loop devices here"),
    ],
)
def test_lines_that_no_container_can_follow(line: str, why: str) -> None:
    assert _left_out(line) == why


@pytest.mark.parametrize(
    "line",
    [
        "tmpfs /tmp tmpfs nosuid,nodev,size=1m 0 0",
        "proc /proc proc defaults 0 0",
        "none /proc/sys/fs/binfmt_misc binfmt_misc defaults 0 0",
        "server:/export /home nfs4 _netdev 0 0",
        "//server/share /mnt cifs guest 0 0",
        "/srv/www /var/www none bind 0 0",
        "/dev/shm /var/shm none rbind 0 0",
        "overlay /m overlay lowerdir=/a:/b 0 0",
        "# UUID=1 / ext4 defaults 0 1",
        "#/dev/sda1 /boot ext4 defaults 0 1",
        "UUID=1 /boot",  # mount(8) does not understand it either
        "/dev/\\377 /a ext4 defaults",
        "",
    ],
)
def test_lines_that_stay(line: str) -> None:
    assert _left_out(line) == ""


def test_a_device_that_the_container_is_given_stays() -> None:
    line = "/dev/sdb1 /srv ext4 defaults 0 2"
    assert _left_out(line, "dev/sdb1") == ""
    assert _left_out(line, "dev/sdb") == "no such device here"


def test_the_rest_of_the_file_stays_in_its_place() -> None:
    text = b"# mine\n\nUUID=1 / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0"
    fit = fitted(text, ())
    assert fit is not None
    assert fit.endswith(
        b"# mine\n\n# mounted already: UUID=1 / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0"
    )
    assert all(line.startswith(b"#") for line in fit.split(b"# mine")[0].splitlines())


@STEADY
@given(_FILES)
@example(b"")
@example(b"\0\0\0")
@example(b"\xff\xfe /dev/sda / swap\n")
def test_what_is_fitted_is_fit_and_keeps_every_line(text: bytes) -> None:
    fit = fitted(text, ())
    if fit is None:
        return
    assert fitted(fit, ()) is None
    old, new = text.split(b"\n"), fit.split(b"\n")
    assert len(new) == len(old) + 2
    assert all(after.endswith(before) for before, after in zip(old, new[2:], strict=True))


@STEADY
@given(st.binary(max_size=200))
def test_any_bytes_are_read(text: bytes) -> None:
    fit = fitted(text, ())
    assert fit is None or fit.startswith(b"# lxcd")

"""The endpoint for Prometheus: what it answers, and to whom it does not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.rpc import scraping
from lxcd.rpc.metrics import Facts
from lxcd.rpc.scraping import Scraping
from lxcd.v1 import stats_pb2, types_pb2
from tests.unit.rpc.sampled import read, read_openmetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)
ANYWHERE = "127.0.0.1:0"
DEADLINE = 60.0


async def sample() -> list[stats_pb2.ContainerStats]:
    return [
        stats_pb2.ContainerStats(
            name=f"c{number}", state=types_pb2.STATE_RUNNING, cpu=stats_pb2.CpuStats(usage_usec=5)
        )
        for number in range(3)
    ]


async def facts() -> Facts:
    return Facts("1", 7, {"running": 3})


@pytest.fixture
async def server() -> AsyncIterator[Scraping]:
    found = Scraping(sample, facts)
    yield found
    await found.close()


async def ask(port: int, request: bytes, *, shut: bool = False) -> bytes:
    """All that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if shut:
            writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


def get(path: str = "/metrics", method: str = "GET", **headers: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


async def test_text(server: Scraping) -> None:
    port = await server.listen(ANYWHERE)
    head, _, body = (await ask(port, get())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert f"Content-Length: {len(body)}".encode() in head
    families = {one.name: one for one in read(body.decode())}
    usage = families["lxcd_container_cpu_usage_seconds"]
    assert [one.labels["name"] for one in usage.samples] == ["c0", "c1", "c2"]


async def test_openmetrics(server: Scraping) -> None:
    port = await server.listen(ANYWHERE)
    answer = await ask(port, get(accept="application/openmetrics-text; version=1.0.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/openmetrics-text; version=1.0.0" in head
    assert read_openmetrics(body.decode())


async def test_head_has_no_body(server: Scraping) -> None:
    port = await server.listen(ANYWHERE)
    whole = await ask(port, get())
    head = await ask(port, get(method="HEAD"))
    assert whole.startswith(head)
    assert head.endswith(b"\r\n\r\n")
    assert (await ask(port, get("/", method="HEAD"))).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/metrics/../../etc/passwd"), 404),
        (get("/metrics?name[]=x"), 200),
        (get(method="POST"), 405),
        (get(method="get"), 405),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (17 << 10) + b"\r\n\r\n", 431),
    ],
)
async def test_status(server: Scraping, request_: bytes, status: int) -> None:
    port = await server.listen(ANYWHERE)
    answer = await ask(port, request_)
    # What is not read to its end may cost the answer, too: the kernel resets such connections.
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) or (status == 431 and not answer)
    assert (b"Allow: GET, HEAD" in answer) == (status == 405)
    # It goes on.
    assert b" 200 OK" in await ask(port, get())


async def test_half_a_request(server: Scraping) -> None:
    port = await server.listen(ANYWHERE)
    assert await ask(port, b"GET /metr", shut=True) == b""
    assert await ask(port, b"", shut=True) == b""
    assert b" 200 OK" in await ask(port, get())


async def test_who_is_slow_is_hung_up_on() -> None:
    server = Scraping(sample, facts, deadline_seconds=0.05)
    port = await server.listen(ANYWHERE)
    try:
        assert await ask(port, b"GET /metrics HTTP/1.1\r\nX: ") == b""
    finally:
        await server.close()


@pytest.mark.slow
async def test_who_does_not_read_is_hung_up_on() -> None:
    async def many() -> list[stats_pb2.ContainerStats]:
        return (await sample()) * 10_000

    server = Scraping(many, facts, deadline_seconds=1)
    port = await server.listen(ANYWHERE)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(get())
        await until(lambda: len(server._connections) == 1)
        await until(lambda: not server._connections)
    await server.close()


async def test_not_more_connections_than_enough(
    server: Scraping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraping, "_MOST_CONNECTIONS", 2)
    port = await server.listen(ANYWHERE)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for _, writer in held:
        writer.write(b"GET ")
    await until(lambda: len(server._connections) == 2)
    assert await ask(port, get()) == b""
    held[0][1].close()
    await until(lambda: len(server._connections) == 1)
    assert b" 200 OK" in await ask(port, get())
    held[1][1].close()


async def test_what_cannot_be_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> list[stats_pb2.ContainerStats]:
        raise errors.Unavailable("no trees")

    server = Scraping(fail, facts)
    port = await server.listen(ANYWHERE)
    try:
        assert (await ask(port, get())).startswith(b"HTTP/1.1 503 ")
    finally:
        await server.close()
    assert "metrics: no trees" in caplog.text


async def test_socket(server: Scraping, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    assert await server.listen(f"unix:{path}") == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(get())
    assert b" 200 OK" in await reader.read()
    writer.close()
    with pytest.raises(errors.AlreadyExists):
        await Scraping(sample, facts).listen(f"unix:{path}")
    await server.close()
    assert not path.exists()


async def test_a_file_at_the_place_of_the_socket(server: Scraping, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(errors.LxcdError, match="listening for metrics"):
        await server.listen(f"unix:{path}")
    assert path.read_text() == "mine"


async def test_port_in_use(server: Scraping) -> None:
    port = await server.listen(ANYWHERE)
    with pytest.raises(errors.LxcdError, match=f"metrics at 127.0.0.1:{port}: Address already"):
        await Scraping(sample, facts).listen(f"127.0.0.1:{port}")


async def test_close_does_not_wait_for_anybody(server: Scraping) -> None:
    port = await server.listen(ANYWHERE)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET ")
    await until(lambda: len(server._connections) == 1)
    await server.close()
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()


@STEADY
@given(st.binary(max_size=300))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    try:
        found: Any = scraping.parse(data)
    except scraping._RefusedError as refused:
        found = refused.status
    assert found is not None

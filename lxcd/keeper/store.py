"""Descriptors that a service manager keeps for us while there is no keeper: systemd's fd store, or
our own trustee where there is none (`trust`).

sd_notify(3): FDSTORE=1 hands one over under a name, FDSTOREREMOVE=1 takes it back, and whoever is
started next finds all of them from number 3 on. FDPOLL=0, or systemd would drop a terminal that
hangs up. The names travel in one environment variable, which the kernel limits to 128 KiB: so they
are short, and what they mean stands in a memfd, the book, which is stored as well.

Without either this is nothing: then lxcd's copies have to do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lxcd.kernel import fd as kernel_fd

if TYPE_CHECKING:
    import socket

    from lxcd.keeper.epoll import Epoll

_BOOK = "book"
_BOOK_BYTES = 1 << 20  # then it is written anew, without what is no more
_BOOK_LIMIT = 64 << 20
_AGAIN_SECONDS = 0.05
_LAST_WORD_SECONDS = 1.0
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Kept:
    """What one stored descriptor is: of which child, `pidfd`, `open`, `ring` or `input`, and its
    pid or stream.
    """

    id: str
    kind: str
    what: str
    detail: str


class Store:
    """Our side of it. Every method returns at once; what systemd has no room for now is sent
    later.
    """

    def __init__(self, epoll: Epoll, notify: socket.socket | None, ends: int = -1) -> None:
        """`ends`: where the trustee that is our parent tells how those ended that it has reaped."""
        self._epoll = epoll
        self.notify = notify
        self._ends = ends
        self.parent = os.getppid() if ends >= 0 else 0
        self._kept: dict[str, Kept] = {}
        self._tokens: dict[tuple[str, str, str], str] = {}
        self._number = 0
        self._books = 0
        self._book = -1
        self._unsent: deque[tuple[str, int]] = deque()
        if notify is not None:
            notify.setblocking(False)

    def begin_anew(self, notify: socket.socket | None) -> None:
        """Another one holds nothing yet, and is not our parent; None: there is none for now."""
        if self.notify is not None:
            self.notify.close()
        waiting = [number for _, number in self._unsent]
        kernel_fd.close_all([n for n in (self._book, self._ends, *waiting) if n >= 0])
        self._kept.clear()
        self._tokens.clear()
        self._unsent.clear()
        self._book = self._ends = -1
        self.parent = 0
        self.notify = notify
        if notify is not None:
            notify.setblocking(False)

    @property
    def busy(self) -> bool:
        """Something has still to be sent."""
        return bool(self._unsent)

    def ready(self) -> None:
        """We can be talked to."""
        self._say("READY=1\n", -1)

    def stopping(self) -> None:
        """Our last word: nobody comes after us. A trustee leaves then."""
        self._say("STOPPING=1\n", -1)
        end = time.monotonic() + _LAST_WORD_SECONDS
        while self._unsent and time.monotonic() < end:
            time.sleep(_AGAIN_SECONDS)
            self._flush()

    def end_of(self, id_: str) -> tuple[int, int] | None:
        """Wait status and time (ns) of a stored child that our trustee has reaped, or is about to;
        None if it is not its child, or lives.
        """
        token = self._tokens.get((id_, "pidfd", ""), "")
        if self._ends < 0 or not token:
            return None
        text = kernel_fd.read_all(self._ends, _BOOK_LIMIT)
        # The last one may be about to be written.
        for line in text[: text.rfind(b"\n") + 1].splitlines():
            name, *words = line.decode().split()
            if name == token:
                return int(words[0]), int(words[1])
        return None

    def keep(self, id_: str, kind: str, what: str, detail: str, number: int) -> None:
        """Store a copy of a descriptor, unless that one is stored already."""
        # A child has one pidfd at a time; its streams are told apart by their names.
        key = (id_, what, "" if what == "pidfd" else detail)
        if self.notify is None or key in self._tokens:
            return
        self._number += 1
        token = _short(self._number)
        self._tokens[key] = token
        self._kept[token] = Kept(id_, kind, what, detail)
        self._write(token)
        self._say(f"FDSTORE=1\nFDNAME={token}\nFDPOLL=0\n", number)

    def drop(self, id_: str, what: str, detail: str = "") -> None:
        """Take one back."""
        token = self._tokens.pop((id_, what, detail), None)
        if token is not None:
            del self._kept[token]
            self._append([token])
            self._say(f"FDSTOREREMOVE=1\nFDNAME={token}\n", -1)

    def forget(self, id_: str) -> None:
        """Take back all of a child's."""
        for of, what, detail in list(self._tokens):
            if of == id_:
                self.drop(of, what, detail)

    def restore(self, numbers: dict[str, int]) -> dict[Kept, int]:
        """What these descriptors are, by the book among them; those it does not know are closed."""
        books = {
            int(name[len(_BOOK) :]): number
            for name, number in numbers.items()
            if name.startswith(_BOOK) and name[len(_BOOK) :].isdecimal()
        }
        # While it was written anew there were two; the later one was whole before it was stored.
        self._books = max(books, default=0)
        text = b""
        if books:
            self._book = books[self._books]
            text = kernel_fd.read_all(self._book, _BOOK_LIMIT)
        found: dict[Kept, int] = {}
        for token, kept in _read(text).items():
            number = numbers.get(token, -1)
            key = (kept.id, kept.what, "" if kept.what == "pidfd" else kept.detail)
            if number >= 0 and key not in self._tokens:
                self._kept[token] = kept
                self._tokens[key] = token
                found[kept] = number
            self._number = max(self._number, int(token, 36))
        used = {self._book, *found.values()}
        for name, number in numbers.items():
            if number not in used:
                self._say(f"FDSTOREREMOVE=1\nFDNAME={name}\n", -1)
                os.close(number)
        return found

    def handed_over(self) -> dict[str, object]:
        """For the next image of the keeper: `resume`."""
        return {
            "notify": self.notify.fileno() if self.notify is not None else -1,
            "ends": self._ends,
            "book": self._book,
            "books": self._books,
            "number": self._number,
            "kept": {
                token: [kept.id, kept.kind, kept.what, kept.detail]
                for token, kept in self._kept.items()
            },
        }

    def resume(
        self, book: int, books: int, number: int, kept: dict[str, list[str]], ends: int = -1
    ) -> None:
        """Go on where an earlier image was."""
        self._ends, self.parent = ends, os.getppid() if ends >= 0 else 0
        self._book, self._books, self._number = book, books, number
        for token, words in kept.items():
            self._kept[token] = Kept(*words)
            self._tokens[words[0], words[2], "" if words[2] == "pidfd" else words[3]] = token

    # ---- the book

    def _write(self, token: str) -> None:
        kept = self._kept[token]
        self._append([token, kept.id, kept.kind, kept.what, kept.detail])

    def _append(self, words: list[str]) -> None:
        if self._book < 0 or os.fstat(self._book).st_size > _BOOK_BYTES:
            self._new_book()
            return
        try:
            # The newline in front ends a line that was cut short.
            os.write(self._book, b"\n" + json.dumps(words).encode())
        except OSError as error:
            print(f"keeper: fd store: {error}", file=sys.stderr)

    def _new_book(self) -> None:
        old, name = self._book, f"{_BOOK}{self._books}"
        self._books += 1
        self._book = os.memfd_create("lxcd-book", os.MFD_CLOEXEC)
        lines = [
            json.dumps([token, kept.id, kept.kind, kept.what, kept.detail])
            for token, kept in self._kept.items()
        ]
        os.write(self._book, "".join(f"\n{line}" for line in lines).encode())
        self._say(f"FDSTORE=1\nFDNAME={_BOOK}{self._books}\nFDPOLL=0\n", self._book)
        if old >= 0:
            self._say(f"FDSTOREREMOVE=1\nFDNAME={name}\n", -1)
            os.close(old)

    # ---- the service manager

    def _say(self, text: str, number: int) -> None:
        if self.notify is None:
            return
        if not self._unsent and self._send(text, number):
            return
        if not self._unsent:
            self._epoll.later(_AGAIN_SECONDS, self._flush)
        self._unsent.append((text, os.dup(number) if number >= 0 else -1))

    def _send(self, text: str, number: int) -> bool:
        if self.notify is None:
            return True
        try:
            kernel_fd.send(self.notify, text.encode(), [number] if number >= 0 else [])
        except BlockingIOError:
            return False
        except OSError as error:
            print(f"keeper: the service manager cannot be told: {error}", file=sys.stderr)
        return True

    def _flush(self) -> None:
        while self._unsent:
            text, number = self._unsent[0]
            if not self._send(text, number):
                self._epoll.later(_AGAIN_SECONDS, self._flush)
                return
            self._unsent.popleft()
            if number >= 0:
                os.close(number)


def _read(text: bytes) -> dict[str, Kept]:
    """What the book says; a line that a crash has cut short is passed over."""
    found: dict[str, Kept] = {}
    for line in text.split(b"\n"):
        try:
            words: object = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(words, list):
            continue
        match cast("list[object]", words):
            case [str(token)]:
                found.pop(token, None)
            case [str(token), str(id_), str(kind), str(what), str(detail)] if _is_token(token):
                found[token] = Kept(id_, kind, what, detail)
            case _:
                continue
    return found


def _is_token(text: str) -> bool:
    return text.isascii() and text.isalnum() and text == text.lower()


def _short(number: int) -> str:
    """A number in few characters; int(text, 36) reads it."""
    text = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text

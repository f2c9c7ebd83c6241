"""How often something is told that may happen a thousand times in a second. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 10.0
LONGEST_SECONDS = 640.0


@dataclass(slots=True)
class Pace:
    """The first `burst` times at once; then after 10 s, 20 s … up to 11 minutes, for as long as it
    goes on. After twice the last interval without it, all over again.
    """

    burst: int = 1
    _told: int = 0
    _last: float = float("-inf")
    _interval: float = FIRST_SECONDS

    def may(self, now: float) -> bool:
        """Whether to tell now; then it counts as told."""
        if now >= self._last + 2 * self._interval:
            self._told, self._interval = 0, FIRST_SECONDS
        if self._told >= self.burst:
            if now < self._last + self._interval:
                return False
            self._interval = min(2 * self._interval, LONGEST_SECONDS)
        self._told += 1
        self._last = now
        return True

    def fresh(self, now: float) -> bool:
        """Whether it is one of the first."""
        return self._told < self.burst or now >= self._last + 2 * self._interval

    def wait(self, now: float) -> float:
        """Seconds until it may be told again."""
        if self._told < self.burst:
            return 0.0
        return max(0.0, self._last + self._interval - now)

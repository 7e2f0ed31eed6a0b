"""When a failed call is tried again, and after how long."""

import random
import time
from dataclasses import dataclass, field

from mplug_services.client.errors import ClientError, OverloadedError, UnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter, for UNAVAILABLE and RESOURCE_EXHAUSTED.

    All calls may be repeated safely: reads change nothing, writes carry a request id or are keyed by
    the ids of their points. A RESOURCE_EXHAUSTED that names no delay (a message that is too large, for
    instance) is not tried again, since waiting would not help.
    """

    max_attempts: int = 5
    """How often a call is sent at most; 1 switches retries off."""
    initial_backoff: float = 0.1
    """Seconds before the second attempt, then doubled each time."""
    max_backoff: float = 5.0
    jitter: float = 0.5
    """Each wait is shortened by a random share up to this, so that clients do not come back all at once."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must lie between 0 and 1, not {self.jitter}")

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after the given attempt (1 for the first) has failed."""
        longest = min(self.initial_backoff * 2.0 ** (attempt - 1), self.max_backoff)
        return longest * (1 - self.jitter * random.random())


DEFAULT_RETRY = RetryPolicy()


@dataclass(slots=True)
class Attempts:
    """The attempts of one call: how long is left, and whether another one follows a failure."""

    policy: RetryPolicy
    timeout: float | None
    """Seconds for all attempts together; None means no limit."""
    made: int = 0
    _start: float = field(default_factory=time.monotonic)

    def remaining(self) -> float | None:
        """Seconds left until the deadline."""
        if self.timeout is None:
            return None
        return max(0.0, self.timeout - (time.monotonic() - self._start))

    def reset(self) -> None:
        """Forgets past failures: a stream has made progress."""
        self.made = 0

    def delay_after(self, error: ClientError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ClientError: The error itself, where trying again makes no sense or there is no time left.
        """
        self.made += 1
        retryable = isinstance(error, UnavailableError) or (
            isinstance(error, OverloadedError) and error.retry_delay is not None
        )
        if not retryable or self.made >= self.policy.max_attempts:
            raise error
        delay = max(self.policy.backoff(self.made), error.retry_delay or 0.0)
        remaining = self.remaining()
        if remaining is not None and delay >= remaining:
            raise error
        return delay

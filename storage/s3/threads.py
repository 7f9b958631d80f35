"""Threads for calls to the bucket, and how many of each kind of call may be under way at once."""

import asyncio

from storage import threads


class Threads(threads.Threads):
    """At most `threads_max` threads, some of which are always left for the short calls."""

    def __init__(self, threads_max: int, *, sending_max: int = 8) -> None:
        super().__init__(threads_max, name="s3")
        self.sending = asyncio.Semaphore(min(sending_max, max(1, threads_max // 4)))
        """To be held over calls that send many bytes: each has its body in memory once more."""
        self.copying = asyncio.Semaphore(max(1, threads_max // 2))
        """To be held over calls that let the store copy."""

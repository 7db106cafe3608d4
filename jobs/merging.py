"""Keep complete thousands of the ledger as one object, while the run goes on."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from jobs import ledger
from jobs.errors import StoreError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from jobs.folder import Planned
    from jobs.ledger import Ledger


class Merging:
    """Which shards are done, one byte each; a complete thousand is merged in a thread.

    Merging saves time when a run is resumed and is not needed for anything else, so a
    store that does not answer is no reason to stop.
    """

    def __init__(self, records: Ledger, planned: Planned) -> None:
        """Nothing is done yet."""
        self._ledger = records
        self._done = bytearray(planned.totals.shards)
        self._counts = [0] * (planned.totals.shards // ledger.GROUP + 1)
        self._merged = records.merged()
        self._thread = ThreadPoolExecutor(1, "merging")
        self._waiting: list[Future[None]] = []

    def __contains__(self, shard: int) -> bool:
        """Whether a shard is done."""
        return bool(self._done[shard])

    def add(self, shard: int) -> None:
        """A shard is in the ledger."""
        if shard >= len(self._done) or self._done[shard]:
            return
        self._done[shard] = 1
        thousand = shard // ledger.GROUP
        self._counts[thousand] += 1
        if self._counts[thousand] == ledger.GROUP and thousand not in self._merged:
            self._waiting.append(self._thread.submit(self._merge, thousand))

    def finish(self) -> None:
        """Wait until all that is complete is merged."""
        for future in self._waiting:
            future.result()

    def close(self) -> None:
        """Leave what is not merged for the next time."""
        self._thread.shutdown(cancel_futures=True)

    def _merge(self, thousand: int) -> None:
        with contextlib.suppress(StoreError):
            self._ledger.merge(thousand)

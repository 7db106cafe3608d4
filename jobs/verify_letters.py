"""Dead letters over a run and its retries: which hold, and which were due.

Memory grows with what was retried, and not with the run.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from jobs.tally import Tally
from jobs.verify_folder import places

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobs.ledger import DeadLetter
    from jobs.shards import Shard
    from jobs.verify_folder import Place

COLUMNS: Final = (
    "uri",
    "key",
    "row",
    "col",
    "height",
    "width",
    "stage",
    "code",
    "message",
    "attempts",
)
"""Of ``dead_letter.parquet``."""


class Retried:
    """What retries have planned, and what they have seen to."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.uris: set[str] = set()
        """Of all that they planned."""

        self._inputs: dict[Place, int] = {}
        self._items: dict[str, int] = {}
        self._wholes: dict[str, int] = {}

    def add(self, number: int, shard: Shard, *, recorded: bool) -> None:
        """A retry has planned a shard; retries come in order."""
        self.uris.update(item.uri for item in shard.items)
        if recorded:
            for place in places(shard):
                self._inputs[place] = number
                self._items[place[0]] = number
                if shard.is_whole:
                    self._wholes[place[0]] = number

    def settles(self, letter: DeadLetter, number: int) -> bool:
        """Whether a letter of pass ``number`` says nothing any more."""
        if letter.row is None:
            return self._items.get(letter.uri, 0) > number
        place = (letter.uri, letter.row, letter.col)
        newest = max(self._inputs.get(place, 0), self._wholes.get(letter.uri, 0))
        return newest > number


class Due:
    """The inputs that a retry may plan: a dead letter of theirs holds."""

    def __init__(self, retried: Retried) -> None:
        """Nothing is due yet; what is never retried is not kept."""
        self._retried = retried
        self._open: dict[str, set[Place]] = {}
        self._due: frozenset[str] = frozenset()

    def begin(self) -> None:
        """The next retry was planned when all before it had been recorded."""
        self._due = frozenset(uri for uri, held in self._open.items() if held)

    def lacking(self, shard: Shard) -> list[str]:
        """Inputs of a retry's shard of which no dead letter holds.

        A block of a mosaic is done again with all its scenes, if one of them is due.
        """
        lacking = [item.uri for item in shard.items if item.uri not in self._due]
        if shard.is_mosaic:
            return lacking[:1] if len(lacking) == len(shard.items) else []
        return lacking

    def add(self, shard: Shard, letters: Iterable[DeadLetter]) -> None:
        """A shard is in the ledger, with these dead letters."""
        for place in places(shard):
            held = self._open.get(place[0], set())
            held -= held if shard.is_whole else {place, (place[0], None, None)}
        for letter in letters:
            if letter.uri in self._retried.uris:
                held = self._open.setdefault(letter.uri, set())
                held.add((letter.uri, letter.row, letter.col))


class Letters:
    """A sum over dead letters that does not depend on their order."""

    def __init__(self) -> None:
        """None yet."""
        self.tally = Tally()
        self.digest = 0

    def add(self, letter: DeadLetter) -> None:
        """Take in one."""
        self.tally.add_letter(letter)
        self.digest ^= digest_of_row({name: getattr(letter, name) for name in COLUMNS})


def digest_of_row(row: dict[str, Any]) -> int:
    """A number that stands for a dead letter."""
    text = json.dumps(row, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest())

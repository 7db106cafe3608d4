"""What can go wrong, and the exit code that says so.

    AtrousError                  what a user can act on
    ├── InputError          2    a wrong command, path, source or bundle
    ├── RunError            2    a run folder that this command may not continue
    ├── UnfinishedError     4    not finished; the same command resumes it
    │   └── StoreError      4    the store does not answer, or refuses for now
    └── BugError            1    ours to mend, with the traceback that shows it
    ItemError                    one input that could not be done: a dead letter

Exit codes: 0 all written; 1 a bug; 2 wrong command, file or input; 3 finished
with dead letters; 4 not finished, resumable; 5 a check found a difference; 130 and
143 interrupted by Ctrl-C or SIGTERM, resumable too.
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
DEAD_LETTERS: Final = 3
DIFFERENCE: Final = 5

CODES: Final = {
    "not_found": "the object is gone",
    "forbidden": "the credentials may not read it",
    "input_changed": "it is not the object that was planned",
    "truncated": "fewer bytes came than the store announced, every time",
    "corrupted": "the bytes do not match the checksum that the store holds",
    "unreachable": "the store went on failing for this object alone",
    "undecodable": "damaged, or no file of an allowed format",
    "unsupported": "a sound file that this version cannot use",
    "too_large": "more pixels, or a larger block, than the limit",
    "timed_out": "the decoder did not end in time",
    "crashed_decoder": "the decoder's process died of it",
    "out_of_memory": "it did not fit in memory, even alone",
    "crashed": "replicas died of it",
    "no_truth": "an evaluation finds no truth for it",
    "wrong_truth": "its truth has another size or place, or what is no class",
}
"""Why an item is a dead letter; the names are stable."""


class AtrousError(Exception):
    """What a user can act on: what is wrong, got what, allowed what, do what."""

    exit_code = 2


class InputError(AtrousError):
    """A wrong command, path, source or bundle."""


class RunError(AtrousError):
    """A run folder that this command may not continue."""


class UnfinishedError(AtrousError):
    """The run stopped before its end; the same command resumes it."""

    exit_code = 4


class StoreError(UnfinishedError):
    """The store does not answer, or refuses for now; nothing is said of the object."""


class BugError(AtrousError):
    """The program itself is wrong, or the machine it runs on."""

    exit_code = 1


class ItemError(Exception):
    """One input that could not be done; it becomes a dead letter.

    Attributes:
        code: Stable name of the reason, one of ``CODES``.
        message: One sentence for people.
    """

    def __init__(self, code: str, message: str) -> None:
        """Record the reason; both arguments stay picklable."""
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """Show ``code: message``."""
        return f"{self.code}: {self.message}"

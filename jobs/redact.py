"""What may be shown of a text: no secrets, and nothing that a terminal obeys."""

from __future__ import annotations

import re
from typing import Final

_SECRET: Final = re.compile(
    r"((?:X-Amz-)?(?:Signature|Credential|Security-Token|AWSAccessKeyId)=)[^&\s\"'<>]+",
    re.IGNORECASE,
)
_COLOR: Final = re.compile(r"\x1b\[[\d;]*m")
_PASSWORD: Final = re.compile(r"(?<=://)[^/?#\s]+(?=@)")


def redact(text: str) -> str:
    """A text without the signatures and passwords that an address may hold."""
    return _PASSWORD.sub("...", _SECRET.sub(r"\1...", text))


def printable(text: str) -> str:
    """A text for a terminal: without secrets, its control characters written out.

    Names of objects are others' to choose, and may move the cursor or forge a line.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1]
        for letter in redact(_COLOR.sub("", text))
    )

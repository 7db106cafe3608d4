"""What a setting is, and what it may be: the words of ``jobs.settings``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a setting may be."""

    allowed: str
    """For people: what stands after "must be"."""

    parse: Callable[[str], Any]
    """Read text, as it stands behind a flag; ValueError or KeyError if it is wrong."""

    read: Callable[[Any], Any]
    """Read a value of a job file; one of several errors if it is wrong."""

    choices: tuple[str, ...] = ()
    """All there is to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that can be set."""

    kind: Kind
    about: str
    """What it means, in a line."""

    default: Any = None
    """As ``read`` gives it; None where there is none."""


def exactly(kind: type) -> Callable[[Any], Any]:
    """Read a value of a type alone, and of none below it."""

    def read(value: Any) -> Any:  # noqa: ANN401 - any value of a file
        if type(value) is not kind:  # true is an int as well
            raise TypeError
        return value

    return read


def choice(*names: str) -> Kind:
    """One of some words."""

    def parse(text: str) -> str:
        return names[names.index(text)]

    allowed = f"{', '.join(names[:-1])} or {names[-1]}"
    return Kind(allowed=allowed, parse=parse, read=parse, choices=names)


def parse_list(kind: type) -> Callable[[str], tuple[Any, ...]]:
    """Read text with commas."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(part.strip()) for part in text.split(","))

    return parse


def read_list(*kinds: type) -> Callable[[Any], tuple[Any, ...]]:
    """Read a list, or text with commas, of values that have one of these types."""

    def read(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
        if isinstance(value, str):
            return parse_list(kinds[0])(value)
        if not isinstance(value, list | tuple) or any(
            type(one) not in kinds for one in value
        ):
            raise TypeError
        return tuple(kinds[0](one) for one in value)

    return read


def read_number(value: Any) -> float:  # noqa: ANN401
    """Read a whole number, or one with a fraction."""
    if type(value) not in {int, float}:
        raise TypeError
    return float(value)


TEXT: Final = Kind(allowed="text", parse=str, read=exactly(str))

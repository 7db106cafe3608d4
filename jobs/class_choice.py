"""Which classes of a bundle somebody means, by name or by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeplab.bundle import Bundle

ALL: Final = "all"
"""Alone, it means every class."""


def choose_classes(
    setting: str, asked: Sequence[str] | None, bundle: Bundle
) -> tuple[int, ...]:
    """Ids of the classes that are asked for, in that order.

    A number is an id, also where a class is called like one.

    Args:
        setting: Where they were asked for, for people.
        asked: Names or ids, or ``all`` alone; none where it is None or empty.
        bundle: What has the classes.

    Raises:
        InputError: It has no such class, or one is asked for twice.
    """
    names = [info.name for info in bundle.classes]
    if tuple(asked or ()) == (ALL,):
        return tuple(range(len(names)))
    ids = {str(index): index for index in range(len(names))}
    known = {name: index for index, name in enumerate(names)} | ids
    found: list[int] = []
    for one in asked or ():
        if one not in known:
            raise InputError(
                f"{setting} must be {ALL} or classes of the bundle, got {one!r}; it has "
                f"{', '.join(f'{index} {name}' for index, name in enumerate(names))}"
            )
        if known[one] in found:
            given = ",".join(asked or ())
            raise InputError(
                f"{setting} names {names[known[one]]!r} twice, got {given}; keep one"
            )
        found.append(known[one])
    return tuple(found)

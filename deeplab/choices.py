"""A variant's choices as text: ``align_corners=true``, ``multi_grid=1,2,4``.

What ``bundle show`` prints is what ``bundle import --set`` reads. This module needs
no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from typing import TYPE_CHECKING, Final, Literal, get_args, get_origin, get_type_hints

from deeplab.variant import LINEAR, Norm, Variant, default_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from deeplab.variant import Network

_NONE: Final = "none"


def parse_choices(texts: Iterable[str]) -> dict[str, object]:
    """Read ``FIELD=VALUE`` texts, each value by the type of its field.

    Raises:
        ValueError: A text has another form, its field is unknown or comes twice, or
            its value is of another type. That the value is in range is checked when a
            ``Variant`` is made of it.
    """
    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"a choice must look like align_corners=true, got {text!r}")
        if name not in _HINTS:
            near = difflib.get_close_matches(name, _HINTS, n=1, cutoff=0)[0]
            raise ValueError(f"no choice is called {name!r}; the nearest is {near}")
        if name in found:
            raise ValueError(f"a choice must be made once, got {name} twice")
        parse, form = _reader(_HINTS[name])
        try:
            found[name] = parse(value.strip())
        except ValueError as error:
            raise ValueError(f"{name} must be {form}, got {value.strip()!r}") from error
    return found


def format_choice(value: object) -> str:
    """Write a value as ``parse_choices`` reads it."""
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Norm):
        return f"{value.eps},{value.momentum}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def changed_choices(network: Network) -> dict[str, object]:
    """The fields of a network's variant that are not its architecture's own."""
    if network.architecture == LINEAR:
        return {}
    own = default_variant(network.architecture)
    return {
        name: getattr(network.choices, name)
        for name in _HINTS
        if getattr(network.choices, name) != getattr(own, name)
    }


def _reader(hint: object) -> tuple[Callable[[str], object], str]:
    """What reads a field of this type, and how its values look."""
    if hint in _READERS:
        return _READERS[hint]
    if get_origin(hint) is Literal:
        words = {str(word): word for word in get_args(hint)}
        return functools.partial(_parse_word, words), f"one of {', '.join(words)}"
    if get_origin(hint) is tuple:
        return _parse_counts, "numbers such as 1,2,4"
    return _parse_pair, "two numbers such as 33,33, or none"


def _parse_word(words: Mapping[str, object], text: str) -> object:
    if text not in words:
        raise ValueError(text)
    return words[text]


def _parse_bool(text: str) -> bool:
    return ("false", "true").index(text.lower()) == 1


def _parse_counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",")) if text else ()


def _parse_pair(text: str) -> tuple[int, int] | None:
    if text == _NONE:
        return None
    rows, columns = _parse_counts(text)
    return rows, columns


def _parse_norm(text: str) -> Norm:
    eps, momentum = (float(part) for part in text.split(","))
    return Norm(eps=eps, momentum=momentum)


_HINTS: Final = {
    field.name: get_type_hints(Variant)[field.name] for field in dataclasses.fields(Variant)
}
_READERS: Final[dict[object, tuple[Callable[[str], object], str]]] = {
    bool: (_parse_bool, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    Norm: (_parse_norm, "eps and momentum such as 0.001,0.0003"),
}

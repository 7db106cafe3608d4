"""The bundle commands' findings for people, ending with the next command to type."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from deeplab.choices import format_choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SHOWN: Final = 3
_RGB: Final = ["red", "green", "blue"]


def describe_import(found: Mapping[str, Any], out: str) -> str:
    """What became of a checkpoint."""
    lines = [*_describe_header(found), f"  tensors        {found['tensors']}"]
    lines += _describe_unused(found["unused"])
    names = [info["name"] for info in found["classes"]]
    if found["untrained"]:
        untrained = found["untrained"]
        lines += [
            f"  untrained      {len(untrained)}: {_few(untrained)}",
            f"  classes        {len(names)}: {_few(names)}",
            "its head is drawn at random: train it before you use it",
            f"look at it: atrous bundle show {out}",
        ]
    else:
        job = "label" if found["bands"] == _RGB else "map"
        lines += [
            f"  classes        {len(names)}: {_few(names)}",
            f"use it: atrous {job} SOURCE RUN --bundle {out}",
        ]
    return "\n".join(lines)


def describe_bundle(found: Mapping[str, Any], location: str) -> str:
    """All that a bundle's header says."""
    lines = [*_describe_header(found), f"  classes        {len(found['classes'])}"]
    for number, info in enumerate(found["classes"]):
        red, green, blue = info["color"]
        lines.append(f"    {number:3}  #{red:02x}{green:02x}{blue:02x}  {info['name']}")
    lines.append(f"check it: atrous bundle verify {location}")
    return "\n".join(lines)


def describe_verified(found: Mapping[str, Any]) -> str:
    """Whether a bundle is what it says, in one line."""
    if found["differs"]:
        return f"differs: {found['differs']}"
    return (
        f"{found['bundle']} is whole: {found['tensors']} tensors with digest "
        f"{found['digest'][:16]}, and finite logits of {found['classes']} classes for a "
        f"tile of {found['tile']} px"
    )


def describe_exported(found: Mapping[str, Any]) -> str:
    """What was written, and how far its logits are from the network's."""
    given, made = (" x ".join(map(str, found[key])) for key in ("input", "output"))
    return (
        f"{found['file']}\n"
        f"  image          {given}, normalised as in the bundle\n"
        f"  logits         {made}, within {found['relative_error']:.0e} of the network's\n"
        f"  size           {found['bytes'] / 1e6:.2f} MB"
    )


def _describe_header(found: Mapping[str, Any]) -> list[str]:
    choices = [f"{name}={format_choice(one)}" for name, one in found["choices"].items()]
    rates = ", ".join(map(str, found["rates"])) or "none"
    return [
        found["bundle"],
        f"  architecture   {found['architecture']}, weights from {found['origin']}",
        f"  output stride  {found['output_stride']}, atrous rates {rates}",
        f"  choices        {', '.join(choices) or 'those of the architecture'}",
        f"  bands          {', '.join(found['bands'])}",
        f"  mean           {', '.join(map(str, found['mean']))}",
        f"  std            {', '.join(map(str, found['std']))}",
        f"  tile           {found['tile']} px, overlap {found['overlap']} px",
        f"  parameters     {found['parameters'] / 1e6:.2f} M",
        f"  size           {found['bytes'] / 1e6:.2f} MB",
        f"  digest         {found['digest']}",
    ]


def _describe_unused(unused: Mapping[str, str]) -> list[str]:
    """Keys that are not needed, those with one reason in one line."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in unused.items():
        by_reason.setdefault(reason, []).append(key)
    lines = [
        f"  not needed     {len(keys)}: {_few(keys)} ({reason})"
        for reason, keys in itertools.islice(by_reason.items(), _SHOWN)
    ]
    left = sum(len(keys) for keys in list(by_reason.values())[_SHOWN:])
    return lines + ([f"  not needed     {left} more, listed by --json"] if left else [])


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

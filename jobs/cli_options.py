"""Options that several commands share: what a flag means is written here once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from jobs.config import make_access, resolve_settings
from jobs.settings import FLAG, SETTINGS, WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.storage import Access

Value = TypeVar("Value")


def with_options(*several: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator of many, in the order in which help shows them."""

    def add(command: Any) -> Any:  # noqa: ANN401 - click's decorators take and give anything
        for option in reversed(several):
            command = option(command)
        return command

    return add


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read ``6,12,18``."""
    return _read_list(text, int, "whole numbers such as 6,12,18")


def numbers(text: str) -> tuple[float, ...]:
    """Read ``0.485,0.456,0.406``."""
    return _read_list(text, float, "numbers such as 0.485,0.456,0.406")


def names(text: str) -> tuple[str, ...]:
    """Read ``red,green,blue``."""
    return _read_list(text, str, "names such as red,green,blue")


def _read_list(text: str, kind: Callable[[str], Value], wanted: str) -> tuple[Value, ...]:
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} must be {wanted}") from error


def setting(name: str, **more: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - click's own
    """The flag of a setting."""
    one = SETTINGS[name]
    if one.kind is FLAG:
        more["is_flag"] = True
    elif one.kind.choices:
        more["type"] = click.Choice(one.kind.choices)
    else:
        more["type"] = int if one.kind is WHOLE else str
    if "multiple" not in more:
        more["default"] = one.default
    return click.option(f"--{name.replace('_', '-')}", help=one.about, **more)


def read_settings(command: str) -> dict[str, Any]:
    """The settings of the command under way, however they were given.

    Args:
        command: ``label`` or ``map``; for any other, how to reach the store is all.

    Raises:
        InputError: One of them is wrong.
    """
    context = click.get_current_context()
    given: dict[ParameterSource | None, dict[str, Any]] = {}
    for name, value in context.params.items():
        if name in SETTINGS:
            given.setdefault(context.get_parameter_source(name), {})[name] = value
    return resolve_settings(
        command,
        context.params["config"],
        flags=given.get(ParameterSource.COMMANDLINE, {}),
        environment=given.get(ParameterSource.ENVIRONMENT),
    )


def read_access() -> Access:
    """How the command under way is to reach the store."""
    return make_access(read_settings(click.get_current_context().info_name or ""))


with_store = with_options(
    setting("endpoint_url", metavar="URL"),
    setting("anon"),
    click.option(
        "-c",
        "--config",
        multiple=True,
        metavar="FILE|NAME=VALUE",
        help="Job file, or one setting; the last wins, and a flag over all.",
    ),
)
with_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

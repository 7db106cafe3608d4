"""Options that several commands share: what a flag means is written here once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

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


with_store = with_options(
    click.option("--endpoint-url", metavar="URL", help="S3 server other than AWS."),
    click.option("--anon", is_flag=True, help="Send unsigned S3 requests."),
    click.option("--requester-pays", is_flag=True, help="Accept to be billed for reads."),
)
with_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

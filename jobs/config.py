"""Settings of a command: flags over ``--config`` over the environment over defaults.

A job file is TOML with flat keys. It describes a job for every command, so a key
that only another command knows is passed over there; ``NAME=VALUE`` is typed for
one command, so there it is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import InputError
from jobs.settings import (
    ACCESS,
    COMMANDS,
    MASKS,
    PRODUCT,
    READING,
    SETTINGS,
    SIZES,
    TILES,
    VIEWS,
    parse_setting,
    read_setting,
)
from jobs.truth_settings import TRUTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deeplab.views import Views
    from jobs.commands import Request
    from jobs.engine import Place
    from jobs.policy import Policy
    from jobs.spec import JobName, Limits, Reading
    from jobs.storage import Access
    from jobs.truth import Truth

_LONGEST_FILE: Final = 2**15
"""Bytes of a job file; there are two dozen settings."""

_ASSIGNMENT: Final = re.compile(r"\s*(\w[\w-]*)\s*=(.*)", re.DOTALL)
_SECRET: Final = re.compile(r"secret|password|token|credential|access_?key", re.IGNORECASE)


def resolve_settings(
    command: str,
    configs: Iterable[str],
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All settings of a command.

    Args:
        command: What takes them.
        configs: Job files and ``NAME=VALUE``; of two the later one wins.
        flags: What was typed, by setting; it wins over all.
        environment: What variables hold; all wins over it.

    Returns:
        A value for each setting of the command, in order; None where none is set.

    Raises:
        InputError: A file, a name or a value is wrong.
    """
    keys = COMMANDS.get(command, ACCESS)
    found = {name: SETTINGS[name].default for name in keys}
    found |= environment or {}
    for config in configs:
        match = _ASSIGNMENT.fullmatch(config)
        if match is not None:
            found |= _read_assignment(match[1], match[2], command)
        else:
            found |= {k: v for k, v in read_job_file(config).items() if k in keys}
    for name, value in flags.items():
        _check_name(name, command)
        found[name] = _read_flag(name, value)
    return found


def read_job_file(path: str) -> dict[str, Any]:
    """What a job file sets.

    Raises:
        InputError: There is no such file, or something in it is wrong.
    """
    import tomllib

    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(_LONGEST_FILE + 1)
        if len(data) > _LONGEST_FILE:
            raise InputError(
                f"job file {path} must have at most {_LONGEST_FILE} bytes, got more; give "
                "a TOML file of settings"
            )
        fields = tomllib.loads(data.decode())
    except OSError as error:
        raise InputError(
            f"job file {path} cannot be read ({error.strerror}); give a local TOML file, "
            "or NAME=VALUE"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"job file {path} is not TOML: {error}") from error
    found = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            raise InputError(f"job file {path} has a table [{key}]; keep its keys flat")
        name = _known(key, f" in {path}")
        if name in found:
            raise InputError(f"{name} is set twice in {path}; keep one")
        found[name] = read_setting(name, value, f" in {path}")
    return found


def write_job_file(command: str, settings: Mapping[str, Any]) -> str:
    """The text of a job file that holds these settings, each with what it means.

    Raises:
        InputError: A path among them is no text.
    """
    lines = [f"# for atrous {command}: give it this file with -c"]
    for name, value in settings.items():
        lines.append(f"\n# {SETTINGS[name].about}")
        lines.append(f"# {name} =" if value is None else f"{name} = {_write(value)}")
    text = "\n".join(lines)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("a setting is not UTF-8, which a job file must be") from error
    return text


def make_request(
    job: JobName, source: str, run: str, settings: Mapping[str, Any]
) -> Request:
    """What a user asked a job to do.

    Raises:
        InputError: A setting is out of its range, or the bundle is missing.
    """
    from jobs.commands import Request
    from jobs.mask_choice import Masks
    from jobs.sizes import Sizes
    from jobs.spec import Cut, Pick, Product, Tiles

    if settings["bundle"] is None:
        raise InputError(
            "--bundle is missing; give a file, an s3:// location, or demo for ours"
        )
    cut = ("shard_items", "shard_bytes", "block", "file_bytes")
    return Request(
        job=job,
        source=source,
        run=run,
        bundle=settings["bundle"],
        limit=settings["limit"],
        precision=settings["precision"],
        cut=Cut(**{name: settings[name] for name in cut if name in settings}),
        tiles=Tiles(**{name: settings[name] for name in TILES}),
        views=make_views(settings),
        sizes=Sizes.parse({name: settings[name] for name in SIZES if name in settings}),
        access=make_access(settings),
        place=make_place(settings),
        policy=make_policy(settings),
        limits=make_limits(settings),
        product=Product(**{name: settings[name] for name in PRODUCT if name in settings}),
        pick=Pick(column=settings["source_column"], asset=settings["asset"]),
        reading=make_reading(settings),
        masks=Masks(**{name: settings[name] for name in MASKS if name in settings}),
        truth=make_truth(settings),
        aoi=settings.get("aoi"),
        skip_done_in=settings.get("skip_done_in"),
    )


def make_views(settings: Mapping[str, Any]) -> Views:
    """In how many forms tiles are seen.

    Raises:
        InputError: A scale is out of range.
    """
    from deeplab.views import Views

    try:
        return Views(**{name: settings[name] for name in VIEWS})
    except ValueError as error:
        raise InputError(str(error)) from error


def make_truth(settings: Mapping[str, Any]) -> Truth:
    """What masks are held against, as asked for; the location is absolute.

    Raises:
        InputError: The tolerance is out of its range.
    """
    from jobs.access import resolve
    from jobs.truth import Truth

    given = {TRUTH[name]: settings.get(name) for name in TRUTH}
    found = {name: value for name, value in given.items() if value is not None}
    if "where" in found:
        found["where"] = resolve(found["where"])
    return Truth(**found)


def make_access(settings: Mapping[str, Any]) -> Access:
    """How to reach the store."""
    from jobs.storage import Access

    # Only what reads images one by one takes them from the web.
    allow_http = settings.get("allow_http", False)
    return Access(**{name: settings[name] for name in ACCESS}, allow_http=allow_http)


def make_place(settings: Mapping[str, Any]) -> Place:
    """Where to compute; a retry's device and threads are those of its run."""
    from jobs.engine import Place

    names = ("local", "address", "replicas", "device", "threads", "allow_unauthenticated")
    return Place(
        **{name: settings[name] for name in names if name in settings},
        patience_s=settings["patience"],
        capacity_timeout_s=settings["capacity_timeout"],
    )


def make_policy(settings: Mapping[str, Any]) -> Policy:
    """When to give up."""
    from jobs.policy import Policy

    most = settings["max_dead_letters"]
    share = isinstance(most, str)
    reactions: Any = (text.split("=") for text in settings["on_error"])
    return Policy(
        on_error=tuple((stage, reaction) for stage, reaction in reactions),
        max_dead_letters=None if share else most,
        max_dead_percent=float(most.removesuffix("%")) if share else None,
        patience_s=settings["patience"],
    )


def make_limits(settings: Mapping[str, Any]) -> Limits:
    """What decoding may take."""
    from jobs.spec import Limits

    sizes = ("max_pixels", "max_bytes")
    return Limits(
        seconds=settings["decode_timeout"],
        **{name: settings[name] for name in sizes if name in settings},
    )


def make_reading(settings: Mapping[str, Any]) -> Reading:
    """How rasters are read.

    Raises:
        InputError: The CRS means nothing, or a number is out of its range.
    """
    from jobs.access import resolve
    from jobs.spec import Reading

    fields = {name: settings.get(name) for name in READING}
    roots = [resolve(place) for place in fields["allow_vrt"] or ()]
    if fields["crs"] is not None:
        from jobs.inputs.raster_grid import check_crs

        check_crs(fields["crs"])
    return Reading.parse(fields | {"allow_vrt": roots})


def _read_assignment(key: str, text: str, command: str) -> dict[str, Any]:
    name = _known(key, "")
    _check_name(name, command)
    return {name: parse_setting(name, text.strip())}


def _read_flag(name: str, value: Any) -> Any:  # noqa: ANN401 - as click has read it
    return parse_setting(name, value) if isinstance(value, str) else value


def _known(key: str, where: str) -> str:
    """The setting that a key names."""
    name = key.replace("-", "_")
    if name in SETTINGS:
        return name
    if _SECRET.search(name):
        raise InputError(
            f"{key} is no setting{where}: credentials come from where the AWS tools find "
            "them; take it out"
        )
    import difflib

    nearest = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0)[0]
    raise InputError(f"{key} is no setting{where}; the nearest is {nearest}")


def _check_name(name: str, command: str) -> None:
    if name not in COMMANDS.get(command, ACCESS):
        raise InputError(f"{name} has no effect on {command}; leave it out")


def _write(value: Any) -> str:  # noqa: ANN401 - any value of a setting
    """A value as TOML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_write, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's too, which wants one more.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower()

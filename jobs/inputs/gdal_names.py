"""What GDAL calls a location, and what it must know to reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobs.errors import ItemError
from jobs.storage import S3

if TYPE_CHECKING:
    from jobs.storage import Access


def gdal_path(uri: str) -> str:
    """What GDAL calls a location: never one of its own ways to reach others.

    Raises:
        ItemError: ``unsupported``: GDAL would ask for another object.
    """
    if uri.startswith("/"):
        return f"/.{uri}" if uri.startswith("/vsi") else uri
    if not uri.startswith(S3):
        raise ItemError("unsupported", f"{uri} is neither a path from / nor {S3}")
    if {".", ".."} & set(uri.split("/")):
        raise ItemError("unsupported", f"{uri} has a part . or .. in its key; rename it")
    return f"/vsis3/{uri.removeprefix(S3)}"


def s3_options(access: Access) -> dict[str, str]:
    """What GDAL must know to reach S3; it finds credentials itself."""
    options = {}
    if access.endpoint_url is not None:
        parts = urlsplit(access.endpoint_url)
        options["AWS_S3_ENDPOINT"] = parts.netloc
        options["AWS_HTTPS"] = "YES" if parts.scheme == "https" else "NO"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    if access.anon:
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    if access.requester_pays:
        options["AWS_REQUEST_PAYER"] = "requester"
    return options

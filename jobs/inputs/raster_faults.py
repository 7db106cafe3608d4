"""What GDAL says when a raster cannot be read, and what that means for its item."""

from __future__ import annotations

import logging
import re
from typing import Final, Self

from rasterio._err import CPLE_BaseError, CPLE_OutOfMemoryError
from rasterio.errors import CRSError, RasterioError

from jobs.errors import ItemError

GDAL_ERRORS: Final = (RasterioError, CPLE_BaseError, CRSError)

_NOT_FOUND: Final = "HTTP status 404"


class Faults(logging.Handler):
    """The network's last fault, which GDAL tells its log but not who reads pixels."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        super().__init__()
        self.newest: str | None = None

    def __enter__(self) -> Self:
        """Begin to listen."""
        logger = logging.getLogger("rasterio")
        self._level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        logger = logging.getLogger("rasterio")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember a fault, or forget one that the next request may have healed."""
        text = record.getMessage()
        status = re.search(r"response_code=(\d+)", text)
        if "S3: Downloading" in text:
            self.newest = None
        elif "response_code=" in text and "msg=" in text:
            self.newest = text.partition("msg=")[2]
        elif status and not status[1].startswith("2"):
            self.newest = f"HTTP status {status[1]}"


def explain(error: BaseException, fault: str | None) -> ItemError:
    """What an error of GDAL means for the item that was read.

    Args:
        error: As it was raised.
        fault: The network's, where the raster lies on S3.
    """
    causes = [error]
    while cause := causes[-1].__cause__:
        causes.append(cause)
    root = causes[1] if len(causes) > 1 else error
    text = " ".join(f"{type(root).__name__}: {root}".split())[:300]
    if any(isinstance(one, CPLE_OutOfMemoryError) for one in causes):
        return ItemError("out_of_memory", text)
    if fault == _NOT_FOUND:
        return ItemError("not_found", "the object is gone")
    is_network = any(re.search(r"AWS|Http", type(one).__name__) for one in causes)
    if fault is not None or is_network:
        return ItemError("unreachable", f"{fault or text}")
    return ItemError("undecodable", text)

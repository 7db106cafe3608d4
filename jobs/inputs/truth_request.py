"""Complete what is asked for of a truth, before a run is planned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jobs.errors import InputError, ItemError
from jobs.inputs.truth_tables import check_table
from jobs.inputs.truths import find_form
from jobs.storage import join, resolve
from jobs.truth_map import canonical_map

if TYPE_CHECKING:
    from deeplab.bundle import Bundle
    from jobs.storage import Store
    from jobs.truth import Truth

_LONGEST_MAP: Final = 2**20


def complete_truth(store: Store, truth: Truth, bundle: Bundle, source: str) -> Truth:
    """A truth with its form found out and its map read; the same where that is done.

    Args:
        store: Where it lies.
        truth: As asked for.
        bundle: What has the classes.
        source: What is to be judged, absolute.

    Raises:
        InputError: There is no truth, or its map makes no sense.
        StoreError: The store does not answer.
    """
    if not truth.where:
        raise InputError(
            "--truth is missing; give a folder of masks, a VOC or Cityscapes data set, "
            "Parquet or GeoTIFFs"
        )
    store.require(truth.where)
    classes = canonical_map(_read_map(store, truth.classes), bundle)
    where, form = truth.where, truth.form
    found = find_form(store, where, source) if form == "auto" else (where, form)
    if form == "parquet" and store.exists(join(where, "job.json")):
        found = join(where, "masks"), form
    if found[1] == "parquet":
        check_table(store, found[0])
    return replace(truth, where=found[0], form=found[1], classes=classes)


def _read_map(store: Store, text: str) -> str:
    """A map's text, which may lie in a file."""
    if not text.lower().endswith(".json") or text.lstrip().startswith("{"):
        return text
    location = resolve(text)
    try:
        found = store.stat(location)
        if found.size > _LONGEST_MAP:
            raise InputError(
                f"{location} has {found.size} bytes, a map may have {_LONGEST_MAP}"
            )
        return store.read(location, etag=found.etag).decode()
    except ItemError as error:
        raise InputError(f"truth_classes: {error.message}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"truth_classes: {location} is no text in UTF-8") from error

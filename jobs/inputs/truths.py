"""Find the mask that judges an image: by its key, or as a data set lays it out.

Nothing is listed: a mask's location follows from its image's key, so an evaluation of ten
million images costs each of them a question or two. Tables are another matter, see
``jobs.inputs.truth_tables``.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

from jobs.assembly import output_name
from jobs.errors import InputError, ItemError
from jobs.inputs.sources import RASTER_SUFFIXES
from jobs.inputs.truth_decoding import decode_mask, read_mask
from jobs.inputs.truth_tables import Table, TableTruths
from jobs.job import TrueMask
from jobs.storage import join, open_store
from jobs.truth_map import CITYSCAPES, make_map

if TYPE_CHECKING:
    from deeplab.tiles import Window
    from jobs.shards import Item
    from jobs.spec import Spec
    from jobs.storage import Store
    from jobs.truth import Form
    from jobs.truth_map import ClassMap

MASK_SUFFIXES: Final = (".png", ".tif", ".tiff", ".bmp")
"""Of masks, in the order in which they are looked for."""

_VOC_MASKS: Final = "SegmentationClass"
_VOC_LISTS: Final = "ImageSets/Segmentation"
_VOC_OTHERS: Final = (_VOC_MASKS, "SegmentationObject")
_CITY: Final = "gtFine"
_CITY_IMAGES: Final = "leftImg8bit"
_LOOKED_AT: Final = 64
"""Objects of a folder that tell what it holds."""

_LONGEST_LIST: Final = 64 * 2**20


class Truths(Protocol):
    """Where masks are."""

    def wants(self, item: Item) -> bool:
        """On the driver: whether an item is one to be judged."""
        ...

    def expected(self) -> frozenset[str]:
        """On the driver: names without ending of images that must be there."""
        ...

    def read(self, item: Item) -> TrueMask:
        """On a replica: an item's mask.

        Raises:
            ItemError: ``no_truth``, or what is wrong with it.
            StoreError: It cannot be had now.
        """
        ...


@functools.lru_cache(maxsize=4)
def open_truths(spec: Spec) -> Truths:
    """The masks of an evaluation of images, as this process reads them."""
    truth, store = spec.truth, open_store(spec.access)
    if truth.form == "voc":
        return VocTruths(store, spec)
    if truth.form == "cityscapes":
        return CityTruths(store, spec)
    if truth.form == "parquet":
        lookup = make_map(truth, spec.bundle)
        return TableTruths(Table(store, truth.where, truth.column), lookup, spec.limits)
    return FolderTruths(store, spec)


class FolderTruths:
    """A folder or prefix in which a mask is called as its image is."""

    def __init__(self, store: Store, spec: Spec) -> None:
        """Read nothing yet."""
        self._store, self._spec = store, spec
        self._lookup = make_map(spec.truth, spec.bundle)

    def wants(self, item: Item) -> bool:  # noqa: ARG002 - as the others ask
        """All of them."""
        return True

    def expected(self) -> frozenset[str]:
        """None in particular."""
        return frozenset()

    def read(self, item: Item) -> TrueMask:
        """The mask that has the item's key, but for its ending."""
        truth = self._spec.truth
        names = mask_names(item, truth.suffix, MASK_SUFFIXES)
        uri, etag = find_first(self._store, truth.where, names, item)
        return load(self._store, (uri, etag), self._lookup, self._spec)


class VocTruths:
    """Pascal VOC: JPEGImages, SegmentationClass and ImageSets/Segmentation."""

    def __init__(self, store: Store, spec: Spec) -> None:
        """Read nothing yet."""
        self._store, self._spec = store, spec
        self._lookup = make_map(spec.truth, spec.bundle)

    def wants(self, item: Item) -> bool:
        """Images that the split's list names, and no masks."""
        path = PurePosixPath(item.key)
        return path.stem in self._names and path.parent.name not in _VOC_OTHERS

    def expected(self) -> frozenset[str]:
        """All that the list names."""
        return self._names

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        truth = self._spec.truth
        uri = join(truth.where, _VOC_LISTS, f"{truth.split}.txt")
        return _read_list(self._store, uri)

    def read(self, item: Item) -> TrueMask:
        """The mask in SegmentationClass."""
        where = join(self._spec.truth.where, _VOC_MASKS)
        names = [f"{PurePosixPath(item.key).stem}.png"]
        found = find_first(self._store, where, names, item)
        return load(self._store, found, self._lookup, self._spec)


class CityTruths:
    """Cityscapes: leftImg8bit and gtFine, by split and city."""

    def __init__(self, store: Store, spec: Spec) -> None:
        """Read nothing yet."""
        self._store, self._spec = store, spec
        self._trained = make_map(spec.truth, spec.bundle)
        self._labelled = make_map(spec.truth, spec.bundle, CITYSCAPES)

    def wants(self, item: Item) -> bool:
        """Images of the split."""
        *folders, _ = item.uri.split("/")
        after = (
            folders[folders.index(_CITY_IMAGES) + 1 :] if _CITY_IMAGES in folders else []
        )
        is_image = PurePosixPath(item.key).stem.endswith(f"_{_CITY_IMAGES}")
        return is_image and after[:1] in ([], [self._spec.truth.split])

    def expected(self) -> frozenset[str]:
        """None in particular."""
        return frozenset()

    def read(self, item: Item) -> TrueMask:
        """The mask of train ids, or that of all ids where there is none."""
        truth = self._spec.truth
        root = truth.where if truth.where.endswith(_CITY) else join(truth.where, _CITY)
        stem = PurePosixPath(item.key).stem.removesuffix(f"_{_CITY_IMAGES}")
        start = f"{truth.split}/{stem.partition('_')[0]}/{stem}_{_CITY}"
        names = [f"{start}_labelTrainIds.png", f"{start}_labelIds.png"]
        # A map of one's own is of all ids.
        names = names[1:] if truth.classes else names
        uri, etag = find_first(self._store, root, names, item)
        trained = uri.endswith("_labelTrainIds.png") or truth.classes
        lookup = self._trained if trained else self._labelled
        return load(self._store, (uri, etag), lookup, self._spec)


class RasterTruths:
    """GeoTIFFs on the grids of the rasters that they judge: one, or one of each."""

    def __init__(self, spec: Spec) -> None:
        """Read nothing yet."""
        self._store, self._spec = open_store(spec.access), spec
        self._lookup = make_map(spec.truth, spec.bundle)

    def read(self, item: Item, window: Window, place: tuple[int, int, str]) -> TrueMask:
        """A window of the mask that lies where a raster does.

        Args:
            item: The raster.
            window: The part of it.
            place: Its height, width and grid.

        Raises:
            ItemError: ``no_truth``, or what is wrong with it.
            StoreError: It cannot be had now.
        """
        spec, where = self._spec, self._spec.truth.where
        if PurePosixPath(where).suffix.lower() in RASTER_SUFFIXES:
            root, name = where.rsplit("/", 1)
            uri, etag = find_first(self._store, root, [name], item)
        else:
            names = mask_names(item, spec.truth.suffix, RASTER_SUFFIXES)
            # As a map calls what it writes.
            uri, etag = find_first(
                self._store, where, [*names, output_name(item.key)], item
            )
        with explained(uri):
            ids = read_mask(
                uri,
                window,
                self._lookup,
                place=place,
                access=spec.access,
                limits=spec.limits,
            )
            self._store.read_head(uri, 1)
            if self._store.stat(uri).etag != etag:
                raise ItemError("input_changed", "it changed while it was read")
        return TrueMask(ids=ids, uri=uri, etag=etag)


def mask_names(item: Item, suffix: str | None, suffixes: tuple[str, ...]) -> list[str]:
    """What the mask of an item may be called below the folder of masks.

    Raises:
        ItemError: ``no_truth``: the key would lead out of any folder.
    """
    path = PurePosixPath(item.key)
    if {".", ".."} & set(item.key.split("/")):
        raise ItemError("no_truth", f"a key with a part . or .. names no mask: {item.key}")
    stem = item.key.removesuffix(path.suffix) + (suffix or "")
    if suffix and PurePosixPath(f"x{suffix}").suffix.lower() in suffixes:
        return [stem]
    return [f"{stem}{one}" for one in suffixes]


def find_first(store: Store, root: str, names: list[str], item: Item) -> tuple[str, str]:
    """Location and ETag of the first of some names that is there; never the item itself.

    Raises:
        ItemError: ``no_truth``, or ``forbidden``.
        StoreError: The store does not answer.
    """
    for name in names:
        uri = f"{root.rstrip('/')}/{name.lstrip('/')}"
        if uri == item.uri:
            continue
        try:
            return uri, store.stat(uri).etag
        except ItemError as error:
            if error.code != "not_found":
                raise ItemError(error.code, f"truth {uri}: {error.message}") from error
    shown = names[0] if len(names) == 1 else f"{names[0]} or the like"
    raise ItemError(
        "no_truth",
        f"there is no {shown} under {root}; check --truth, and -c truth_suffix=... where "
        "masks have another ending",
    )


def load(store: Store, found: tuple[str, str], lookup: ClassMap, spec: Spec) -> TrueMask:
    """Read and decode a mask that is an image.

    Raises:
        ItemError: What is wrong with it, and which file it is.
        StoreError: It cannot be had now.
    """
    uri, etag = found
    with explained(uri):
        data = store.read(uri, etag=etag)
        return TrueMask(ids=decode_mask(data, lookup, spec.limits), uri=uri, etag=etag)


class explained:  # noqa: N801 - a context manager
    """Let errors inside the block name the mask that they are about."""

    def __init__(self, uri: str) -> None:
        """Of this location."""
        self._uri = uri

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Say so."""
        if isinstance(error, ItemError):
            raise ItemError(error.code, f"truth {self._uri}: {error.message}") from error


def find_form(store: Store, where: str, source: str) -> tuple[str, Form]:
    """What a truth is, by what lies there; and where its masks are.

    Raises:
        InputError: Nothing is there, or nothing that can be a truth.
    """
    suffix = PurePosixPath(where).suffix.lower()
    if suffix == ".parquet" or suffix in RASTER_SUFFIXES:
        return where, "parquet" if suffix == ".parquet" else "raster"
    folders = set(store.folders(where))
    is_run = bool(folders & {"masks", "rasters"}) and store.exists(join(where, "job.json"))
    if is_run and "masks" in folders:
        return join(where, "masks"), "parquet"
    if is_run:
        return join(where, "rasters"), "raster"
    if where.rsplit("/", 1)[-1] == _CITY or _CITY in folders:
        return where, "cityscapes"
    is_voc = {_VOC_MASKS, "ImageSets"} <= folders
    return where, "voc" if is_voc else _form_of_folder(store, where, source)


def _form_of_folder(store: Store, where: str, source: str) -> Form:
    found = [
        PurePosixPath(one.uri).suffix.lower()
        for one in itertools.islice(store.iterate(where), _LOOKED_AT)
    ]
    if not found:
        raise InputError(f"no truth at {where}; check --truth")
    if ".parquet" in found:
        return "parquet"
    masks = {one for one in found if one in MASK_SUFFIXES}
    if not masks:
        raise InputError(
            f"no mask among the first objects under {where}; a truth is a folder of "
            f"{', '.join(MASK_SUFFIXES)}, a VOC or Cityscapes layout, Parquet or GeoTIFFs; "
            "check --truth, or name it with --truth-format"
        )
    if masks <= set(RASTER_SUFFIXES) and _is_rasters(store, source):
        return "raster"
    return "folder"


def _is_rasters(store: Store, source: str) -> bool:
    """Whether a source begins with TIFFs, which are rasters beside a truth of TIFFs."""
    first = next(store.match(source)[1], None)
    return first is not None and PurePosixPath(first.uri).suffix.lower() in RASTER_SUFFIXES


def _read_list(store: Store, uri: str) -> frozenset[str]:
    try:
        found = store.stat(uri)
        if found.size > _LONGEST_LIST:
            raise InputError(f"{uri} has {found.size} bytes; a list has {_LONGEST_LIST}")
        text = store.read(uri, etag=found.etag).decode()
    except ItemError as error:
        raise InputError(
            f"{error.message}; check --truth and -c truth_split=..., which is the list's "
            "name"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{uri} is no list of names in UTF-8") from error
    # A list of a class has a second column.
    return frozenset(line.split()[0] for line in text.splitlines() if line.strip())

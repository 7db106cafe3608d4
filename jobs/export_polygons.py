"""Export the finished masks of a map run as one file of polygons."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from jobs.errors import InputError, RunError, UnfinishedError
from jobs.export_place import check_free, folder_beside, place_file
from jobs.folder import is_finished, list_folders, require_job
from jobs.ledger import Ledger
from jobs.letters import open_letters
from jobs.storage import join, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.ledger import Output
    from jobs.outputs.earth import Ground
    from jobs.outputs.finished import Finished
    from jobs.outputs.regions import Regions
    from jobs.outputs.vectors import PolygonWriter
    from jobs.storage import Access, Store

Target = Literal["auto", "source", "wgs84"]

SUFFIXES: Final = (".parquet", ".geojson", ".fgb")
_NEEDS: Final = {"": ("shapely", "pyproj"), ".fgb": ("pyogrio",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a user asked for."""

    run: str
    """The run folder."""

    out: str
    """Location of the file; its suffix says the format."""

    access: Access
    min_area: float | None = None
    """Leave out what is smaller, in square metres."""

    simplify: float = 0.0
    """In pixels; 0 keeps the outlines of pixels."""

    class_names: tuple[str, ...] = ()
    """Of the classes to take; empty for all."""

    crs: Target = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what goes together, and that what it takes is installed."""
        suffix = self.suffix
        if suffix not in SUFFIXES:
            raise InputError(
                f"{self.out} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, "
                "which says the format"
            )
        if suffix == ".geojson" and self.crs == "source":
            raise InputError("GeoJSON is always WGS 84; leave --crs out, or write Parquet")
        modules = [*_NEEDS[""], *_NEEDS.get(suffix, ())]
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(
                f"polygons need {', '.join(missing)}, which is not installed; "
                "pip install 'atrous[vectors]'"
            )

    @property
    def suffix(self) -> str:
        """Of the file, in lower case."""
        return Path(self.out).suffix.lower()


def export_polygons(asked: Export) -> dict[str, Any]:
    """Write the polygons of a run, whole or not at all.

    Returns:
        What was written, by class; and ``notes`` for people.

    Raises:
        InputError: The run is no map, a class is unknown, the file is there already, or
            a raster has no place that the format asks for.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    store = open_store(asked.access)
    names = _class_names(store, asked)
    check_free(store, asked.out, overwrite=asked.overwrite)
    rasters = list(_find_rasters(store, asked.run))
    task = _Task(asked, names, rasters)
    with folder_beside(store, asked.out) as scratch:
        path = task.write(scratch)
        size = place_file(store, asked.out, path, overwrite=asked.overwrite)
    letters = sum(1 for _ in open_letters(store, asked.run))
    if letters:
        task.notes.append(f"{letters} dead letters of {asked.run} are gaps")
    return {"run": asked.run, "file": asked.out, "bytes": size, **task.summary()}


def describe_export(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{found['file']}, {found['bytes'] / 1e6:.2f} MB, {found['crs'] or 'no CRS'}"]
    for name, one in found["classes"].items():
        area = one["area_m2"]
        shown = "" if area is None else f", {area / 1e6:.4f} km2"
        lines.append(f"  {name:<20} {one['polygons']} polygons{shown}")
    lines.append(f"  {found['polygons']} polygons of {found['rasters']} rasters")
    if found["left_out"]:
        lines.append(f"  {found['left_out']} smaller than --min-area left out")
    return "\n".join(lines)


class _Task:
    """One export under way."""

    def __init__(
        self, asked: Export, names: dict[int, str], rasters: list[Finished]
    ) -> None:
        from jobs.outputs.finished import read_ground

        self._asked, self._names, self._rasters = asked, names, rasters
        self._grounds = [read_ground(one, asked.access) for one in rasters]
        self.notes: list[str] = []
        self._crs = self._choose_crs()
        self._polygons: Counter[int] = Counter()
        self._areas: Counter[int] = Counter()
        self._left_out = 0

    def write(self, folder: Path) -> Path:
        """Write the file in a local folder."""
        from jobs.outputs.earth import describe_crs
        from jobs.outputs.vectors import PolygonWriter, write_flatgeobuf, write_geojson

        path = folder / "polygons.parquet"
        crs = None if self._crs is None else describe_crs(self._crs)
        with PolygonWriter(path, crs) as writer:
            for one, ground in zip(self._rasters, self._grounds, strict=True):
                self._add(writer, one, ground)
        other = path.with_suffix(self._asked.suffix)
        if other.suffix == ".geojson":
            write_geojson(path, other)
        elif other.suffix == ".fgb":
            write_flatgeobuf(path, other, self._crs)
        return other

    def summary(self) -> dict[str, Any]:
        """What was written."""
        from jobs.outputs.earth import name_crs

        classes = {
            self._names[number]: {
                "polygons": count,
                "area_m2": None if math.isnan(area := self._areas[number]) else area,
            }
            for number, count in sorted(self._polygons.items())
        }
        return {
            "crs": None if self._crs is None else name_crs(self._crs),
            "rasters": len(self._rasters),
            "polygons": self._polygons.total(),
            "left_out": self._left_out,
            "classes": classes,
            "notes": self.notes,
        }

    def _choose_crs(self) -> str | None:
        """The CRS of the file: WKT, or the code of WGS 84; None for no place on Earth."""
        from jobs.outputs.earth import WGS84, is_same_crs

        asked = self._asked
        lost = [ground.name for ground in self._grounds if ground.crs is None]
        if lost:
            self._accept_no_crs(lost)
            return None
        known = list(dict.fromkeys(one.crs for one in self._grounds if one.crs is not None))
        alike = all(is_same_crs(known[0], one) for one in known)
        if asked.crs == "source" and not alike:
            raise InputError(
                f"the rasters of {asked.run} lie in {len(known)} different CRS, and a file "
                "has one; give --crs wgs84"
            )
        is_local = asked.crs != "wgs84" and asked.suffix != ".geojson"
        return known[0] if is_local and alike and known else WGS84

    def _accept_no_crs(self, lost: list[str]) -> None:
        if len(lost) < len(self._grounds):
            raise InputError(
                f"{len(lost)} of {len(self._grounds)} rasters have no CRS, such as "
                f"{lost[0]}, and one file cannot hold both kinds; map them in runs of "
                "their own"
            )
        if self._asked.crs == "wgs84" or self._asked.min_area is not None:
            option = "--min-area" if self._asked.min_area is not None else "--crs wgs84"
            raise InputError(
                f"{lost[0]} has no CRS, so that nothing is known of metres or degrees; "
                f"leave {option} out"
            )
        self.notes.append(
            f"{lost[0]} has no CRS: coordinates are those of its own grid, and areas null"
        )

    def _add(self, writer: PolygonWriter, one: Finished, ground: Ground) -> None:
        from jobs.outputs.earth import WGS84, Place
        from jobs.outputs.finished import open_finished
        from jobs.outputs.regions import sweep

        place = Place(ground, wgs84=self._crs == WGS84)
        wanted = frozenset(self._names)
        with open_finished(one, self._asked.access) as (size, read):
            for found in sweep(read, size, wanted, simplify=self._asked.simplify):
                self._add_some(writer, one.name, found, place)

    def _add_some(
        self,
        writer: PolygonWriter,
        name: str,
        found: Regions,
        place: Any,  # noqa: ANN401
    ) -> None:
        from jobs.outputs.vectors import Rows, to_confidence

        areas = place.areas(found.polygons)
        if self._asked.min_area is not None:
            large = areas >= self._asked.min_area
            self._left_out += int((~large).sum())
            found, areas = found.take(large), areas[large]
        classes = found.classes.tolist()
        self._polygons.update(classes)
        for number, area in zip(classes, areas.tolist(), strict=True):
            self._areas[number] += area
        writer.add(
            Rows(
                raster=name,
                classes=found.classes,
                names=[self._names[number] for number in classes],
                areas=areas,
                confidence=to_confidence(found.confidence, found.known),
                polygons=place.put(found.polygons),
            )
        )


def _class_names(store: Store, asked: Export) -> dict[int, str]:
    """Names of the classes asked for, by id."""
    held = require_job(store, asked.run)
    try:
        job = held["identity"]["job"]
        every = {i: str(one["name"]) for i, one in enumerate(held["bundle"]["classes"])}
    except (KeyError, TypeError) as error:
        raise RunError(f"{asked.run}/job.json is damaged; see atrous verify") from error
    if job != "map":
        raise InputError(
            f"{asked.run} holds a {job} run, and polygons are made of maps; read its masks "
            "as they are"
        )
    unknown = [name for name in asked.class_names if name not in every.values()]
    if unknown:
        raise InputError(
            f"{asked.run} has no class {unknown[0]!r}; it has {', '.join(every.values())}"
        )
    return {
        i: one
        for i, one in every.items()
        if not asked.class_names or one in asked.class_names
    }


def _find_rasters(store: Store, run: str) -> Iterator[Finished]:
    """The rasters of a run, as the newest records name them, in order of name."""
    from jobs.outputs.finished import Finished

    found: dict[str, Output] = {}
    for folder in list_folders(store, run):
        if not is_finished(store, folder):
            raise UnfinishedError(
                f"{run} is not finished; give the command that started it again, then "
                "export it"
            )
        ledger = Ledger(store, folder)
        of_shards = (record.outputs for record in ledger.read())
        of_tasks = (task.outputs for task in ledger.read_tasks())
        for outputs in itertools.chain(of_shards, of_tasks):
            named = {one.name: one for one in outputs}
            found |= {k: v for k, v in named.items() if not k.startswith("pieces/")}
    for name in sorted(found):
        kind, _, key = name.partition("/")
        if kind == "rasters" and key.endswith(".tif"):
            _check_size(store, run, found[name])
            sure = f"confidence/{key}"
            yield Finished(
                name=key,
                mask=join(run, name),
                confidence=join(run, sure) if sure in found else None,
            )


def _check_size(store: Store, run: str, output: Output) -> None:
    held = store.stat(join(run, output.name)).size
    if held != output.size:
        raise RunError(
            f"{run}/{output.name} has {held} bytes, its record says {output.size}; see "
            "atrous verify"
        )

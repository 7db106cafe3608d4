"""What a job must know how to do. The engine knows no job but through this."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from deeplab.pictures import Segmentation
    from deeplab.tiles import Region, Window
    from jobs.ledger import DeadLetter, Output, Record
    from jobs.shards import Item, Shard
    from jobs.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a file says of its image, besides the pixels."""

    format: str = ""
    """Of the file, e.g. ``JPEG``."""

    orientation: int = 1
    """EXIF orientation, 1 to 8, which the pixels have been freed of."""

    frames: int = 1
    """How many the file holds; the first one is taken."""

    height: int = 0
    """Rows of the upright image, before any change of size."""

    width: int = 0
    """Columns of it."""

    sidecars: Mapping[str, str] = field(default_factory=dict)
    """Text that lies beside the image, by its suffix, e.g. ``json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """When a file was decoded; on the clock of ``time.perf_counter``."""

    start: float
    stop: float
    size: int
    """Bytes of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueMask:
    """What is known to be seen on an image, to judge a result by."""

    ids: NDArray[np.uint8]
    """(H, W) of the result: class ids of the bundle, 254 where that is not known."""

    uri: str
    """Where it was read."""

    etag: str
    """What the object was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image, or a part of a raster, ready for the network."""

    item: Item
    pixels: NDArray[np.uint8]
    """(bands, H, W)."""

    valid: NDArray[np.bool_]
    """(H, W); False where there is no data."""

    region: Region | None = None
    """Where the pixels lie in their raster; None for a whole image."""

    wanted: NDArray[np.bool_] | None = None
    """(H, W) of the result; False where it is to be nodata all the same."""

    place: Window | None = None
    """Where the result lies in its block; None where it fills it."""

    origin: Origin | None = None
    """What the file says besides; None of rasters."""

    size: tuple[int, int] | None = None
    """Rows and columns of its mask; None for those of its pixels."""

    decoded: Decoded | None = None
    """How long that took; None where it cannot be told from fetching."""

    truth: TrueMask | None = None
    """Where a job judges results; it travels with the pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An item and what the network saw in it."""

    item: Item
    segmentation: Segmentation
    place: Window | None = None
    """As in ``Image``."""

    origin: Origin | None = None
    """As in ``Image``."""

    truth: TrueMask | None = None
    """As in ``Image``."""


class Task(Protocol):
    """Work that finished shards make possible, e.g. one raster's assembly."""

    @property
    def name(self) -> str:
        """What it makes, for people: a location below the run folder."""
        ...

    @property
    def key(self) -> str:
        """File name of its record in the ledger, without ``.json``."""
        ...


Tell = Callable[[int, int], None]
"""Is told how many items are planned so far, and how many were left out as done."""


def say_nothing(_items: int, _skipped: int) -> None:
    """Tell nobody."""


Gather = Callable[["Shard", "Record"], Iterable[Task]]
"""Takes every shard and its record once; gives what that makes possible."""


class Job(Protocol):
    """One kind of work from source to outputs; picklable, without open handles."""

    spec: Spec
    fingerprint: str
    """Of the run; empty while it is planned."""

    folder: str
    """Where plan and ledger lie: the run folder, or a retry's folder in it."""

    readers: ClassVar[int]
    """Items of a shard to read ahead."""

    entropy: ClassVar[bool] = False
    """Whether it writes how undecided the network is."""

    def watch(self, tell: Tell) -> Job:  # noqa: ARG002
        """On the driver: the same, which tells of its plan if that takes long."""
        return self

    def plan(self) -> Iterator[Shard]:
        """On the driver: all the shards, in order."""
        ...

    def replan(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """On the driver: shards for a retry, with every input as it is now.

        Args:
            shards: As they were planned before, of dead letters alone.
        """
        ...

    def read(self, shard: Shard, item: Item) -> Image:
        """On a replica: one of the shard's images.

        Raises:
            ItemError: It cannot be done.
            StoreError: It cannot be had now.
        """
        ...

    def bury(self, shard: Shard, item: Item, letter: DeadLetter) -> DeadLetter:  # noqa: ARG002
        """Complete a dead letter, e.g. with the pixels that are missing."""
        return letter

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """On a replica: create the shard's output, whole, and say what it holds.

        Where another attempt's output stands, the record describes that one.
        """
        ...

    def delivered(self, record: Record) -> tuple[Output, ...]:
        """Outputs of a shard that stay when the run is finished."""
        return record.outputs

    def gather(self) -> Gather:
        """On the driver: begin to collect records, in any order."""
        return lambda _shard, _record: ()

    def complete(self, task: Any) -> tuple[Output, ...]:  # noqa: ANN401 - each job its own
        """On a replica: do a task, or describe what it has made already.

        Raises:
            ItemError: It cannot be done now; its inputs stay as they are.
        """
        raise TypeError(f"{type(self).__name__} has no tasks, got {task}")

    def publish(self) -> None:
        """On the driver: write what helps readers, once all is done."""

    def leftovers(self) -> frozenset[str]:
        """On the driver: objects that tasks still have to remove, by name."""
        return frozenset()

    def has_leftovers(self, task: Any, names: frozenset[str]) -> bool:  # noqa: ANN401, ARG002
        """Whether ``leftovers`` holds any of this task's."""
        return False

    def tidy(self, task: Any) -> None:  # noqa: ANN401
        """On a replica: remove what a recorded task does not need any more."""

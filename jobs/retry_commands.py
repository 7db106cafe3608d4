"""What ``atrous retry`` does, behind the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deeplab.tiles import BLENDS
from deeplab.views import Views
from jobs.bundle_file import load_bundle
from jobs.commands import choose_job, stoppable
from jobs.conclude import write_views
from jobs.config import make_access, make_limits, make_place, make_policy, make_reading
from jobs.engine import Place, open_engine
from jobs.errors import CODES, InputError, RunError
from jobs.folder import require_job
from jobs.mask_choice import MASK_ENCODINGS, Masks, keep_floors
from jobs.policy import Policy
from jobs.retry import plan_retry
from jobs.runner import work_off
from jobs.settings import PRODUCT
from jobs.sizes import Sizes
from jobs.spec import (
    Compute,
    Cut,
    Limits,
    Pick,
    Product,
    Reading,
    Spec,
    Tiles,
    write_area,
)
from jobs.storage import Access, open_store, resolve
from jobs.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeplab.bundle import Bundle
    from jobs.runner import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequest:
    """What a user asked for; all that changes results comes from the run itself."""

    run: str
    codes: tuple[str, ...] = ()
    """Dead letters of these reasons only; all, where it is empty."""

    bundle: str | None = None
    """Where the bundle lies now; None for where it lay."""

    access: Access = field(default_factory=Access)
    place: Place = field(default_factory=Place)
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    allow_vrt: tuple[str, ...] = ()
    """Roots of VRTs, which a run folder is not trusted to name."""


def make_retry(
    run: str, codes: tuple[str, ...], settings: Mapping[str, Any]
) -> RetryRequest:
    """What a user asked for.

    Raises:
        InputError: A code is none, or a setting is out of its range.
    """
    for code in codes:
        if code not in CODES:
            raise InputError(f"--code must be one of {', '.join(CODES)}, got {code}")
    return RetryRequest(
        run=run,
        codes=codes,
        bundle=settings["bundle"],
        access=make_access(settings),
        place=make_place(settings),
        policy=make_policy(settings),
        limits=make_limits(settings),
        allow_vrt=make_reading(settings).allow_vrt,
    )


def start_retry(request: RetryRequest, progress: Progress) -> dict[str, Any] | None:
    """Try a run's dead letters again, or go on with a retry that stopped.

    Returns:
        The summary of the run and its retries; None where nothing is to be retried.
    """
    store, run = open_store(request.access), resolve(request.run)
    held = require_job(store, run)
    location = request.bundle or held.get("bundle_location")
    if not location:
        raise InputError(f"{run} does not say where its bundle is; give --bundle")
    bundle, data = load_bundle(location, request.access)
    spec = _make_spec(request, held, bundle)
    compute = spec.compute
    place = dataclasses.replace(
        request.place, device=compute.device, threads=compute.threads
    )
    with open_engine(place) as (engine, _), stoppable():
        store.probe(run)
        planned = plan_retry(store, choose_job(spec), spec, request.codes)
        if planned is None:
            write_views(store, run)  # the last retry may have died before it did
            return None
        return work_off(
            store, choose_job(spec), planned, bundle=data, engine=engine, progress=progress
        )


def _make_spec(request: RetryRequest, held: dict[str, Any], bundle: Bundle) -> Spec:
    run = resolve(request.run)
    try:
        identity = held["identity"]
        known = [name for name in PRODUCT if name in identity]
        return Spec(
            job=identity["job"],
            source=identity["source"],
            limit=identity["limit"],
            run=run,
            bundle=bundle,
            compute=Compute(
                device=identity["device"],
                precision=identity["precision"],
                threads=identity["threads"],
            ),
            tiles=Tiles(
                tile=identity["tile"],
                overlap=identity["overlap"],
                # Runs of before there was a choice are refused by their version.
                blend=identity.get("blend", BLENDS[0]),
            ),
            views=Views(scales=tuple(identity["scales"]), flip=identity["flip"]),
            sizes=Sizes.parse(identity),
            cut=Cut(**held["cut"]),
            product=_read_product({name: identity[name] for name in known}),
            masks=Masks(
                # Maps of before there was a choice have neither.
                min_confidence=keep_floors(identity.get("min_confidence")),
                mask_encoding=identity.get("mask_encoding", MASK_ENCODINGS[0]),
            ),
            pick=Pick(column=identity["source_column"], asset=identity["asset"]),
            access=request.access,
            policy=request.policy,
            limits=request.limits,
            reading=Reading.parse({**identity, "allow_vrt": request.allow_vrt}),
            truth=Truth.parse(identity.get("truth")),
            area=write_area(held.get("area")),
            skip_done_in=identity.get("skip_done_in"),
            bundle_location=held.get("bundle_location", ""),
        )
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{run}/job.json is damaged ({error}); choose a new run folder"
        ) from error


def _read_product(fields: dict[str, Any]) -> Product:
    """What is written, as job.json holds it: classes by their ids."""
    chosen = fields.get("probabilities")
    return Product(**fields | {"probabilities": chosen and tuple(map(str, chosen))})

"""How fast a replica is, and how much of its work is padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def find_rates(
    counts: Mapping[str, int], seconds: Mapping[str, float]
) -> dict[str, float | None]:
    """Rates of one replica, from sums over records; None where nothing was measured.

    Tiles and items are counted by the second in which a network was at work, images
    and bytes of files by the second in which one was being decoded.
    """
    network, decode = seconds.get("network", 0.0), seconds.get("decode", 0.0)
    # Of a run that an older version began, only some of the items were measured.
    return {
        "tiles_s": _divide(counts["tiles"], network),
        "items_s": _divide(counts["items_measured"], network),
        "decoded_images_s": _divide(counts["images_decoded"], decode),
        "decoded_mb_s": _divide(counts["bytes_decoded"] / 1e6, decode),
    }


def find_padding(counts: Mapping[str, int]) -> float | None:
    """Share of what networks saw that lay past an image's edge or in an empty slot."""
    seen = counts["pixels_seen"]
    return round(counts["pixels_padding"] / seen, 4) if seen else None


def describe_rates(summary: Mapping[str, Any]) -> list[str]:
    """Lines for people; none where nothing was measured."""
    rates, lines = summary.get("rates", {}), []
    if rates.get("tiles_s") is not None:
        lines.append(
            f"network       {rates['tiles_s']:.4g} tiles/s, {rates['items_s']:.4g} items/s "
            f"a replica, {100 * (summary['padding'] or 0):.1f} % of it padding"
        )
    if rates.get("decoded_images_s") is not None:
        lines.append(
            f"decoding      {rates['decoded_images_s']:.4g} images/s, "
            f"{rates['decoded_mb_s']:.4g} MB/s a replica"
        )
    return lines


def _divide(count: float, seconds: float) -> float | None:
    return float(f"{count / seconds:.4g}") if seconds else None

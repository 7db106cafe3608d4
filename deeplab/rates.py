"""Strides turned into atrous rates, and multi-grid.

Chen et al. 2017, arXiv:1706.05587, section 3.1: a stride beyond the output
stride wanted is removed, and the kernels after it get holes, so that they see
the pixels that they saw before. Section 3.2.1: the units of the last stage
spread their kernels further, each by a factor of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeplab.variant import Variant

Stages = list[list["Unit"]]


class Unit(NamedTuple):
    """How one unit of an encoder walks over its input."""

    stride: int
    """Cells from one place of its kernels to the next."""

    rate: int
    """Cells from one tap of a 3x3 kernel to the next."""


def plan_units(
    strides: Sequence[Sequence[int]], *, start: int, output_stride: int, scheme: str
) -> Stages:
    """Remove strides beyond the output stride and set rates instead.

    The schemes agree on where rates end up and differ on where they begin:

    - ``torchvision``, ``tf``, ``mmseg_mg``: the unit whose stride is removed keeps
      the rate that held before it, the units after it get the new one.
    - ``all``: the unit whose stride is removed gets the new rate already.
    - ``stage``: the whole stage whose stride is removed keeps the rate, the next
      stages get the new one.

    Args:
        strides: Of each unit, by stage, as in the network for classification.
        start: Image pixels per cell at the first unit's input.
        output_stride: Image pixels per cell wanted at the last unit's output.
        scheme: One of those above.

    Returns:
        Stride and rate of each unit, by stage.
    """
    plan: Stages = []
    reached, rate = start, 1
    for stage in strides:
        units, held = [], rate
        for stride in stage:
            if reached < output_stride:
                reached *= stride
                units.append(Unit(stride, 1))
                continue
            if scheme == "all":
                rate *= stride
            units.append(Unit(1, held if scheme == "stage" else rate))
            if scheme != "all":
                rate *= stride
        plan.append(units)
    return plan


def plan_encoder(
    strides: Sequence[Sequence[int]], *, start: int, output_stride: int, variant: Variant
) -> Stages:
    """Plan the units of an encoder, its last stage with multi-grid."""
    plan = plan_units(
        strides, start=start, output_stride=output_stride, scheme=variant.dilation
    )
    grid = variant.multi_grid
    replaces = variant.dilation == "mmseg_mg" and set(grid) != {1}
    plan[-1] = [
        Unit(unit.stride, factor if replaces else unit.rate * factor)
        for unit, factor in zip(plan[-1], grid, strict=False)
    ] + plan[-1][len(grid) :]
    return plan

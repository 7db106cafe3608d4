"""Which layers a run writes of each raster, and what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jobs.outputs.levels import CONFIDENCE, MASK, NODATA, probability_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeplab.pictures import Segmentation
    from jobs.outputs.levels import Layer, Pixels
    from jobs.spec import Spec


def list_layers(spec: Spec) -> tuple[Layer, ...]:
    """The layers of a run, in the order in which pieces hold them: the mask first.

    Each is called as ``RasterNames`` calls its COG.
    """
    layers = [MASK]
    if spec.product.confidence:
        layers.append(CONFIDENCE)
    if spec.probabilities:
        classes = spec.bundle.classes
        layers.append(probability_layer([classes[one].name for one in spec.probabilities]))
    return tuple(layers)


def fill_layers(
    layers: Sequence[Layer], found: Segmentation
) -> list[tuple[Layer, list[Pixels]]]:
    """The planes of each layer, uint8 (H, W), of what the network found."""
    return [(layer, _find_planes(layer, found)) for layer in layers]


def _find_planes(layer: Layer, found: Segmentation) -> list[Pixels]:
    if not layer.bands:
        return [found.mask if layer is MASK else found.confidence]
    if found.probabilities is None:
        raise ValueError(f"{layer.name} were asked for, the segmenter was not told so")
    known = np.where(found.mask == NODATA, np.uint8(0), np.uint8(255))
    return [*found.probabilities, known]

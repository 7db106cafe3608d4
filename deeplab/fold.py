"""A network in the form that inference wants: fewer operations, the same logits.

Normalisation with fixed statistics is a factor and a summand of each channel, so the
convolution before it can have both. The image-level view is one vector an image, so
the 1x1 convolution that joins the pyramid's views sees it as a bias: it is neither
enlarged to the map nor concatenated. Both are exact up to float32 rounding.
"""

from __future__ import annotations

import copy
import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deeplab.aspp import ASPP


def fold(model: nn.Module) -> nn.Module:
    """Copy a network into its inference form.

    Args:
        model: Any network; parts that cannot be folded stay as they are.

    Returns:
        A copy in evaluation mode, without batch normalisation after convolutions and
        with the image-level view as a bias. It is not for training: what was folded
        cannot be told apart again.
    """
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        _fold_norms(module)
        if isinstance(module, ASPP):
            module.pool_to_bias()
    return model.requires_grad_(False)  # noqa: FBT003


def _fold_norms(parent: nn.Module) -> None:
    """Fold each normalisation into the convolution that is its elder sibling.

    All of our modules, and torchvision's, list their layers in the order of use.
    """
    for (name, layer), (norm_name, norm) in itertools.pairwise(parent.named_children()):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, name, fuse_conv_bn_eval(layer, norm))
            setattr(parent, norm_name, nn.Identity())

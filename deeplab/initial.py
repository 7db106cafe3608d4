"""Weights to start training from.

He et al. 2015, arXiv:1502.01852, equation 10, for every kernel that ReLU follows;
the classifier as in DeepLab's authors' code.
"""

from __future__ import annotations

from typing import Final

from torch import nn

CLASSIFIER_STD: Final = 0.01


def initialise(model: nn.Module) -> None:
    """Draw kernels anew, in place; normalisation starts as the identity.

    A convolution with a bias of its own that is called ``classifier`` is drawn
    from a narrow normal distribution, so that training starts undecided.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.endswith("classifier"):
                nn.init.normal_(module.weight, std=CLASSIFIER_STD)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()

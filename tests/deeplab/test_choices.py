import dataclasses

import pytest

from deeplab.choices import changed_choices, format_choice, parse_choices
from deeplab.variant import Network, Norm, Variant, architectures, default_variant

OTHER = Variant(
    stem=(64, 64, 128),
    dilation="tf",
    multi_grid=(1, 2, 4),
    padding="same",
    last_conv=True,
    low_level="unit",
    backbone_norm=Norm(eps=1e-3, momentum=3e-4),
    context="spp",
    channels=512,
    separable=True,
    separable_norm=False,
    image_pool="window",
    pool_window=(33, 65),
    pool_norm="none",
    project_kernel=3,
    refine="dense",
    low_level_channels=12,
    decoder_convs=1,
    decoder_separable=True,
    head_norm=Norm(momentum=3e-4),
    dropout=0.5,
    align_corners=True,
    aux=True,
)
FIELDS = [field.name for field in dataclasses.fields(Variant)]


@pytest.mark.parametrize("variant", [Variant(), OTHER], ids=["own", "other"])
@pytest.mark.parametrize("name", FIELDS)
def test_what_is_shown_can_be_set(name, variant):
    value = getattr(variant, name)
    (parsed,) = parse_choices([f"{name}={format_choice(value)}"]).values()
    assert (parsed, type(parsed)) == (value, type(value))


def test_the_other_variant_differs_in_every_field():
    network = Network(architecture="deeplabv3plus_resnet50", classes=2, variant=OTHER)
    assert list(changed_choices(network)) == FIELDS


@pytest.mark.parametrize("name", architectures())
def test_an_architecture_does_not_differ_from_itself(name):
    network = Network(architecture=name, classes=2, variant=default_variant(name))
    assert changed_choices(network) == {}
    assert changed_choices(dataclasses.replace(network, variant=None)) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["align_corner=true"],
            "no choice is called 'align_corner'; the nearest is align_",
        ),
        (["x=1"], "no choice is called 'x'; the nearest is "),
        (["aux"], "a choice must look like align_corners=true, got 'aux'"),
        (["aux=true", "aux=false"], "a choice must be made once, got aux twice"),
        (["aux=yes"], "aux must be true or false, got 'yes'"),
        (["channels=many"], "channels must be a whole number, got 'many'"),
        (["dropout="], "dropout must be a number, got ''"),
        (["multi_grid=1;2"], "multi_grid must be numbers such as 1,2,4, got '1;2'"),
        (["pool_window=33"], "pool_window must be two numbers such as 33,33, or none"),
        (["head_norm=1e-3"], "head_norm must be eps and momentum such as 0.001,0.0003"),
        (["refine=thin"], "refine must be one of none, dense, separable, got 'thin'"),
        (["project_kernel=2"], "project_kernel must be one of 1, 3, got '2'"),
    ],
)
def test_another_text_is_refused(texts, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        parse_choices(texts)

"""VRTs: what GDAL's driver reads, and nothing that they may not name."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

from deeplab.tiles import Window
from jobs.errors import ItemError
from jobs.inputs.decoding import read_info, read_window
from jobs.inputs.raster_grid import parse_grid
from jobs.inputs.raster_vrt import parse_vrt
from jobs.map_job import MapJob
from jobs.spec import Reading
from jobs.storage import Access

LOCAL = Access()
SIDE = 40

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning",
)


def source(name, band, *, at=(0, 0), nodata=None, relative=1, more=""):
    kind = "SimpleSource" if nodata is None else "ComplexSource"
    rest = "" if nodata is None else f"<NODATA>{nodata}</NODATA>"
    (height, width), (row, col) = (SIDE, SIDE), at
    return (
        f'<{kind}><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        f'<SourceProperties RasterXSize="{width}" RasterYSize="{height}"/>'
        f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
        f'<DstRect xOff="{col}" yOff="{row}" xSize="{width}" ySize="{height}"/>'
        f"{rest}{more}</{kind}>"
    )


def band(number, *sources, dtype="Byte", color="Gray", nodata=None):
    value = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
    return (
        f'<VRTRasterBand dataType="{dtype}" band="{number}">{value}'
        f"<ColorInterp>{color}</ColorInterp>{''.join(sources)}</VRTRasterBand>"
    )


def vrt(*bands, height=SIDE, width=SIDE, more=""):
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">'
        '<SRS dataAxisToSRSAxisMapping="1,2">EPSG:32633</SRS>'
        "<GeoTransform>390000, 0.5, 0, 5820000, 0, -0.5</GeoTransform>"
        f"{more}{''.join(bands)}</VRTDataset>"
    )


@pytest.fixture
def scenes(write_raster, tmp_path):
    """Three overlapping rasters, of which some pixels are 0."""
    for number in range(3):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 6, (3, SIDE, SIDE), dtype=np.uint8)
        write_raster(
            pixels, f"scenes/{number}.tif", tiled=True, blockxsize=16, blockysize=16
        )
    return tmp_path / "scenes"


def allow(*roots):
    return Reading(allow_vrt=tuple(map(str, roots)))


def read_all(path, reading):
    info = read_info(str(path), LOCAL, bands=3, reading=reading)
    window = Window(row=0, col=0, height=info.height, width=info.width)
    return info, *read_window(str(path), LOCAL, window, bands=3, reading=reading)


def mosaic(folder, **options):
    """Three scenes of which a later one lies above, and a corner without any."""
    places = [(0, 0), (10, 25), (35, 5)]
    bands = [
        band(
            number,
            *(
                source(f"{i}.tif", number, at=(row, col), **options)
                for i, (row, col) in enumerate(places)
            ),
            nodata=0,
        )
        for number in (1, 2, 3)
    ]
    path = folder / "all.vrt"
    path.write_text(vrt(*bands, height=80, width=70))
    return path


@pytest.mark.parametrize("options", [{}, {"nodata": 0}, {"nodata": 3}], ids=str)
def test_a_mosaic_is_what_gdal_makes_of_it(scenes, options):
    path = mosaic(scenes, **options)
    with rasterio.open(path) as oracle:
        expected, mask = oracle.read(), oracle.read_masks().any(axis=0)
        crs, transform = oracle.crs, oracle.transform
    info, found, valid = read_all(path, allow(scenes))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(valid, mask)
    assert parse_grid(info.grid) == {"crs": crs, "transform": transform}
    for row, col, height, width in ((0, 0, 1, 1), (12, 20, 40, 30), (79, 69, 1, 1)):
        window = Window(row=row, col=col, height=height, width=width)
        part, _ = read_window(str(path), LOCAL, window, bands=3, reading=allow(scenes))
        box = slice(row, row + height), slice(col, col + width)
        np.testing.assert_array_equal(part, expected[:, *box])


def test_where_no_source_lies_there_is_no_data(scenes):
    path = scenes / "a.vrt"
    bands = [band(i, source("0.tif", i, at=(0, 7))) for i in (1, 2, 3)]
    path.write_text(vrt(*bands, width=60))
    _, found, valid = read_all(path, allow(scenes))
    expected = np.zeros((SIDE, 60), dtype=bool)
    expected[:, 7:47] = True
    np.testing.assert_array_equal(valid, expected)
    assert not found[:, ~valid].any()


def test_alpha_and_other_types(write_raster, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 3, (4, SIDE, SIDE), dtype=np.uint16)
    write_raster(pixels, "scenes/a.tif")
    colors = ("Red", "Green", "Blue", "Alpha")
    bands = [
        band(i, source("a.tif", i), dtype="UInt16", color=color)
        for i, color in enumerate(colors, 1)
    ]
    path = tmp_path / "scenes/a.vrt"
    path.write_text(vrt(*bands))
    reading = Reading(value_range=(0, 2), allow_vrt=(str(tmp_path),))
    info, found, valid = read_all(path, reading)
    assert (info.bands, info.dtype) == (3, "uint16")
    np.testing.assert_array_equal(valid, pixels[3] > 0)
    np.testing.assert_array_equal(found, np.rint(pixels[:3] / 2 * 255))


def test_points_and_rpcs_of_a_vrt_are_kept(scenes):
    points = "".join(
        f'<GCP Id="{i}" Pixel="{x}" Line="{y}" X="{13 + x / 100}" Y="{52 - y / 100}"/>'
        for i, (x, y) in enumerate([(0, 0), (40, 0), (0, 40)])
    )
    bands = [band(i, source("0.tif", i)) for i in (1, 2, 3)]
    path = scenes / "a.vrt"
    path.write_text(vrt(*bands, more=f'<GCPList Projection="EPSG:4326">{points}</GCPList>'))
    grid = parse_grid(read_info(str(path), LOCAL, reading=allow(scenes)).grid)
    with rasterio.open(path) as oracle:
        expected, crs = oracle.gcps
    assert grid["crs"] == crs
    assert [(p.row, p.col, p.x, p.y) for p in grid["gcps"]] == [
        (p.row, p.col, p.x, p.y) for p in expected
    ]


# What a plan makes of them


def test_vrts_count_only_where_they_are_allowed(scenes, make_spec):
    path = mosaic(scenes)
    found = [
        item.key
        for reading in (Reading(), allow(scenes))
        for shard in MapJob(
            spec=make_spec(job="map", source=str(scenes), reading=reading)
        ).plan()
        for item in shard.items
    ]
    tifs = ["0.tif", "1.tif", "2.tif"]
    assert found == [*tifs, *tifs, "all.vrt"]
    (shard,) = MapJob(spec=make_spec(job="map", source=str(path))).plan()
    assert shard.refusal.code == "unsupported"
    assert shard.refusal.message.endswith(
        "say where its sources lie with -c allow_vrt=FOLDER"
    )


def test_blocks_of_a_vrt_are_mapped(scenes, make_spec):
    path = mosaic(scenes)
    spec = make_spec(job="map", source=str(path), reading=allow(scenes), block=512)
    (shard,) = MapJob(spec=spec).plan()
    image = MapJob(spec=spec, fingerprint="f").read(shard, shard.items[0])
    _, found, valid = read_all(path, allow(scenes))
    np.testing.assert_array_equal(image.pixels, found)
    np.testing.assert_array_equal(image.valid, valid)


def test_a_source_that_changes_while_it_is_read_is_noticed(scenes, monkeypatch):
    from jobs.inputs import decoding

    path, real = mosaic(scenes), decoding.ask_raster

    def ask(kind, *arguments):
        answer = real(kind, *arguments)
        if kind == "window":
            os.utime(scenes / "1.tif", ns=(0, 0))
        return answer

    monkeypatch.setattr(decoding, "ask_raster", ask)
    with pytest.raises(ItemError) as caught:
        read_all(path, allow(scenes))
    assert caught.value.code == "input_changed"


# What is refused


def refusal(path, *roots, read=False):
    with pytest.raises(ItemError) as caught:
        (read_all if read else read_info_of)(path, allow(*roots))
    return caught.value.code, caught.value.message


def read_info_of(path, reading):
    return read_info(str(path), LOCAL, bands=3, reading=reading)


OUTSIDE = {
    "absolute": ("{secret}", 0),
    "absolute, said to be relative": ("{secret}", 1),
    "up and away": ("../secret/0.tif", 1),
    "up and away, absolute": ("{scenes}/../secret/0.tif", 0),
    "a link": ("link.tif", 1),
    "a folder that is a link": ("linked/0.tif", 1),
    "a prefix of a root": ("{scenes}-not/0.tif", 0),
    "/vsicurl/": ("/vsicurl/http://127.0.0.1:9/a.tif", 0),
    "/vsizip/": ("/vsizip/{scenes}/a.zip/a.tif", 0),
    "/vsis3/ under no root": ("/vsis3/bucket/a.tif", 0),
    "out of S3": ("/vsis3/bucket/../..{secret}", 0),
    "another VRT in a name": ("vrt://{secret}", 0),
    "GTIFF_DIR": ("GTIFF_DIR:1:{secret}", 0),
    "a text of its own": ("&lt;VRTDataset/&gt;", 0),
    "nothing absolute": ("0.tif", 0),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_source_lies_outside_the_roots(scenes, tmp_path, name):
    secret = tmp_path / "secret" / "0.tif"
    secret.parent.mkdir()
    secret.write_bytes((scenes / "0.tif").read_bytes())
    (scenes / "link.tif").symlink_to(secret)
    (scenes / "linked").symlink_to(secret.parent)
    text, relative = OUTSIDE[name]
    text = text.format(secret=secret, scenes=scenes)
    bands = [band(i, source(text, i, relative=relative)) for i in (1, 2, 3)]
    path = scenes / "a.vrt"
    path.write_text(vrt(*bands))
    os.utime(secret, ns=(0, 0))
    code, message = refusal(path, scenes)
    assert code == "unsupported"
    assert message.startswith("the VRT is refused: it")
    assert secret.stat().st_atime_ns == 0


@pytest.mark.parametrize(
    "key", ["/vsis3/b/scenes/../secret/a.tif", "/vsis3/b//scenes/a.tif"]
)
def test_a_key_with_dots_or_nothing_is_no_way_out(key):
    for root in ("/data", "/vsis3/b/in"):
        text = vrt(band(1, source(key, 1, relative=0))).encode()
        with pytest.raises(ItemError, match="the VRT is refused"):
            parse_vrt(text, "/vsis3/b/a.vrt", (root,))


def test_a_link_within_the_roots_is_followed(scenes, tmp_path):
    (scenes / "link.tif").symlink_to(scenes / "0.tif")
    path = scenes / "a.vrt"
    path.write_text(vrt(*(band(i, source("link.tif", i)) for i in (1, 2, 3))))
    (tmp_path / "root").symlink_to(scenes)
    _, found, _ = read_all(path, allow(tmp_path / "root"))
    with rasterio.open(scenes / "0.tif") as oracle:
        np.testing.assert_array_equal(found, oracle.read())


def plain(**more):
    return vrt(*(band(i, source("0.tif", i)) for i in (1, 2, 3)), **more)


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]>'
    '<VRTDataset rasterXSize="1" rasterYSize="1">&c;</VRTDataset>'
)
FILE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><VRTDataset>&b;</VRTDataset>'
STRANGE = {
    "entities": (BOMB, "unsupported", "declares entities"),
    "a file as entity": (FILE, "unsupported", "declares entities"),
    "no XML": ("II*", "undecodable", "it is no VRT"),
    "other XML": ("<a/>", "undecodable", "it is no VRT but a 'a'"),
    "no band": (vrt(), "undecodable", "the VRT has no band"),
    "no size": (plain(height=0), "undecodable", "makes no sense"),
    "too large": (plain(height=10**7, width=10**7), "too_large", "exceed"),
    "a raw band": (
        plain().replace(' band="2"', ' band="2" subClass="VRTRawRasterBand"'),
        "unsupported",
        "has 'subClass'",
    ),
    "a derived band": (
        plain().replace(
            ' band="2">',
            ' band="2" subClass="VRTDerivedRasterBand"><PixelFunctionType>sum'
            "</PixelFunctionType>",
        ),
        "unsupported",
        "which is not read",
    ),
    "a pixel function alone": (
        plain().replace(' band="2">', ' band="2"><PixelFunctionCode>a</PixelFunctionCode>'),
        "unsupported",
        "has 'PixelFunctionCode'",
    ),
    "a warped VRT": (
        plain().replace("<VRTDataset ", '<VRTDataset subClass="VRTWarpedDataset" '),
        "unsupported",
        "has 'subClass'",
    ),
    "a mask": (
        plain(more="<MaskBand/>"),
        "unsupported",
        "VRTDataset has 'MaskBand'",
    ),
    "options for opening": (
        vrt(band(1, source("0.tif", 1, more="<OpenOptions/>"))),
        "unsupported",
        "has 'OpenOptions'",
    ),
    "a filter": (
        plain().replace("SimpleSource", "KernelFilteredSource"),
        "unsupported",
        "has 'KernelFilteredSource'",
    ),
    "a scaled source": (
        vrt(band(1, source("0.tif", 1, nodata=0, more="<ScaleRatio>2</ScaleRatio>"))),
        "unsupported",
        "has 'ScaleRatio'",
    ),
    "the mask of a source": (
        plain().replace("<SourceBand>1<", "<SourceBand>mask,1<"),
        "unsupported",
        "which is no band",
    ),
    "resampling": (
        plain().replace(
            '<DstRect xOff="0" yOff="0" xSize="40"', '<DstRect xOff="0" yOff="0" xSize="20"'
        ),
        "unsupported",
        "it resamples a source",
    ),
    "between pixels": (
        plain().replace('<DstRect xOff="0"', '<DstRect xOff="0.5"'),
        "unsupported",
        "between pixels",
    ),
    "a CRS that is an address": (
        plain().replace("EPSG:32633", "http://127.0.0.1:9/crs"),
        "unsupported",
        "is neither WKT nor an EPSG code",
    ),
    "a palette": (
        plain().replace(">Gray<", ">Palette<"),
        "unsupported",
        "it has a palette",
    ),
    "complex numbers": (
        plain().replace('"Byte"', '"CFloat32"'),
        "unsupported",
        "its bands are CFloat32",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_understood_is_refused(scenes, name):
    text, code, words = STRANGE[name]
    path = scenes / "a.vrt"
    path.write_text(text)
    found = refusal(path, scenes)
    assert found[0] == code
    assert words in found[1]


WRONG = {
    "no such file": ("none.tif", 1, "not_found", "its source none.tif: "),
    "another VRT": ("b.tif", 1, "undecodable", "its source b.tif: "),
    "no such band": ("0.tif", 4, "unsupported", "the VRT wants more of it than there is"),
    "another type": ("f.tif", 1, "unsupported", "it has float32 where the VRT says uint8"),
    "smaller": ("s.tif", 1, "unsupported", "the VRT wants more of it than there is"),
}


@pytest.mark.parametrize("name", WRONG)
def test_sources_that_are_not_what_the_vrt_says(scenes, write_raster, name):
    text, number, code, words = WRONG[name]
    write_raster(np.ones((3, SIDE, SIDE), np.float32), "scenes/f.tif")
    write_raster(np.ones((3, SIDE, SIDE - 1), np.uint8), "scenes/s.tif")
    (scenes / "b.tif").write_text(plain())
    path = scenes / "a.vrt"
    path.write_text(vrt(*(band(i, source(text, number)) for i in (1, 2, 3))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_info_of(path, allow(scenes))
        found = refusal(path, scenes, read=True)
    assert found[0] == code
    assert words in found[1]


def test_a_vrt_cannot_be_put_on_another_grid(scenes):
    path = mosaic(scenes)
    reading = Reading(crs="EPSG:3857", allow_vrt=(str(scenes),))
    with pytest.raises(ItemError, match="cannot be put on another grid"):
        read_info_of(path, reading)


def test_a_text_without_end_is_refused(scenes, monkeypatch):
    monkeypatch.setattr("jobs.inputs.raster_vrt.MAX_BYTES", 99)
    with pytest.raises(ItemError) as caught:
        parse_vrt(plain().encode(), str(scenes / "a.vrt"), ())
    assert caught.value.code == "too_large"


@pytest.mark.s3
def test_a_vrt_and_its_sources_may_lie_in_s3(scenes, remote):
    for path in (mosaic(scenes), *scenes.glob("*.tif")):
        remote.store.create(remote.at(f"scenes/{path.name}"), Path(path).read_bytes())
    access = remote.store._access
    window = Window(row=0, col=0, height=80, width=70)
    uri, reading = remote.at("scenes/all.vrt"), allow(remote.at("scenes"))
    assert read_info(uri, access, bands=3, reading=reading).width == 70
    found, valid = read_window(uri, access, window, bands=3, reading=reading)
    _, expected, mask = read_all(scenes / "all.vrt", allow(scenes))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(valid, mask)
    with pytest.raises(ItemError, match="lies under no folder of allow_vrt"):
        read_info(uri, access, bands=3, reading=allow(scenes, remote.at("other")))

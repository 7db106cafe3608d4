"""rasterio, used plainly, is the oracle for what ours reads."""

import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin
from rasterio.windows import Window as GdalWindow

from deeplab.tiles import Window
from jobs.errors import ItemError, StoreError
from jobs.inputs.decoding import RASTER_FACTOR, read_info, read_window
from jobs.inputs.gdal_names import gdal_path, s3_options
from jobs.inputs.raster_grid import parse_grid
from jobs.inputs.rasters import GDAL_OPTIONS, RasterInfo
from jobs.inputs.rasters import read_info as read_here
from jobs.spec import Limits
from jobs.storage import Access

LOCAL = Access()
HEIGHT, WIDTH = 90, 130
WINDOWS = [
    Window(row=0, col=0, height=HEIGHT, width=WIDTH),
    Window(row=0, col=0, height=1, width=1),
    Window(row=HEIGHT - 1, col=WIDTH - 1, height=1, width=1),
    Window(row=17, col=31, height=40, width=64),
    Window(row=64, col=0, height=HEIGHT - 64, width=WIDTH),
]


def pixels_of(bands, *, high=256):
    """Uint8 (bands, H, W) without a pattern."""
    shape = (bands, HEIGHT, WIDTH)
    return np.random.default_rng(bands).integers(0, high, shape).astype(np.uint8)


def holes():
    """Validity as GDAL writes it, uint8 (H, W): a round hole and an empty edge."""
    row, col = np.mgrid[:HEIGHT, :WIDTH]
    hole = (row - 40) ** 2 + (col - 60) ** 2 < 300
    return np.where(hole | (col > 120), 0, 255).astype(np.uint8)


def with_alpha(bands):
    return np.concatenate([pixels_of(bands), holes()[np.newaxis]])


GREY_ALPHA = (ColorInterp.gray, ColorInterp.alpha)
RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)

RASTERS = {
    "plain": (pixels_of(3), {}),
    "one band": (pixels_of(1), {}),
    "eight bands": (pixels_of(8), {}),
    "nodata": (pixels_of(3, high=3), {"nodata": 0}),
    "one band, nodata": (pixels_of(1, high=3), {"nodata": 2}),
    "nodata that no pixel has": (pixels_of(3, high=9), {"nodata": 200}),
    "alpha": (with_alpha(3), {"color": RGBA}),
    "grey and alpha": (with_alpha(1), {"color": GREY_ALPHA}),
    "internal mask": (pixels_of(3), {"validity": holes()}),
    "internal mask, eight bands": (pixels_of(8), {"validity": holes()}),
    "tiles": (pixels_of(3), {"tiled": True, "blockxsize": 32, "blockysize": 16}),
    "tiles and mask": (
        pixels_of(3),
        {"validity": holes(), "tiled": True, "blockxsize": 32, "blockysize": 32},
    ),
    "pixel by pixel": (pixels_of(3), {"interleave": "pixel", "compress": "deflate"}),
    "band by band": (pixels_of(3), {"interleave": "band", "compress": "lzw"}),
    "zstd, predictor": (pixels_of(3), {"compress": "zstd", "predictor": 2}),
    "jpeg": (pixels_of(3), {"compress": "jpeg", "photometric": "ycbcr"}),
}


@pytest.mark.parametrize("name", RASTERS)
def test_windows_are_what_rasterio_reads(write_raster, name):
    pixels, options = RASTERS[name]
    uri = write_raster(pixels, **options)
    bands = min(3, read_info(uri, LOCAL).bands)
    with rasterio.open(uri) as oracle:
        whole, mask = oracle.read(list(range(1, bands + 1))), oracle.dataset_mask()
    for window in WINDOWS:
        box = GdalWindow(window.col, window.row, window.width, window.height).toslices()
        found, valid = read_window(uri, LOCAL, window, bands=bands)
        assert (found.dtype, valid.dtype) == (np.uint8, np.bool_)
        np.testing.assert_array_equal(found, whole[:, *box])
        np.testing.assert_array_equal(valid, mask[box] != 0)


@pytest.mark.parametrize(
    "name", ["alpha", "grey and alpha", "internal mask", "tiles and mask"]
)
def test_validity_is_what_was_written(write_raster, name):
    pixels, options = RASTERS[name]
    _, valid = read_window(write_raster(pixels, **options), LOCAL, WINDOWS[0], bands=1)
    np.testing.assert_array_equal(valid, holes() > 0)


def test_a_pixel_is_nodata_where_every_band_is(write_raster):
    pixels = pixels_of(3, high=3)
    _, valid = read_window(write_raster(pixels, nodata=0), LOCAL, WINDOWS[0], bands=3)
    np.testing.assert_array_equal(valid, (pixels != 0).any(axis=0))


def test_a_mask_file_beside_the_raster_does_not_count(write_raster):
    """The same object gives the same pixels, whatever lies beside it."""
    uri = write_raster(pixels_of(3))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(uri, "r+") as target:
        target.write_mask(holes())
    assert Path(f"{uri}.msk").exists()
    _, valid = read_window(uri, LOCAL, WINDOWS[0], bands=3)
    assert valid.all()


def test_georeferencing_beside_the_raster_does_not_count(write_raster, tmp_path):
    uri = write_raster(pixels_of(1))
    before = read_info(uri, LOCAL)
    (tmp_path / "raster.tfw").write_text("9\n0\n0\n-9\n1\n1\n")
    (tmp_path / "raster.tif.aux.xml").write_text(
        "<PAMDataset><GeoTransform>1,9,0,1,0,-9</GeoTransform></PAMDataset>"
    )
    assert read_info(uri, LOCAL) == before


# Headers


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("plain", 3),
        ("one band", 1),
        ("eight bands", 8),
        ("alpha", 3),
        ("grey and alpha", 1),
    ],
)
def test_alpha_is_no_band(write_raster, name, bands):
    pixels, options = RASTERS[name]
    info = read_info(write_raster(pixels, **options), LOCAL)
    assert info == RasterInfo(
        height=HEIGHT,
        width=WIDTH,
        bands=bands,
        dtype="uint8",
        paletted=False,
        grid=info.grid,
        stored=info.stored,
    )


def test_a_palette_is_noticed(write_raster):
    uri = write_raster(pixels_of(1, high=2))
    with rasterio.open(uri, "r+") as target:
        target.write_colormap(1, {0: (0, 0, 0, 255), 1: (9, 9, 9, 255)})
    assert read_info(uri, LOCAL).paletted


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64", "int32"])
def test_the_type_of_samples_is_told(write_raster, dtype):
    assert read_info(write_raster(pixels_of(2).astype(dtype)), LOCAL).dtype == dtype


def test_a_near_infrared_band_is_a_band(write_raster):
    color = (*RGBA[:3], ColorInterp.nir)
    assert read_info(write_raster(pixels_of(4), color=color), LOCAL).bands == 4


# Georeferencing


def read_grid(uri):
    return parse_grid(read_info(uri, LOCAL).grid)


@pytest.mark.parametrize(
    "transform",
    [
        from_origin(390_000, 5_820_000, 0.5, 0.25),
        Affine.translation(390_000, 5_820_000)
        @ Affine.rotation(30)
        @ Affine.scale(0.5, -0.5),
        Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0) @ Affine.scale(2),
        Affine(1e-5, 0.0, 13.4, 0.0, -1e-5, 52.5),
    ],
    ids=["north up", "rotated", "south up", "degrees"],
)
def test_the_grid_is_kept(write_raster, transform):
    grid = read_grid(write_raster(pixels_of(1), transform=transform))
    assert grid.pop("transform").almost_equals(transform, precision=1e-12)
    assert grid == {"crs": "EPSG:32633"}


def points():
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH), (40, 50)]
    return [
        GroundControlPoint(row=r, col=c, x=13 + c * 1e-4 + r * 1e-6, y=52 - r * 1e-4, z=3)
        for r, c in corners
    ]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_control_points_are_kept(write_raster):
    uri = write_raster(pixels_of(1), transform=None, gcps=points(), crs="EPSG:4326")
    grid = read_grid(uri)
    assert grid["crs"] == "EPSG:4326"
    assert "transform" not in grid
    found = [(p.row, p.col, p.x, p.y, p.z) for p in grid["gcps"]]
    assert found == [(p.row, p.col, p.x, p.y, p.z) for p in points()]
    assert read_info(uri, LOCAL) == read_info(uri, LOCAL)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_control_points_without_end_are_refused(write_raster, monkeypatch):
    monkeypatch.setattr("jobs.inputs.raster_grid._MAX_POINTS", 4)
    uri = write_raster(pixels_of(1), transform=None, gcps=points(), crs="EPSG:4326")
    with pytest.raises(ItemError, match="5 control points exceed 4") as caught:
        read_here(uri, {})
    assert caught.value.code == "too_large"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_raster_of_nowhere_stays_there(write_raster):
    grid = read_grid(write_raster(pixels_of(1), crs=None, transform=None))
    assert grid == {"crs": None, "transform": Affine.identity()}


def test_a_raster_of_nowhere_is_no_cause_to_warn(write_raster):
    uri = write_raster(pixels_of(1), crs=None, transform=None)
    code = f"""
from jobs.inputs.decoding import read_info
from jobs.storage import Access
print(read_info({uri!r}, Access()).bands)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


# What is refused


def refused(call, *arguments, **options):
    with pytest.raises(ItemError) as caught:
        call(*arguments, **options)
    assert "\n" not in caught.value.message
    return caught.value.code, caught.value.message


def write_vrt(path, secret):
    path.write_text(
        f'<VRTDataset rasterXSize="9" rasterYSize="1">'
        f'<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        f'<SourceFilename relativeToVRT="0">{secret}</SourceFilename>'
        f"</VRTRasterBand></VRTDataset>"
    )


def test_a_vrt_that_calls_itself_tif_reads_no_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x:0:0")
    disguise = tmp_path / "scene.tif"
    write_vrt(disguise, secret)
    # Were the driver guessed, the secret would come out as pixels.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(disguise) as guessed:
            assert guessed.driver == "VRT"
    os.utime(secret, ns=(0, 0))
    assert refused(read_info, str(disguise), LOCAL)[0] == "undecodable"
    window = Window(row=0, col=0, height=1, width=9)
    assert refused(read_window, str(disguise), LOCAL, window, bands=1)[0] == "undecodable"
    assert secret.stat().st_atime_ns == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GTiff in name alone", "empty", "none"])
def test_only_geotiffs_are_opened(tmp_path, kind):
    path = tmp_path / "scene.tif"
    if kind in {"PNG", "JPEG"}:
        from PIL import Image

        Image.new("RGB", (9, 9)).save(path, kind)
    elif kind != "none":
        path.write_bytes(b"II*\0" + bytes(99) if kind.startswith("GT") else b"")
    code, message = refused(read_info, str(path), LOCAL)
    assert code == "undecodable"
    assert message


def test_a_geotiff_of_any_name_is_opened(write_raster):
    assert read_info(write_raster(pixels_of(1), "odd name \u6771.bin"), LOCAL).bands == 1


def test_a_damaged_block_is_an_item_error(write_raster):
    layout = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    uri = write_raster(pixels_of(1), **layout)
    data = bytearray(Path(uri).read_bytes())
    with rasterio.open(uri) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    data[start + 10 : start + 400] = b"\xff" * 390
    Path(uri).write_bytes(data)
    damaged = Window(row=40, col=70, height=9, width=9)
    code, message = refused(read_window, uri, LOCAL, damaged, bands=1)
    assert code == "undecodable"
    assert message
    # The rest of the raster is as good as before.
    sound = Window(row=0, col=0, height=32, width=64)
    pixels, _ = read_window(uri, LOCAL, sound, bands=1)
    np.testing.assert_array_equal(pixels, pixels_of(1)[:, :32, :64])


@pytest.mark.parametrize(
    ("window", "bands"),
    [
        (WINDOWS[0], 2),
        (Window(row=1, col=0, height=HEIGHT, width=WIDTH), 1),
        (Window(row=0, col=WIDTH - 3, height=4, width=4), 1),
    ],
    ids=["bands", "rows", "columns"],
)
def test_a_raster_that_is_smaller_than_planned_was_changed(write_raster, window, bands):
    uri = write_raster(pixels_of(1))
    assert refused(read_window, uri, LOCAL, window, bands=bands) == (
        "input_changed",
        "the raster is smaller than it was",
    )


def test_a_window_that_fails_leaves_the_next_one_alone(write_raster, tmp_path):
    uri = write_raster(pixels_of(3))
    refused(read_info, str(tmp_path / "none.tif"), LOCAL)
    pixels, _ = read_window(uri, LOCAL, WINDOWS[0], bands=3)
    np.testing.assert_array_equal(pixels, pixels_of(3))


def read_quietly(uri):
    """Read all there is, or fail as an item; whether it was read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            info = read_info(uri, LOCAL)
            if info.height <= HEIGHT and info.width <= WIDTH and info.dtype == "uint8":
                window = Window(row=0, col=0, height=info.height, width=info.width)
                read_window(uri, LOCAL, window, bands=max(1, min(3, info.bands)))
        except ItemError:
            return False
    return True


@pytest.mark.parametrize("name", ["tiles and mask", "alpha", "zstd, predictor"])
def test_files_cut_short_anywhere_fail_as_items(write_raster, tmp_path, name):
    pixels, options = RASTERS[name]
    data = Path(write_raster(pixels, **options)).read_bytes()
    cut = tmp_path / "cut.tif"
    for length in sorted({*range(0, len(data), len(data) // 25), *range(0, 300, 17)}):
        cut.write_bytes(data[:length])
        assert not read_quietly(str(cut)), length
    cut.write_bytes(data)
    assert read_quietly(str(cut))


@pytest.fixture
def sound_file(write_raster):
    """Bytes of a small GeoTIFF."""
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    return Path(write_raster(pixels_of(3)[:, :32, :32], **layout)).read_bytes()


def test_damaged_georeferencing_is_an_item_error(sound_file, tmp_path):
    tag, lost = struct.pack("<HH", 33550, 12), struct.pack("<HH", 33549, 12)
    key, bad = (
        struct.pack("<HHHH", 3072, 0, 1, 32633),
        struct.pack("<HHHH", 3072, 1, 1, 32633),
    )
    assert sound_file.count(tag) == sound_file.count(key) == 1
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(sound_file.replace(tag, lost).replace(key, bad))
    assert not read_quietly(str(damaged))


@example(flips=[])
@given(flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), max_size=6))
@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_damaged_files_fail_as_items(sound_file, tmp_path, flips):
    data = bytearray(sound_file)
    for at, bits in flips:
        data[at % min(len(data), 700)] ^= bits
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(data)
    is_read = read_quietly(str(damaged))
    assert is_read or bytes(data) != sound_file


# S3


@pytest.fixture
def uploaded(write_raster, remote):
    def upload(pixels, key, **options):
        uri = remote.at(key)
        remote.store.create(uri, Path(write_raster(pixels, **options)).read_bytes())
        return uri, remote.store._access

    return upload


@pytest.mark.s3
@pytest.mark.parametrize(
    "key", ["scene.tif", "deep/er/with space \u6771.tif", "a+b&c=d.tif"]
)
def test_windows_are_read_from_s3(uploaded, key):
    layout = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    uri, access = uploaded(pixels_of(3), key, validity=holes(), **layout)
    info = read_info(uri, access)
    assert (info.height, info.width, info.bands) == (HEIGHT, WIDTH, 3)
    for window in WINDOWS:
        found, valid = read_window(uri, access, window, bands=3)
        rows = slice(window.row, window.stop_row)
        columns = slice(window.col, window.stop_col)
        np.testing.assert_array_equal(found, pixels_of(3)[:, rows, columns])
        np.testing.assert_array_equal(valid, holes()[rows, columns] > 0)
    assert parse_grid(info.grid)["crs"] == "EPSG:32633"


@pytest.mark.s3
def test_a_replica_remembers_nothing_of_an_object(uploaded, remote, write_raster):
    uri, access = uploaded(pixels_of(1), "scene.tif")
    read_window(uri, access, WINDOWS[0], bands=1)
    other = 255 - pixels_of(1)
    remote.store.replace(uri, Path(write_raster(other)).read_bytes())
    found, _ = read_window(uri, access, WINDOWS[0], bands=1)
    np.testing.assert_array_equal(found, other)


@pytest.mark.s3
def test_an_object_that_is_not_there_is_an_item_error(remote):
    code, _ = refused(read_info, remote.at("none.tif"), remote.store._access)
    assert code == "not_found"


def test_access_says_where_s3_is():
    access = Access(endpoint_url="https://s3.example:9000", anon=True, requester_pays=True)
    assert s3_options(access) == {
        "AWS_S3_ENDPOINT": "s3.example:9000",
        "AWS_HTTPS": "YES",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
        "AWS_REQUEST_PAYER": "requester",
    }
    assert s3_options(Access(endpoint_url="http://[::1]:9"))["AWS_HTTPS"] == "NO"
    assert s3_options(LOCAL) == {}
    assert GDAL_OPTIONS["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"


def test_no_key_is_one_of_gdals_own_names():
    assert gdal_path("/data/a.tif") == "/data/a.tif"
    assert gdal_path("s3://b/vsicurl/http://x/a.tif") == "/vsis3/b/vsicurl/http://x/a.tif"
    assert gdal_path("/vsicurl/http://x/a.tif") == "/./vsicurl/http://x/a.tif"
    for key in ("../other/a.tif", "a/./b.tif", ".."):
        assert refused(gdal_path, f"s3://bucket/{key}")[0] == "unsupported"
    for name in ("vrt:///a.tif", "GTIFF_DIR:1:/a.tif", "zip+http://x/a.zip", "a.tif", ""):
        assert refused(gdal_path, name)[0] == "unsupported"


# A server that fails. It answers the first request soundly, so that the header is
# read, and every later one as it is told to.

FAULTY = """
import http.server, sys, time
data, mode, seen = open(sys.argv[1], "rb").read(), sys.argv[2], 0

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        return None
    def do_GET(self):
        global seen
        seen += 1
        start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end) + 1]
        fails = seen > 1 and not (mode.startswith("once") and seen > 2)
        kind = mode.removeprefix("once ")
        if fails and kind.isdigit():
            self.send_response(int(kind))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fails and kind == "reset":
            self.close_connection = True
            return
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        total = len(data)
        self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        self.end_headers()
        if fails and kind == "hang":
            self.wfile.flush()
            time.sleep(999)
        if fails and kind == "half":
            part = part[: len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def faulty(write_raster):
    """A raster of 200 kB on a server that fails in some way: its URI and access."""
    pixels = np.repeat(np.repeat(pixels_of(3), 2, axis=1), 3, axis=2)
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    path, servers = write_raster(pixels, **layout), []

    def serve(mode):
        command = [sys.executable, "-c", FAULTY, path, mode]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        servers.append(server)
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        return "s3://bucket/a.tif", Access(endpoint_url=url, anon=True)

    yield serve
    for server in servers:
        server.kill()
        server.communicate()


WHOLE = Window(row=0, col=0, height=2 * HEIGHT, width=3 * WIDTH)


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["reset", "half", "403", "501"])
def test_a_network_that_fails_says_nothing_of_the_raster(faulty, mode, monkeypatch):
    monkeypatch.setattr("jobs.inputs.decoding._DELAY_S", 0.01)
    uri, access = faulty(mode)
    with pytest.raises(StoreError, match=rf"^{uri} cannot be read: \w"):
        read_window(uri, access, WHOLE, bands=3)


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["once reset", "once half", "once 503"])
def test_a_network_that_fails_once_is_asked_again(faulty, mode, monkeypatch):
    monkeypatch.setattr("jobs.inputs.decoding._DELAY_S", 0.01)
    pixels, _ = read_window(*faulty(mode), WHOLE, bands=3)
    np.testing.assert_array_equal(pixels[:, ::2, ::3], pixels_of(3))


@pytest.mark.s3
def test_a_server_that_hangs_does_not_make_a_raster_late(faulty):
    uri, access = faulty("hang")
    limits = Limits(seconds=3 / RASTER_FACTOR)
    with pytest.raises(StoreError, match="the decoder did not end within 3 s"):
        read_window(uri, access, WHOLE, bands=3, limits=limits)


@pytest.mark.s3
def test_an_object_that_goes_away_is_gone(faulty):
    assert refused(read_window, *faulty("404"), WHOLE, bands=3)[0] == "not_found"


@pytest.mark.s3
def test_a_damaged_block_on_a_sound_network_is_damaged(remote, write_raster):
    layout = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    path = write_raster(pixels_of(1), **layout)
    with rasterio.open(path) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    data = bytearray(Path(path).read_bytes())
    data[start + 10 : start + 400] = b"\xff" * 390
    uri = remote.at("damaged.tif")
    remote.store.create(uri, bytes(data))
    access = remote.store._access
    assert refused(read_window, uri, access, WINDOWS[0], bands=1)[0] == "undecodable"

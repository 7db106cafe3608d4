"""Files made to do harm: each is an array or a dead letter, in little time and memory.

They are written here, byte by byte where no library would write them.
"""

import contextlib
import functools
import html
import io
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from deeplab.tiles import Window
from jobs.errors import CODES, ItemError
from jobs.inputs import child as child_module
from jobs.inputs import decoding
from jobs.inputs.decoding import (
    close_decoders,
    decode_image,
    read_info,
    read_window,
)
from jobs.spec import Limits
from jobs.storage import Access

MOST_S = 10
MOST_BYTES = 2 * 10**9
LIMITS = Limits(seconds=8 / decoding.RASTER_FACTOR)
IMAGE_LIMITS = Limits(seconds=8)
LOCAL = Access()

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read as Linux shows it"
)


@pytest.fixture(scope="module")
def peak():
    """Start new decoders and watch them: a call gives the most memory of one so far."""
    close_decoders()
    pids, most, stop = [], [0], threading.Event()

    class Watched(child_module.Child):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            pids.append(self.process.pid)

    def look():
        for pid in pids:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM"):
                        most[0] = max(most[0], int(line.split()[1]) * 1024)
        return most[0]

    def watch():
        while not stop.wait(0.005):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "Child", Watched)
        yield look
    stop.set()
    watcher.join()
    close_decoders()


def png(*chunks):
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        body = name + content
        parts.append(struct.pack(">I", len(content)) + body)
        parts.append(struct.pack(">I", zlib.crc32(body)))
    return b"".join(parts)


def png_header(width, height, *, depth=8, color=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


@functools.cache
def zeros(count):
    """So many zeros, deflated, without ever holding them."""
    packer, block = zlib.compressobj(1), bytes(2**20)
    parts = [packer.compress(block) for _ in range(count // 2**20)]
    return b"".join([*parts, packer.compress(bytes(count % 2**20)), packer.flush()])


def small_png(*chunks):
    rows = zlib.compress(b"\0\1\2\3" * 4)
    return png(png_header(1, 4), *chunks, (b"IDAT", rows), (b"IEND", b""))


def damaged(data, at, bits=0xFF):
    data = bytearray(data)
    data[at] ^= bits
    return bytes(data)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(width, height):
    """A JPEG whose header claims a size."""
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans(side, count):
    """A progressive JPEG that goes over itself again and again."""
    data = encoded(Image.new("L", (side, side), 77), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + data[-2:]


def gif(side):
    head = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\0;"


IMAGES = {
    "png, bad checksum": (damaged(small_png(), small_png().index(b"IDAT") + 6), ()),
    "png, bad crc": (
        damaged(small_png(), small_png().index(b"IEND") - 5),
        ("undecodable", "array"),
    ),
    "png, text": (small_png((b"zTXt", b"a\0\0" + zeros(2**28))), ("undecodable",)),
    "png, international text": (
        small_png((b"iTXt", b"a\0\1\0\0\0" + zeros(2**28))),
        ("undecodable",),
    ),
    "png, many texts": (
        small_png(*[(b"zTXt", b"a\0\0" + zeros(1_000_000))] * 5000),
        ("undecodable",),
    ),
    "png, colour profile": (
        small_png((b"iCCP", b"a\0\0" + zeros(2**28))),
        ("undecodable", "array"),
    ),
    "png, more rows than there are": (
        png(png_header(1, 4), (b"IDAT", zeros(2**28)), (b"IEND", b"")),
        ("undecodable", "array"),
    ),
    "png, 50000 x 50000": (
        png(png_header(50_000, 50_000), (b"IDAT", b""), (b"IEND", b"")),
        ("too_large",),
    ),
    "png, widest": (
        png(png_header(2**31 - 1, 2**31 - 1), (b"IDAT", b""), (b"IEND", b"")),
        ("too_large", "undecodable"),
    ),
    "png, as large as may be": (
        png(
            png_header(10_000, 10_000, color=6),
            (b"IDAT", zeros(10_000 * 40_001)),
            (b"IEND", b""),
        ),
        ("array", "timed_out"),
    ),
    "jpeg, 65500 x 65500": (jpeg(65_500, 65_500), ("too_large",)),
    "jpeg, cut, as large as may be": (jpeg(10_000, 10_000), ("undecodable", "array")),
    "gif": (gif(65_535), ("too_large",)),
    "webp, largest": (
        b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8L"
        + struct.pack("<I", 10)
        + b"\x2f"
        + struct.pack("<I", 16383 << 14 | 16383)
        + bytes(5),
        ("too_large", "undecodable"),
    ),
}


def outcome(call):
    """What became of a file: ``array``, or the code of its dead letter."""
    start = time.monotonic()
    try:
        call()
        code = "array"
    except ItemError as error:
        code, message = error.code, error.message
        assert_is_one_line(message)
    assert code in {*CODES, "array"}
    assert time.monotonic() - start < MOST_S
    return code


def assert_is_one_line(text):
    assert text
    assert "\n" not in text


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, peak):
    data, allowed = IMAGES[name]
    found = outcome(lambda: decode_image(data, limits=IMAGE_LIMITS))
    assert found in (allowed or ("undecodable",))
    assert peak() < MOST_BYTES
    (pixels, _), _ = decode_image(small_png())
    assert pixels.shape == (3, 4, 1)


def test_an_image_that_goes_over_itself_is_late(peak):
    data = many_scans(4000, 5000)
    assert len(data) < 2 * 10**6
    assert outcome(lambda: decode_image(data, limits=Limits(seconds=1))) == "timed_out"
    assert peak() < MOST_BYTES


# TIFF


def tiff(width, height, *, end=b"", follow=0, **tags):
    """A TIFF of one directory; values that are tuples lie behind it."""
    names = {
        "compression": (259, 3),
        "photometric": (262, 3),
        "offsets": (273, 4),
        "bands": (277, 3),
        "rows": (278, 4),
        "counts": (279, 4),
        "planar": (284, 3),
        "tile_width": (322, 4),
        "tile_height": (323, 4),
        "tile_offsets": (324, 4),
        "tile_counts": (325, 4),
        "directories": (330, 4),
        "metadata": (42112, 2),
    }
    given = {"compression": 1, "photometric": 1} | tags
    entries = [(256, 4, (width,)), (257, 4, (height,)), (258, 3, (8,))]
    for name, value in given.items():
        entries.append((*names[name], value if isinstance(value, tuple) else (value,)))
    entries.sort()
    behind, table, at = [], [], 8 + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        packed = struct.pack(f"<{len(values)}{' BHI'[kind - 1]}", *values)
        if len(packed) > 4:
            behind.append(packed)
            packed, at = struct.pack("<I", at), at + len(packed)
        table.append(struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0"))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(table) + struct.pack("<I", follow) + b"".join(behind) + end


TIFFS = {
    "one high block": tiff(1, 2_147_000_000, rows=2_147_000_000, offsets=8, counts=100),
    "one wide row": tiff(2_147_483_647, 1, rows=1, offsets=8, counts=100),
    "strips without end": tiff(2048, 1_073_741_824, offsets=8, counts=8),
    "strips that are chopped": tiff(
        2048, 1_073_741_824, rows=1_073_741_824, offsets=8, counts=2**31 - 1
    ),
    "65535 x 65535 in one strip": tiff(65_535, 65_535, rows=65_535, offsets=8, counts=300),
    "65535 x 65535 in rows": tiff(65_535, 65_535, rows=1, offsets=8, counts=300),
    "65535 x 65535 in tiles": tiff(
        *(65_535, 65_535),
        tile_width=256,
        tile_height=256,
        tile_offsets=8,
        tile_counts=300,
    ),
    "tiles of two gigabytes": tiff(
        *(65_536, 65_536),
        tile_width=65_536,
        tile_height=32_768,
        tile_offsets=(8, 8),
        tile_counts=(2**31, 2**31),
    ),
    "tile of no size": tiff(
        100, 100, tile_width=0, tile_height=0, tile_offsets=8, tile_counts=300
    ),
    "one deflated strip of four gigabytes": tiff(
        65_000,
        65_000,
        rows=65_000,
        offsets=200,
        counts=10**6,
        compression=8,
        end=zeros(2**28),
    ),
    "one strip, as large as may be": tiff(
        8192,
        8192,
        rows=8192,
        offsets=300,
        counts=10**6,
        compression=8,
        end=bytes(300) + zeros(2**26),
    ),
    "one webp strip": tiff(
        20_000, 20_000, rows=20_000, offsets=8, counts=300, compression=50_001
    ),
    "webp of another size": tiff(
        *(8000, 8000),
        rows=8000,
        offsets=300,
        counts=200,
        compression=50_001,
        end=bytes(100) + encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True),
    ),
    "65535 bands": tiff(64, 64, bands=65_535, rows=64, offsets=8, counts=300, planar=1),
    "a directory after itself": tiff(8, 8, rows=8, offsets=8, counts=64, follow=8),
    "a directory inside itself": tiff(8, 8, rows=8, offsets=8, counts=64, directories=8),
    "directories in a circle": tiff(
        8, 8, rows=8, offsets=8, counts=64, directories=(8,) * 60_000
    ),
    "strips of nothing": tiff(4000, 4000, rows=1, offsets=(0,) * 4000, counts=(0,) * 4000),
    "all strips are one": tiff(
        *(4000, 16_000),
        rows=1,
        offsets=(8,) * 16_000,
        counts=(4000,) * 16_000,
        end=bytes(4000),
    ),
}
REFUSED_WHEN_PLANNED = {  # GDAL may see one strip as many
    "one high block",
    "one wide row",
    "strips without end",
    "strips that are chopped",
    "65535 x 65535 in one strip",
    "65535 x 65535 in rows",
    "65535 x 65535 in tiles",
    "tiles of two gigabytes",
    "tile of no size",
    "one webp strip",
    "65535 bands",
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiffs_as_images(name, peak):
    outcome(lambda: decode_image(TIFFS[name], limits=IMAGE_LIMITS))
    assert peak() < MOST_BYTES
    assert decode_image(small_png())[0][0].shape == (3, 4, 1)


@pytest.mark.parametrize("name", TIFFS)
def test_tiffs_as_rasters(name, peak, tmp_path, write_raster):
    path = tmp_path / "bomb.tif"
    path.write_bytes(TIFFS[name])
    planned = outcome(lambda: read_info(str(path), LOCAL, limits=LIMITS))
    if name in REFUSED_WHEN_PLANNED:
        assert planned in {"too_large", "undecodable"}
    if planned == "array":
        info = read_info(str(path), LOCAL)
        assert info.height * info.width < 10**10, "blocks without end would be planned"
        height, width = min(info.height, 4096), min(info.width, 4096)
        window = Window(row=0, col=0, height=height, width=width)
        outcome(lambda: read_window(str(path), LOCAL, window, bands=1, limits=LIMITS))
    assert peak() < MOST_BYTES
    good = write_raster(np.full((1, 5, 6), 9, dtype=np.uint8), "good.tif")
    window = Window(row=0, col=0, height=5, width=6)
    assert (read_window(good, LOCAL, window, bands=1)[0] == 9).all()


def test_a_large_raster_may_be_small_where_it_is_empty(tmp_path):
    path = tmp_path / "sparse.tif"
    layout = {"tiled": True, "compress": "deflate", "sparse_ok": True}
    size = {"width": 60_000, "height": 50_000, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **layout):
        pass
    assert path.stat().st_size < 10**6
    assert read_info(str(path), LOCAL).width == 60_000
    window = Window(row=20_000, col=20_000, height=300, width=300)
    assert not read_window(str(path), LOCAL, window, bands=1)[0].any()


# Files that name others

CANARY = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        return None
    def do_GET(self):
        with open(sys.argv[1], "a") as seen:
            seen.write(self.path + "\\n")
        self.send_error(404)
    do_HEAD = do_POST = do_PUT = do_OPTIONS = do_GET

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def canary(tmp_path):
    """A server that nobody may ask: its address, and what it was asked."""
    seen = tmp_path / "seen"
    seen.touch()
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", CANARY, str(seen)], stdout=subprocess.PIPE, text=True
    ) as server:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}", seen
        server.kill()


@pytest.fixture
def secret(tmp_path):
    """A file that nobody may read, on a disk that tells who did."""
    path = tmp_path / "secret"
    path.write_bytes(b"root:x:0:0" * 99)

    def was_read():
        return path.stat().st_atime_ns != 0

    os.utime(path, ns=(0, 0))
    path.read_bytes()
    if not was_read():
        pytest.skip("this disk does not keep when a file was read")
    os.utime(path, ns=(0, 0))
    return path, was_read


def raw_vrt(path):
    return (
        '<VRTDataset rasterXSize="9" rasterYSize="1"><VRTRasterBand dataType="Byte" '
        f'band="1" subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">{path}'
        "</SourceFilename></VRTRasterBand></VRTDataset>"
    )


def vrt(path):
    return (
        '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" '
        f'band="1"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def disguises(url, secret):
    gti = f"<GDALTileIndexDataset><IndexDataset>{url}/i.gpkg</IndexDataset>"
    wms = f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/t</ServerUrl></Service>'
    wcs = f"<WCS_GDAL><ServiceURL>{url}/w?</ServiceURL><CoverageName>x</CoverageName>"
    return {
        "vrt": vrt(f"/vsicurl/{url}/a.tif"),
        "vrt of a file": raw_vrt(secret),
        "vrt of a stream": vrt(f"/vsicurl_streaming/{url}/a.tif"),
        "gti": gti + "</GDALTileIndexDataset>",
        "wms": wms + "</GDAL_WMS>",
        "wcs": wcs + "</WCS_GDAL>",
        "stac": f'{{"type": "FeatureCollection", "features": [{{"href": "{url}/a"}}]}}',
        "text": f"{url}/a.tif",
    }


def overviews(url, secret):
    """What a sound GeoTIFF can name as its overviews, which GDAL then opens."""
    return [
        f"/vsicurl/{url}/a.tif",
        f"/vsicurl?url={url}/a.tif",
        f"/vsicurl_streaming/{url}/a.tif",
        f"/vsigzip//vsicurl/{url}/a.tif",
        f"/vsisubfile/0_100,/vsicurl_streaming/{url}/a.tif",
        f"/vsiwebhdfs/{url}/webhdfs/v1/a.tif",
        f"{url}/a.tif",
        f"WMS:{url}/a",
        f"WCS:{url}/a?coverage=b",
        f"WMTS:{url}/a",
        f"ZARR:/vsicurl/{url}/a",
        f'STACTA:"{url}/a":b',
        f"GTIFF_DIR:1:/vsicurl/{url}/a.tif",
        f"vrt:///vsicurl/{url}/a.tif",
        f"DERIVED_SUBDATASET:LOGAMPLITUDE:/vsicurl/{url}/a.tif",
        f"NETCDF:{url}/a.nc:b",
        f"HDF5:/vsicurl/{url}/a.h5://b",
        vrt(f"/vsicurl/{url}/a.tif"),
        raw_vrt(secret),
    ]


def write_overview(path, name):
    """By hand: GDAL would look for it at once."""
    item = f'<Item name="OVERVIEW_FILE" domain="OVERVIEWS">{html.escape(name)}</Item>'
    text = f"<GDALMetadata>{item}</GDALMetadata>".encode() + b"\0"
    pixels = b"\7" * 64**2
    layout = {"rows": 64, "counts": len(pixels), "metadata": tuple(text)}
    start = len(tiff(64, 64, offsets=0, **layout))
    path.write_bytes(tiff(64, 64, offsets=start, end=pixels, **layout))


def read_all(uri):
    window = Window(row=0, col=0, height=1, width=9)
    for call in (
        lambda: read_info(uri, LOCAL),
        lambda: read_window(uri, LOCAL, window, bands=1),
        lambda: decode_image(Path(uri).read_bytes()),
    ):
        with contextlib.suppress(ItemError, OSError):
            call()


def test_without_care_the_canary_is_asked(canary, tmp_path):
    """So that the tests below can fail."""
    url, seen = canary
    path = tmp_path / "a.tif"
    write_overview(path, f"/vsicurl/{url}/a.tif")
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(path, driver="GTiff") as raster,
    ):
        assert raster.tags(ns="OVERVIEWS")["OVERVIEW_FILE"].endswith("a.tif")
        raster.overviews(1)
    assert seen.read_text() == "/a.tif\n"


def test_without_care_the_secret_is_read(secret, tmp_path):
    path, was_read = secret
    disguise = tmp_path / "a.tif"
    disguise.write_text(raw_vrt(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(disguise) as raster:
            assert bytes(raster.read(1)[0]) == b"root:x:0:"
    assert was_read()


def test_what_is_no_geotiff_reaches_nothing(canary, secret, tmp_path):
    (url, seen), (path, was_read) = canary, secret
    for name, text in disguises(url, path).items():
        disguise = tmp_path / f"{name}.tif"
        disguise.write_text(text)
        read_all(str(disguise))
    assert seen.read_text() == ""
    assert not was_read()


def test_what_a_geotiff_names_is_not_opened(canary, secret, tmp_path):
    (url, seen), (path, was_read) = canary, secret
    target = tmp_path / "a.tif"
    for name in overviews(url, path):
        write_overview(target, name)
        assert read_info(str(target), LOCAL).width == 64
        window = Window(row=0, col=0, height=64, width=64)
        pixels, valid = read_window(str(target), LOCAL, window, bands=1)
        assert (pixels == 7).all()
        assert valid.all()
        assert (seen.read_text(), was_read()) == ("", False), name


def test_names_reach_nothing(canary, secret, tmp_path, monkeypatch):
    (url, seen), (path, was_read) = canary, secret
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner.tif").write_text(raw_vrt(path))
    names = [
        *overviews(url, path),
        f"/vsicurl/{url}/a.tif",
        f"zip+{url}/a.zip!a.tif",
        f"vrt://{tmp_path}/inner.tif",
        f"GTIFF_DIR:1:{tmp_path}/inner.tif",
        f"/vsisubfile/0_9,{path}",
        f"/vsizip/{path}",
    ]
    for name in names:
        with pytest.raises(ItemError):
            read_info(name, LOCAL)
    assert seen.read_text() == ""
    assert not was_read()


PEEK = """
from jobs.errors import ItemError
from jobs.inputs.rasters import open_raster

def peek(fields, data, empty):
    try:
        with open_raster(fields["path"], {}) as raster:
            raster.overviews(1)
            raster.read(1, out_shape=(8, 8))
    except ItemError:
        return "refused"

ANSWERS = {"peek": peek}
"""


def test_a_decoder_can_reach_nothing_even_where_it_looks(
    canary, secret, tmp_path, monkeypatch
):
    """Whatever a later version reads of a raster: the ways out are closed."""
    (url, seen), (path, was_read) = canary, secret
    (tmp_path / "peek.py").write_text(PEEK)
    monkeypatch.syspath_prepend(tmp_path)
    decoders = decoding.Decoders("peek")
    target = tmp_path / "a.tif"
    for name in overviews(url, path):
        write_overview(target, name)
        decoders.ask("peek", {"path": str(target)}, seconds=30)
        assert (seen.read_text(), was_read()) == ("", False), name
    decoders.close()

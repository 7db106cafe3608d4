"""Measure how fast images are decoded: as Atrous does it, and by other libraries.

    python tests/benchmarks/bench_decode.py [--save]

Photographs are made in code and encoded by Pillow. ``child`` is a decoder's process as a
replica asks it; ``pillow`` the same in this process, up to planar pixels and validity;
``resized`` makes it smaller on the way. The others decode to RGB and are made planar;
those that are not installed are left out. Figures are medians of rounds in turns, on
one thread each; nothing is asserted. It takes about two minutes.
"""

import argparse
import dataclasses
import importlib.metadata
import io
import sys

import numpy as np
from measure import ratio, spread, take_turns
from PIL import Image
from provenance import RESULTS, commit, describe, missing, processor, save, say, table

from jobs.inputs import decoding, images
from jobs.inputs.decoding import close_decoders

SIZES = {"0.3 MP": (480, 640), "12 MP": (3000, 4000)}
RESIZE = {"0.3 MP": "long=200", "12 MP": "long=1024"}
KINDS = {
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "png": ("PNG", {"compress_level": 6}),
}
PEERS = ("simplejpeg", "imagecodecs", "cv2", "torchvision")
DISTRIBUTIONS = {"cv2": "opencv-python-headless"}


def main():
    options = _parser().parse_args()
    where = describe(sys.argv, processor())
    absent = missing(PEERS)
    peers = {name: make_peer(name) for name in PEERS if name not in absent}
    say(f"{where['processor']}, {where['cores']} cores, load {where['load_average'][0]}")
    versions = {
        name: importlib.metadata.version(DISTRIBUTIONS.get(name, name)) for name in peers
    }
    say(f"not installed: {', '.join(absent) or 'none'}")
    found = {}
    for size_name, size in SIZES.items():
        for kind, (format_name, more) in KINDS.items():
            data = encode(photograph(*size), format_name, **more)
            title = f"{kind}, {size_name}, {len(data) / size[0] / size[1]:.2f} bytes/px"
            functions = candidates(data, kind, RESIZE[size_name], peers)
            found[f"{kind} {size_name}"] = compare(title, functions, size, options)
    close_decoders()
    content = {
        "benchmark": "decode",
        "provenance": where,
        "peers": versions,
        "resized_to": RESIZE,
        "draft_difference": measure_draft(),
        "formats": found,
    }
    if options.save:
        save(RESULTS, f"decode-{commit()}", content)


def candidates(data, kind, resize, peers):
    """Functions that each decode the file once, by name."""
    found = {
        "pillow": lambda: images.decode_sized(data),
        "child": lambda: decoding.decode_sized(data),
        "resized": lambda: images.decode_sized(data, resize=resize),
    }
    for name, decode in peers.items():
        if kind != "png" or name != "simplejpeg":
            found[name] = lambda decode=decode: make_planar(decode(data))
    return found


def make_planar(rgb):
    """What every decoder still has to do: planes of their own, and validity."""
    pixels = np.empty((3, *rgb.shape[:2]), np.uint8)
    pixels[:] = rgb.transpose(2, 0, 1)
    return pixels, np.ones(rgb.shape[:2], np.bool_)


def make_peer(name):
    """A function from a file's bytes to RGB, uint8 (H, W, 3)."""
    if name == "simplejpeg":
        import simplejpeg

        return lambda data: simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    if name == "imagecodecs":
        import imagecodecs

        return imagecodecs.imread
    if name == "cv2":
        import cv2

        cv2.setNumThreads(1)

        def decode(data):
            return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

        return decode
    import torch
    import torchvision.io

    torch.set_num_threads(1)

    def decode_torch(data):
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = torchvision.io.decode_image(raw, torchvision.io.ImageReadMode.RGB)
        return image.permute(1, 2, 0).numpy()

    return decode_torch


def photograph(height, width):
    """Smooth shapes, fine texture and noise, as a camera gives them; uint8 RGB."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for side, weight in ((8, 90), (40, 40), (160, 20), (600, 10)):
        coarse = rng.integers(0, 256, (side, side, 3), np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(layer, np.float32) - 128) * (weight / 128)
    total += rng.normal(0, 3, total.shape)
    return Image.fromarray(np.clip(total + 118, 0, 255).astype(np.uint8))


def encode(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def compare(title, functions, size, options):
    """Print and return each function's rate, and its time beside Pillow's."""
    for function in functions.values():
        function()
    budget_s = options.seconds / len(SIZES) / len(KINDS)
    times = take_turns(functions, rounds=options.rounds, budget_s=budget_s)
    megapixels, rows, found = size[0] * size[1] / 1e6, [], {}
    for name, one in times.items():
        seconds = spread(one.wall)
        against = ratio(one.wall, times["pillow"].wall)
        rows.append((name, f"{megapixels / seconds.median:.1f}", against.text()))
        found[name] = {
            "seconds": dataclasses.asdict(seconds),
            "megapixels_s": round(megapixels / seconds.median, 1),
            "time_of_pillow": dataclasses.asdict(against),
        }
    table(title, ("", "MP/s", "time, pillow = 1 [quartiles]"), rows)
    return found


def measure_draft():
    """Levels by which a JPEG that is decoded small differs from one decoded large."""
    picture = photograph(*SIZES["12 MP"])
    data = encode(picture, "JPEG", quality=90)
    (small, _), _ = images.decode_sized(data, resize=RESIZE["12 MP"])
    with Image.open(io.BytesIO(data)) as whole:
        size = small.shape[:0:-1]
        large = np.asarray(whole.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    difference = np.abs(small.transpose(1, 2, 0).astype(int) - large)
    found = {"mean": round(float(difference.mean()), 3), "most": int(difference.max())}
    say(f"\ndraft: {found['mean']} levels on average, {found['most']} at most")
    return found


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=25, help="rounds at most")
    parser.add_argument("--seconds", type=float, default=90, help="time to aim for")
    parser.add_argument("--save", action="store_true", help=f"write JSON into {RESULTS}")
    return parser


if __name__ == "__main__":
    main()

"""Measure the inference form beside the network and beside a peer, on a CPU.

    python tests/benchmarks/bench_network.py [--save]

The peer is segmentation_models_pytorch with the same weights, on inputs of one tile;
each network is laid out channels last. Figures are ratios of two times from one round;
nothing is asserted. It takes about two minutes.
"""

import argparse
import dataclasses
import sys
import warnings

import segmentation_models_pytorch as smp
import torch
from measure import keep_freed_memory, ratio, spread, take_turns
from provenance import RESULTS, commit, describe, processor, save, say, table

from deeplab.fold import fold
from deeplab.foreign.convert import convert
from deeplab.foreign.smp import SMP
from deeplab.model import build_network
from deeplab.resize import enlarged_argmax, resize

TILE, CLASSES = 512, 21
ENCODERS = ("mobilenet_v2", "resnet50")


def main():
    options = _parser().parse_args()
    warnings.filterwarnings("ignore", "atrous rate")  # the peer's rates are that large
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(mode=False)
    where = describe(sys.argv, processor())
    say(f"{where['processor']}, {where['cores']} cores, load {where['load_average'][0]}")
    content = {
        "benchmark": "network",
        "provenance": where,
        "threads": options.threads,
        "freed_memory_kept": keep_freed_memory(),
        "forms": {name: measure_forms(name, options) for name in ENCODERS},
        "classes": measure_classes(options),
    }
    if options.save:
        save(RESULTS, f"network-{commit()}", content)


def measure_forms(encoder, options):
    """One network as the peer computes it, as ours, and folded."""
    torch.manual_seed(0)
    peer = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES).eval()
    converted = convert(peer.state_dict(), SMP)
    ours = build_network(converted.network).eval()
    ours.load_state_dict(converted.tensors)
    x = torch.randn(1, 3, TILE, TILE).to(memory_format=torch.channels_last)
    models = {"peer": peer, "ours": ours, "folded": fold(ours)}
    models = {
        name: model.to(memory_format=torch.channels_last) for name, model in models.items()
    }
    title = f"V3+ {encoder}, one tile of {TILE} px, {CLASSES} classes"
    functions = {name: lambda model=model: model(x) for name, model in models.items()}
    return compare(title, functions, "peer", options)


def measure_classes(options):
    """Classes and confidence of a tile, from the logits at stride 4."""
    logits = torch.randn(1, CLASSES, TILE // 4, TILE // 4)
    size = (TILE, TILE)
    functions = {
        "enlarge, softmax, max": lambda: resize(logits, size).softmax(1).max(1),
        "fused": lambda: enlarged_argmax(logits, size),
    }
    title = f"classes of one tile of {TILE} px among {CLASSES}"
    return compare(title, functions, "enlarge, softmax, max", options)


def compare(title, functions, baseline, options):
    """Print and return each function's time, and its ratio to the baseline's."""
    for function in functions.values():
        function()
    times = take_turns(functions, rounds=options.rounds, budget_s=options.seconds / 3)
    base, rows, found = times[baseline], [], {}
    for name, one in times.items():
        wall, cpu = ratio(one.wall, base.wall), ratio(one.cpu, base.cpu)
        rows.append((name, f"{spread(one.wall).median:.3f}", wall.text(), cpu.text()))
        found[name] = {
            "seconds": dataclasses.asdict(spread(one.wall)),
            "wall": dataclasses.asdict(wall),
            "cpu": dataclasses.asdict(cpu),
        }
    table(title, ("", "seconds", "ratio [quartiles]", "ratio of CPU time"), rows)
    return found


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=25, help="rounds at most")
    parser.add_argument("--seconds", type=float, default=90, help="time to aim for")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--save", action="store_true", help=f"write JSON into {RESULTS}")
    return parser


if __name__ == "__main__":
    main()

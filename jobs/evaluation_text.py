"""An evaluation as a table for people."""

from __future__ import annotations

from typing import Any, Final

_MEASURES: Final = {
    "mean_iou": "mean IoU",
    "weighted_iou": "IoU by frequency",
    "accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_precision": "mean precision",
    "mean_f1": "mean F1 (Dice)",
    "mean_boundary_f1": "mean boundary F1",
    "calibration_error": "calibration error",
}
_COLUMNS: Final = ("iou", "precision", "recall", "f1", "boundary_f1")
_HEADS: Final = ("IoU", "precision", "recall", "F1", "boundary")
_LONGEST: Final = 30
_WORST: Final = 3


def describe_evaluation(found: dict[str, Any]) -> str:
    """What ``evaluation.json`` holds, in short; ``-`` where there is nothing to say."""
    pixels, dead = found["pixels"], sum(found["dead_letters"].values())
    judged = f"{found['images']} images, {pixels['pixels'] / 1e6:.2f} M pixels judged"
    unknown = f"{pixels['unknown'] / 1e6:.2f} M of unknown truth"
    lines = [
        f"{judged}, {unknown}, {dead} dead letters",
        *(
            f"  {text:<18} {_number(found['measures'][name])}"
            for name, text in _MEASURES.items()
        ),
        "",
        *_classes(found),
    ]
    if found["worst"]:
        worst = ", ".join(
            f"{_printable(one['key'])} ({one['mean_iou']:.3f})"
            for one in found["worst"][:_WORST]
        )
        lines += ["", f"lowest mean IoU: {worst}"]
    return "\n".join(lines)


def _classes(found: dict[str, Any]) -> list[str]:
    classes = found["classes"]
    names = [_printable(one["name"])[:_LONGEST] for one in classes]
    width = max(5, *map(len, names))
    total = sum(one["true"] for one in classes) or 1
    heads = "".join(f"{head:>11}" for head in ("of truth", *_HEADS))
    lines = [f"{'class':<{width}}{heads}"]
    for name, one in zip(names, classes, strict=True):
        share = f"{one['true'] / total:.2%}"
        numbers = "".join(f"{_number(one[column]):>11}" for column in _COLUMNS)
        lines.append(f"{name:<{width}}{share:>11}{numbers}")
    return lines


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

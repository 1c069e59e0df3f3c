"""The model card of an exported folder: what it is, what judged it, what it cannot promise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cae_jax.evaluation import thresholds
from cae_jax.reports import rules
from cae_jax.reports.html.markup import amount, interval, percent, rate
from cae_jax.serving.export.check import RELATIVE
from cae_jax.types import height_width

_NUMBERS = {  # of metrics.json
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "au_pro_30": "AU-PRO 0.3",
    "image_f1_max": "image F1-max (threshold picked on the test labels)",
}


def text(facts: Mapping[str, Any]) -> str:
    """Returns the card, Markdown, of what is in model.json."""
    m, t = facts["metrics"], facts["threshold_of"]
    height, width = height_width(facts["image_size"])
    parts = [
        f"# {facts['title']}\n",
        "An anomaly detector, exported from a trained run of cae_jax: it has seen good products "
        f"alone, and says of an image of {_what(facts['category'])} how far it is from them, "
        "where, and how usual that is.\n",
        "## Data\n",
        f"- data set: {m.get('dataset')}, category {facts['category']}"
        + (" (synthetic images: its numbers say nothing of products)" * _synthetic(m)),
        f"- good images learned from: {m.get('n_train')}; unseen good images that thresholds and "
        f"p-values go by: {len(facts['scores']['unseen'])} ({facts['scores']['source']})",
        f"- judged by {m.get('n_good')} good and {m.get('n_defective')} defective test images",
        f"- images: {facts['channels']} channel{'s' * (facts['channels'] > 1)} {_brought(facts)} "
        f"{height} x {width} pixels, intensity {facts['intensity']}\n",
        "## Numbers\n",
        "| | value | 95 % interval |\n|---|---|---|",
        *(_number(m, key, name) for key, name in _NUMBERS.items()),
        *_operating(facts),
        "",
        "## Threshold and p-value\n",
        f"A score above {amount(t['value'])} is called defective: {rules.name(t)}, from {t['n']} "
        f"images. {_leaks(t)} {_p_value(len(facts['scores']['unseen']))}\n",
        "## Limits\n",
        *_limits(facts),
        "",
        "## Files\n",
        *_files(facts),
    ]
    return "\n".join(parts) + "\n"


def _brought(facts: Mapping[str, Any]) -> str:
    """How images get into their frame, as far as that is not inside the model."""
    found = facts.get("frame")
    if found is None:
        return "stretched to"
    parts = [f"the part {found['roi']} (x, y, width, height)"] if found["roi"] else []
    if found.get("ignore"):
        parts.append(f"without the part {found['ignore']} (x, y, width, height)")
    parts += [f"without what `{flag}.png` leaves out" for flag in found["masks"]]
    how = {"stretch": "stretched", "none": "that are"}.get(found["resize"], found["resize"])
    return ", ".join([*parts, f"brought (by `cae_jax.load`, not inside the model) by {how} to"])


def _what(category: str) -> str:
    return category.replace("_", " ")


def _synthetic(metrics: Mapping[str, Any]) -> bool:
    return metrics.get("dataset") == "synthetic"


def _number(metrics: Mapping[str, Any], key: str, name: str) -> str:
    return f"| {name} | {rate(metrics.get(key))} | {interval(metrics.get(f'{key}_interval'))} |"


def _operating(facts: Mapping[str, Any]) -> list[str]:
    """What the exported threshold does on the test images."""
    for point in facts["operating_points"]:
        same = all(point.get(k) == facts["threshold_of"][k] for k in ("rule", "source", "percent"))
        if same and point.get("threshold") == facts["threshold"]:
            return [
                f"| {words} called right | {percent(point.get(key))} | "
                f"{interval(point.get(f'{key}_interval'), 100, 1)} |"
                for key, words in (("good_accuracy", "good"), ("defect_accuracy", "defective"))
            ]
    return []


def _leaks(threshold: Mapping[str, Any]) -> str:
    if threshold["source"] in thresholds.UNSEEN:
        return "No test image was looked at for it."
    whose = "good" if threshold["source"] == thresholds.TEST_GOOD else "labelled"
    return (
        f"It was picked on the {whose} test images that the numbers above are of, so these flatter."
    )


def _p_value(n: int) -> str:
    if not n:
        return "There is no p-value: no good image was kept from training."
    return (
        f"The p-value of an image is the share of {n} unseen good images, itself counted, whose "
        f"score is at least as high: never below 1/{n + 1} = {1 / (n + 1):.3g}, and no chance of "
        "a defect."
    )


def _limits(facts: Mapping[str, Any]) -> list[str]:
    m = facts["metrics"]
    found = [
        "- It knows the camera, light, pose and product that it learned from. Another one is "
        "another model; watch the scores of good products for drift.",
    ]
    if facts.get("frame", {}).get("resize") != "none":
        found.append(
            "- An image is resized to that size: a defect of few pixels can vanish in that."
        )
    if m.get("flag"):
        found.append(f"- Its test images do not show that it has learned much: {m['flag']}.")
    if m.get("light"):
        found.append(f"- {m['light'][0].upper()}{m['light'][1:]}.")
    if (n := len(facts["scores"]["unseen"])) < thresholds.images_needed(0.05):
        needed = thresholds.images_needed(0.05)
        found.append(
            f"- {n} unseen good images are few: to promise 5 % false alarms takes {needed}."
        )
    if not math.isfinite(float(facts["map_threshold"])):
        found.append("- No mask: the run has no threshold of maps.")
    return found


def _files(facts: Mapping[str, Any]) -> list[str]:
    found = [
        "- `model.json`: all of this as data; `SHA256SUMS`: check with `sha256sum -c SHA256SUMS`",
    ]
    if "stablehlo" in facts["formats"]:
        found.append(
            f"- `stablehlo/`: for JAX on {', '.join(facts['stablehlo']['platforms'])}; written by "
            f"jax {facts['stablehlo']['jax']}. JAX promises to read it for six months only."
        )
    framed = "frame" in facts
    if "onnx" in facts["formats"] and framed:
        found.append(
            f"- `onnx/`: the durable form, opset {facts['onnx']['opset']}. {_input(facts)}"
        )
    elif "onnx" in facts["formats"]:
        found.append(
            f"- `onnx/`: the durable form, opset {facts['onnx']['opset']}. `model.onnx` takes one "
            "image, `batch.onnx` several of one size: `image`, float32 [n, height, width, "
            f"{facts['channels']}] from 0 to 1, {_colors(facts['channels'])}. They resize by "
            "themselves and give `score`, `defective`, `map` and `mask`."
        )
    if "web" in facts["formats"]:
        found.append("- `web/`: a page that runs the model in a browser; any web server will do.")
    worst = max((row["relative"] for row in facts["check"]), default=math.nan)
    found.append(
        f"- checked at export: {len(facts['check'])} scores, of images of odd sizes and several "
        f"modes, at most {worst:.1e} from the trained model's ({RELATIVE:.0e} allowed), every "
        "verdict the same."
    )
    return [
        *found,
        "",
        _PYTHON.format(mode="RGB" if facts["channels"] == 3 else "L")
        if "onnx" in facts["formats"] and not framed
        else "",
    ]


def _input(facts: Mapping[str, Any]) -> str:
    """What the ONNX files take where the frame is outside."""
    height, width = height_width(facts["image_size"])
    channels, partial = facts["channels"], facts["frame"]["partial"]
    also = ", and a last channel that is 1 where a pixel counts, else 0" if partial else ""
    return (
        "`model.onnx` takes one image, `batch.onnx` several: `image`, float32 "
        f"[n, {height}, {width}, {channels + partial}]: from 0 to 1, {_colors(channels)}{also}. "
        "They do not resize: images are brought to this frame before, as "
        '`cae_jax.load(folder, runtime="onnxruntime")` does. They give `score`, `defective`, `map` '
        "and `mask`."
    )


def _colors(channels: int) -> str:
    return "red, green, blue" if channels == 3 else "gray (ITU-R 601, as Pillow's mode L)"


_PYTHON = """Without this project:

```python
import numpy, onnxruntime
from PIL import Image

image = Image.open("sample/image.png").convert("{mode}")
pixels = numpy.asarray(image, numpy.float32)[None].reshape(1, image.height, image.width, -1) / 255
session = onnxruntime.InferenceSession("onnx/model.onnx")
score, defective = session.run(["score", "defective"], {{"image": pixels}})
```"""

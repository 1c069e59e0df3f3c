"""A finished run with hostile names, and a parser that checks the pages made of it."""

from html.parser import HTMLParser

import numpy as np

from cae_jax import files
from cae_jax.evaluation.scores import scores_frame

HOSTILE = (
    '"><script>window.hacked=1</script>.png',
    "<img src=x onerror=window.hacked=1>.png",
    "' onmouseover='window.hacked=1.png",
    "</script><!-- .png",
    "</td></table></main>.png",
    "ünïcode-日本.png",
    "no utf8 \udcff.png",
    "\u202egnp.backwards",
    "tab\tand&amp;.png",
)
KINDS = ("good", "good", 'scr"atch', "<b>bent</b>", "bad\udcfe")
VOID = {"meta", "link", "img", "input", "br"}


class Document(HTMLParser):
    """Checks nesting and keeps every element as (name, attributes), and the text."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag, **where):
        return [a for name, a in self.elements
                if name == tag and all(a.get(k) == v for k, v in where.items())]  # fmt: skip


def make_run(folder, seed=0, **more):
    """A finished cell with random content and hostile names; returns its metrics and arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    n = 24
    kinds = [KINDS[i % len(KINDS)] for i in range(n)]
    paths = [f"test/{i:02}/{HOSTILE[i % len(HOSTILE)]}" for i in range(n)]
    splits = ["validation" if k == "good" and i % 2 else "test" for i, k in enumerate(kinds)]
    labels = [int(kind != "good") for kind in kinds]
    p_values = np.where(np.array(splits) == "test", rng.random(n), np.nan)
    extra = {"p_value": p_values, "ss<im": rng.random(n)}
    frame = scores_frame(paths, labels, kinds, splits, rng.gamma(2, 1e6, n), extra)
    files.write_csv(folder / "scores.csv", frame)
    point = {"leaks": True, "n": 5, "good_accuracy": 0.75, "defect_accuracy": 0.5}
    test, held_out = "test good", "validation good"
    metrics = {
        "dataset": "synthetic", "category": HOSTILE[0], "model": "<i>m</i>", "loss": "l2",
        "distance": "l2", "seed": 3, "image_auroc": 0.43210987, "image_auroc_interval": [0.3, 0.61],
        "pixel_auroc": None, "flag": f"below {HOSTILE[1]}", "n_good": 7,
        "trivial_auroc": {"brightness": 0.02, "contrast": 0.6, "<u>": None},
        "operating_points": [
            point | {"rule": "ceil", "source": test, "percent": 70, "threshold": 2e6},
            point | {"rule": "ceil", "source": held_out, "percent": 90, "threshold": 1.5e6,
                     "leaks": False},
            point | {"rule": "conformal", "source": held_out, "percent": 95, "threshold": np.inf},
            point | {"rule": "f1_best", "threshold": -np.inf},
            {"rule": "<s>", "threshold": 3},
        ],
        "leak_points": {100: np.nan, 90: -1.25, 70: 12.04},
        "distances": {"l2": {"image_auroc": 0.43210987}, "<s>ssim": {"pixel_auroc": 0.9}},
        "kinds": {HOSTILE[1]: {"n": 3, "image_auroc": 0.25}},
        "sizes": [{"from": 0.0, "to": 0.01, "n": 4, "hit": 1, "overlap": None}],
    } | more  # fmt: skip
    files.write_json(folder / "metrics.json", metrics)
    files.write_json(folder / "versions.json", {"python": "<b>3", "data_fingerprint": "abc123"})
    files.write_json(folder / "curves.json", {"pro": {"fpr": [0, 0.5, 1], "pro": [0, 0.8, 1]}})
    (folder / "flags.txt").write_text(f"--data_dir={HOSTILE[3]}\n--seed=3\n")
    (folder / "history.csv").write_text("epoch,loss,validation_loss\n1,0.5,\n2,0.25,0.3\n")
    left_out = f"path,cause\n{HOSTILE[4]},<script>\n"
    (folder / "left_out.csv").write_bytes(left_out.encode("utf-8", "surrogateescape"))
    rows = rng.permutation([i for i in range(n) if splits[i] == "test"])
    k, size = len(rows), (21, 34)
    arrays = {
        "row": rows,
        "image": rng.integers(0, 256, (k, *size, 1), np.uint8),
        "reconstruction": rng.integers(0, 256, (k, *size, 1), np.uint8),
        "residual": rng.random((k, *size), np.float32),
        "mask": rng.random((k, *size)) < 0.2,
        "has_mask": rng.random(k) < 0.8,
        "predicted": rng.random((k, *size)) < 0.1,
        "scale": np.float32(0.7),
        "segmentation_threshold": np.float64(0.5),
    }
    np.savez_compressed(folder / "examples.npz", **arrays)
    return metrics, frame, arrays

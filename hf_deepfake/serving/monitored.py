"""What `hf-deepfake monitor` compares besides scores: statistics of the images and embeddings of the detector."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import ImageStat
from scipy.ndimage import laplace
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TimmWrapperForImageClassification

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.drift import STATISTICS

DIMENSIONS = 64
"""Length of an embedding: squared distances between images keep their size within some `sqrt(2 / 64)`, 18 %."""

_THREADS = min(os.cpu_count() or 1, 4)
_CROP = 512


def image_statistics(images: Sequence[Any], quiet: bool = False) -> pd.DataFrame:
    """Measure what a change of cameras, apps, resizing or compression moves.

    Args:
        images: As for `score_images`. They are decoded again, since a scoring process may be another one.
        quiet: Show no progress bar.

    Returns:
        One row an image, in the order given; NaN for what cannot be read, and for addresses, which are not fetched twice.

        - `width`, `height` of the upright image in pixels; `file_bytes`: its encoded size.
        - `brightness`: mean of the luminance (ITU-R 601, 0 to 255). `contrast`: its standard deviation.
        - `sharpness`: variance of the luminance's Laplacian (4 neighbours) in at most 512 by 512 pixels at the centre,
          not resized (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000).
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        measured = pool.map(_statistics, images)
        bar = tqdm(measured, total=len(images), desc="Measuring images", unit="image", disable=quiet, delay=1)
        return pd.DataFrame(list(bar), columns=list(STATISTICS), dtype=float)


def _statistics(image: Any) -> dict[str, float]:
    path, content = (image["path"], image["bytes"]) if isinstance(image, dict) else (os.fspath(image), None)
    if content is None and path.startswith(("http://", "https://")):
        return {}
    try:
        luminance = open_rgb(image).convert("L")
        size = len(content) if content is not None else os.path.getsize(path)
    except (OSError, UnreadableImageError):
        return {}
    width, height = luminance.size
    left, top = max(0, (width - _CROP) // 2), max(0, (height - _CROP) // 2)
    centre = luminance.crop((left, top, min(width, left + _CROP), min(height, top + _CROP)))
    grey = ImageStat.Stat(luminance)
    values = (width, height, size, grey.mean[0], grey.stddev[0], laplace(np.asarray(centre, np.float32)).var())
    return dict(zip(STATISTICS, map(float, values), strict=True))


class EmbeddingRecorder:
    """Records what enters the last layer of a detector while it scores, for an ensemble that of all members together.

    A Gaussian random projection makes `DIMENSIONS` numbers of it, so that a table of scores stays small: it keeps the
    distances between images, whatever the images are (Johnson and Lindenstrauss, 1984), and as it is not fitted on any
    of them, tables that were made on different days can be compared.

    Args:
        model: A detector or an ensemble.
        seed: Of the projection; embeddings of different seeds cannot be compared.

    Raises:
        InputError: If no last layer with two outputs is found.
    """

    def __init__(self, model: PreTrainedModel, seed: int = 0) -> None:
        members = model.members if isinstance(model, EnsembleForImageClassification) else [model]
        self._seed = seed
        self._inputs: list[list[torch.Tensor]] = [[] for _ in members]
        self._seen: dict[int, torch.Tensor] = {}  # in this pass, which may still run out of memory and be repeated
        for index, member in enumerate(members):
            _last_layer(member).register_forward_pre_hook(
                lambda _, inputs, index=index: self._seen.update({index: inputs[0]})
            )
        model.register_forward_hook(lambda *_: self._keep())
        self._projection = np.zeros((0, DIMENSIONS))

    def _keep(self) -> None:
        for index, kept in enumerate(self._inputs):
            kept.append(self._seen[index])

    def take(self, images: int) -> NDArray[np.float32]:
        """Embeddings of that many images, scored since the last call, shape `(images, DIMENSIONS)`.

        Of several views of an image, which follow each other, the first is the image itself, and it alone counts.
        """
        views = torch.cat([torch.cat(kept).flatten(1) for kept in self._inputs], dim=1)
        features = views[:: len(views) // images].double().cpu().numpy()
        for kept in self._inputs:
            kept.clear()
        if len(self._projection) != features.shape[1]:
            generator = np.random.RandomState(self._seed)  # its numbers never change; default_rng's may
            self._projection = generator.normal(scale=DIMENSIONS**-0.5, size=(features.shape[1], DIMENSIONS))
        projected: NDArray[np.float32] = (features @ self._projection).astype(np.float32)
        return projected


def _last_layer(detector: Any) -> nn.Module:
    if isinstance(detector, TimmWrapperForImageClassification):
        classifier: Any = detector.timm_model.get_classifier()
        first: nn.Module = classifier[0] if isinstance(classifier, tuple) else classifier  # a distilled one has two
        return first
    heads = [module for module in detector.modules() if getattr(module, "out_features", None) == 2]
    if not heads:
        raise InputError(f"--monitoring: {type(detector).__name__} has no last layer with two outputs to look before.")
    last: nn.Module = heads[-1]
    return last

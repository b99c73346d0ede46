"""The voted ensemble as one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForImageClassification, PreTrainedModel
from transformers.utils.generic import ModelOutput

from .configuration_deepfake_ensemble import EnsembleConfig
from .image_processing_deepfake_ensemble import view_key

_SMALLEST_PROBABILITY = 1e-7  # keeps the log of a unanimous hard vote finite

VOTE_SETTINGS = ("temperatures", "biases", "isotonic", "weights", "member_thresholds", "vote_calibrations")
"""What of an ensemble's configuration `vote` takes."""


def calibrated(
    log_odds: torch.Tensor,
    temperature: float = 1.0,
    bias: float = 0.0,
    isotonic: Sequence[Sequence[float]] | None = None,
) -> torch.Tensor:
    """Calibrated probability of fake: `sigmoid(log_odds / temperature + bias)`, or a monotone curve.

    Args:
        log_odds: Of fake against real, any shape.
        temperature: 1 for none (Guo et al., ICML 2017).
        bias: Not 0 after Platt scaling (Platt 1999).
        isotonic: Log-odds in rising order and their probabilities; straight lines between, level outside. It takes the
            place of the other two.
    """
    if isotonic is None:
        return torch.sigmoid(log_odds / temperature + bias)
    places, values = (_row(part, log_odds) for part in isotonic)
    inside = log_odds.clamp(places[0], places[-1])
    right = torch.searchsorted(places, inside).clamp(1, len(places) - 1)
    share = (inside - places[right - 1]) / (places[right] - places[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])


def member_probabilities(
    member_logits: torch.Tensor,
    *,
    temperatures: Sequence[float],
    biases: Sequence[float] | None = None,
    isotonic: Sequence[Any] | None = None,
) -> torch.Tensor:
    """Each member's calibrated probability of fake, shape `(images, members)`, from logits `(images, members, 2)`."""
    count = member_logits.shape[1]
    log_odds = (member_logits[..., 1] - member_logits[..., 0]).unbind(dim=1)
    settings = zip(log_odds, temperatures, biases or [0.0] * count, isotonic or [None] * count, strict=True)
    return torch.stack([calibrated(*member) for member in settings], dim=1)


def vote(
    member_logits: torch.Tensor,
    *,
    temperatures: Sequence[float],
    weights: Sequence[float],
    member_thresholds: Sequence[float],
    voting: str,
    biases: Sequence[float] | None = None,
    isotonic: Sequence[Any] | None = None,
    vote_calibrations: Mapping[str, Mapping[str, Any]] | None = None,
) -> torch.Tensor:
    """Probability of fake that the members vote for.

    With `p_i` the calibrated probability of a member, `softmax(logits_i / T_i)` unless another calibration was asked
    for: the soft vote is the mean of `p_i`; the weighted vote `Σ w_i p_i / Σ w_i`; the hard vote the share of members
    with `p_i ≥ t_i`. An even split of the hard vote is decided by the soft vote: its share of 0.5 is moved towards
    the soft vote, by less than half a member, so that the order of all other scores is kept.

    The mean of calibrated members is too unsure of itself (Ranjan and Gneiting 2010), so the soft and the weighted vote
    are calibrated once more where `vote_calibrations` says so. A share of votes is no probability and stays.

    Args:
        member_logits: Shape `(images, members, 2)`, column 1 fake.
        temperatures: `T_i`, one a member.
        weights: `w_i`, one a member; used by the weighted vote only.
        member_thresholds: `t_i`, one a member; used by the hard vote only.
        voting: `soft`, `hard` or `weighted`.
        biases: One a member, see `calibrated`; none by default.
        isotonic: A curve or None for each member, see `calibrated`; none by default.
        vote_calibrations: Arguments of `calibrated` by kind of voting.

    Returns:
        Shape `(images,)`, in [0, 1].
    """
    members = member_logits.shape[1]
    prob_fake = member_probabilities(member_logits, temperatures=temperatures, biases=biases, isotonic=isotonic)
    soft = prob_fake.mean(dim=1)
    if voting == "hard":
        votes = (prob_fake >= _row(member_thresholds, prob_fake)).sum(dim=1)
        share = votes.to(prob_fake.dtype) / members
        return torch.where(2 * votes == members, 0.5 + (soft - 0.5) / members, share)
    if voting == "soft":
        voted = soft
    elif voting == "weighted":
        shares = _row(weights, prob_fake)
        voted = (prob_fake * shares).sum(dim=1) / shares.sum()
    else:
        raise ValueError(f"voting is {voting!r}; it must be soft, hard or weighted.")
    calibration = (vote_calibrations or {}).get(voting)
    if calibration is None:
        return voted
    smallest = _SMALLEST_PROBABILITY
    return calibrated(voted.clamp(smallest, 1 - smallest).logit(), **calibration).clamp(smallest, 1 - smallest)


def verdict(prob_fake: float, threshold: float, band: Sequence[float] | None = None) -> str:
    """`fake` from the threshold on, else `real`; `uncertain` between the two ends of a band.

    Example:
        >>> verdict(0.6, 0.5), verdict(0.4, 0.5), verdict(0.6, 0.5, [0.4, 0.7]), verdict(0.7, 0.5, [0.4, 0.7])
        ('fake', 'real', 'uncertain', 'fake')
    """
    if band is not None and band[0] < prob_fake < band[1]:
        return "uncertain"
    return "fake" if prob_fake >= threshold else "real"


def _row(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(list(values), dtype=like.dtype, device=like.device)


@dataclass
class EnsembleOutput(ModelOutput):
    """What the ensemble says.

    Args:
        loss: Negative log-likelihood of the labels under the vote, where labels were given.
        logits: Log of the voted probabilities, shape `(images, 2)`, columns real and fake.
        member_logits: Uncalibrated logits, shape `(images, members, 2)`, columns real and fake.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    member_logits: torch.Tensor | None = None


class EnsembleForImageClassification(PreTrainedModel):
    """Detectors that vote: each sees its own view of the image, and `logits` is the log of their vote."""

    config_class = EnsembleConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__(config)
        self.members = nn.ModuleList(
            AutoModelForImageClassification.from_config(
                CONFIG_MAPPING[member["model_type"]].from_dict({k: v for k, v in member.items() if k != "dtype"})
            )
            for member in config.members
        )
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **views: Any,
    ) -> EnsembleOutput | tuple[torch.Tensor, ...]:
        """Vote on a batch.

        Args:
            pixel_values: The first view, shape `(images, 3, height, width)`.
            labels: 0 for real, 1 for fake, shape `(images,)`.
            return_dict: False for a tuple.
            views: The other views as `pixel_values_1`, `pixel_values_2`, …, as the image processor names them.
        """
        views["pixel_values"] = pixel_values
        outputs = []
        for member, view, fake_column in zip(
            self.members, self.config.member_views, self.config.fake_columns, strict=True
        ):
            logits = member(pixel_values=views[view_key(view)]).logits.float()
            outputs.append(logits if fake_column == 1 else logits.flip(-1))
        member_logits = torch.stack(outputs, dim=1)
        prob_fake = vote(
            member_logits,
            voting=self.config.voting,
            **{name: getattr(self.config, name) for name in VOTE_SETTINGS},
        )
        both = torch.stack([1 - prob_fake, prob_fake], dim=-1)
        logits = both.clamp(min=_SMALLEST_PROBABILITY).log()
        loss = None if labels is None else nn.functional.nll_loss(logits, labels)
        output = EnsembleOutput(loss=loss, logits=logits, member_logits=member_logits)
        return output.to_tuple() if return_dict is False else output


EnsembleConfig.register_for_auto_class()
EnsembleForImageClassification.register_for_auto_class("AutoModelForImageClassification")

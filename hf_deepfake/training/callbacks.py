"""What a person sees of a training, and when it ends early."""

import datetime
import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.import_utils import is_in_notebook

_COLUMNS = {
    "epoch": ("epoch", ".2f"),
    "step": ("step", "d"),
    "loss": ("loss", ".4f"),
    "eval_validation_loss": ("val. loss", ".4f"),
    "eval_validation_roc_auc": ("ROC AUC", ".4f"),
    "eval_validation_balanced_accuracy": ("bal. acc.", ".4f"),
    "eval_old_validation_roc_auc": ("old AUC", ".4f"),
    "images_per_second": ("images/s", ".1f"),
    "time_left": ("left", "s"),
}


class LiveTable(ProgressCallback):
    """A table that gets a row an evaluation, and one a log between two, with Trainer's bars below it.

    The bars are for terminals and notebooks; a log file gets the rows alone. All metrics are in `trainer_state.json`.

    Args:
        forgetting: Show what becomes of the old images of a continued training.
        quiet: No bars in any case.
    """

    def __init__(self, forgetting: bool = False, quiet: bool = False) -> None:
        super().__init__()
        self.bars = not quiet and (sys.stderr.isatty() or is_in_notebook())
        self.columns = {key: column for key, column in _COLUMNS.items() if forgetting or "old" not in key}
        self.row: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print the head of the table."""
        self.begun = self.resumed = time.monotonic()
        self.first = self.counted = self.current_step = state.global_step
        self.seconds = 0.0  # of training alone, since the last row
        self.row = {}
        if state.is_world_process_zero:
            bar = {"total": state.max_steps, "initial": state.global_step, "dynamic_ncols": True}
            self.training_bar = tqdm(**bar, unit="step", disable=not self.bars)
            tqdm.write(" ".join(f"{name:>9}" for name, _ in self.columns.values()))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print what was logged and measured after the step before."""
        self._print(args, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the time since the step before, or the evaluation after it."""
        super().on_step_end(args, state, control, **kwargs)
        now = time.monotonic()
        self.seconds += now - self.resumed
        self.resumed = now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the loss for the row."""
        if logs is not None and "loss" in logs:
            self.row["loss"] = float(logs["loss"])

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Move the bar of the evaluation."""
        if self.bars:
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the metrics for the row."""
        super().on_evaluate(args, state, control, **kwargs)
        self.row |= kwargs.get("metrics", {})
        self.resumed = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count no time for saving."""
        self.resumed = time.monotonic()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print what is left."""
        self._print(args, state)
        super().on_train_end(args, state, control, **kwargs)

    def _print(self, args: TrainingArguments, state: TrainerState) -> None:
        if not self.row or not state.is_world_process_zero:
            return
        steps, done = state.global_step - self.counted, state.global_step - self.first
        batch = state.train_batch_size or args.train_batch_size  # the first where --auto_find_batch_size found another
        images = steps * batch * args.gradient_accumulation_steps * args.world_size
        left = (time.monotonic() - self.begun) / max(done, 1) * (state.max_steps - state.global_step)
        self.row |= {
            "epoch": float(state.epoch or 0),
            "step": state.global_step,
            "images_per_second": images / max(self.seconds, 1e-9),
            "time_left": str(datetime.timedelta(seconds=round(left))),
        }
        cells = [format(self.row[key], form) if key in self.row else "-" for key, (_, form) in self.columns.items()]
        tqdm.write(" ".join(f"{cell:>9}" for cell in cells))
        self.row, self.seconds, self.counted = {}, 0.0, state.global_step


class EarlyStopping(EarlyStoppingCallback):
    """Trainer's early stopping without its warnings: `train` loads the best model, and not every set tells which it is."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Nothing to check: `metric_for_best_model` always has a value here, and evaluation is on."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count the evaluations of the set that has the metric."""
        if f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}" in (metrics or {}):
            super().on_evaluate(args, state, control, metrics, **kwargs)

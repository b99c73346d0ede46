"""What a person sees of a training."""

from typing import Any

from transformers import EarlyStoppingCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments


class ReadableProgress(ProgressCallback):
    """Trainer's progress bar with one line an evaluation instead of every metric; all are in `trainer_state.json`."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print loss and validation metrics of the epoch above the bar."""
        logs = logs or {}
        shown = {
            "loss": "loss",
            "eval_validation_loss": "validation loss",
            "eval_validation_roc_auc": "ROC AUC",
            "eval_validation_balanced_accuracy": "balanced accuracy",
        }
        parts = [f"{name} {float(logs[key]):.4f}" for key, name in shown.items() if key in logs]
        if parts and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(f"epoch {logs.get('epoch', 0):.2f}: {', '.join(parts)}")


class EarlyStopping(EarlyStoppingCallback):
    """Trainer's early stopping without its warning that nobody loads the best model: `train` does."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Nothing to check: `metric_for_best_model` always has a value here, and evaluation is on."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_deepfake.training.callbacks import EarlyStopping, LiveTable
from hf_deepfake.training.train import _fit


@pytest.fixture
def options(tmp_path: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, metric_for_best_model="eval_validation_roc_auc", eval_strategy="epoch"
    )


def test_an_evaluation_is_one_row_of_the_table(options: TrainingArguments, capsys: pytest.CaptureFixture[str]) -> None:
    state, control, table = TrainerState(max_steps=4), TrainerControl(), LiveTable(forgetting=True)
    table.on_train_begin(options, state, control)
    for step in (1, 2):
        state.global_step, state.epoch = step, step / 2
        table.on_step_begin(options, state, control)
        table.on_step_end(options, state, control)
    table.on_log(options, state, control, logs={"loss": 0.5})
    table.on_evaluate(options, state, control, metrics={"eval_validation_roc_auc": 0.75})
    table.on_evaluate(options, state, control, metrics={"eval_old_validation_roc_auc": 0.875})
    table.on_train_end(options, state, control)
    head, row = capsys.readouterr().out.splitlines()
    cells = dict(
        zip(
            head.replace("val. loss", "val")
            .replace("ROC AUC", "new")
            .replace("bal. acc.", "acc")
            .replace("old AUC", "old")
            .split(),
            row.split(),
            strict=True,
        )
    )
    assert cells["images/s"] != "0.0"
    del cells["images/s"], cells["left"]
    assert cells == {
        "epoch": "1.00",
        "step": "2",
        "loss": "0.5000",
        "val": "-",
        "new": "0.7500",
        "acc": "-",
        "old": "0.8750",
    }


def test_the_rate_is_that_of_the_batches_that_fit_into_memory(
    options: TrainingArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    def rate(batch: int | None) -> float:
        state, control, table = TrainerState(max_steps=2, train_batch_size=batch), TrainerControl(), LiveTable()
        table.on_train_begin(options, state, control)
        state.global_step, table.seconds, table.row = 1, 1.0, {"loss": 0.5}
        table.on_train_end(options, state, control)
        head, row = capsys.readouterr().out.splitlines()
        return float(
            row.split()[head.replace("val. loss", "val").replace("ROC AUC", "auc").split().index("images/s") - 1]
        )

    assert (rate(None), rate(2)) == (options.train_batch_size, 2)


def test_early_stopping_counts_the_set_that_picks_the_checkpoint(options: TrainingArguments) -> None:
    options.greater_is_better = True
    state, control, stopping = TrainerState(best_metric=0.9), TrainerControl(), EarlyStopping(2)
    for _ in range(3):
        stopping.on_evaluate(options, state, control, metrics={"eval_old_validation_roc_auc": 0.1})
    assert stopping.early_stopping_patience_counter == 0
    for _ in range(2):
        assert not control.should_training_stop
        stopping.on_evaluate(options, state, control, metrics={"eval_validation_roc_auc": 0.5})
    assert control.should_training_stop


def test_curves_are_drawn_of_an_interrupted_training(options: TrainingArguments, tmp_path: Any) -> None:
    def interrupted(**kwargs: Any) -> None:
        raise KeyboardInterrupt

    log = [{"epoch": 1.0, "loss": 0.6}, {"epoch": 1.0, "eval_validation_loss": 0.7}]
    trainer: Any = SimpleNamespace(
        args=options, state=TrainerState(log_history=log), train=interrupted, is_world_process_zero=lambda: True
    )
    with pytest.raises(KeyboardInterrupt):
        _fit(trainer, tmp_path, None, False)
    assert (tmp_path / "plots" / "training_curves.png").stat().st_size > 10_000

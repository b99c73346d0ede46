import io

from rich.console import Console

from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.tables import COLUMNS, format_metric, metrics_markdown, metrics_table

METRICS = {"roc_auc": 0.98765, "roc_auc_low": 0.9, "roc_auc_high": 1.0, "accuracy": 0.5}


def test_a_metric_is_printed_with_its_interval_where_it_has_one() -> None:
    assert format_metric(METRICS, "roc_auc") == "0.988 [0.900, 1.000]"
    assert format_metric(METRICS, "accuracy") == "0.500"
    assert format_metric(METRICS, "eer") == "not defined"


def test_the_markdown_table_has_a_cell_for_each_column() -> None:
    lines = metrics_markdown({"test": METRICS, "phones": {}}, "benchmark").splitlines()
    assert lines[0] == "| benchmark | ROC AUC | accuracy | balanced acc. | FPR | EER | ECE |"
    assert lines[1].count("---") == len(COLUMNS) + 1
    assert lines[2].startswith("| test | 0.988 [0.900, 1.000] | 0.500 | not defined |")
    assert lines[3].count("not defined") == len(COLUMNS)


def test_the_terminal_table_fits_80_columns_and_names_long_rows_whole() -> None:
    labels, prob_fake = [0, 1] * 10, [0.1, 0.9, 0.4, 0.3] * 5
    metrics = detection_metrics(labels, prob_fake) | bootstrap_intervals(labels, prob_fake, resamples=20)
    written = io.StringIO()
    name = "tf_efficientnet_lite0-imagenet-openfake-seed42"
    table = metrics_table({name: metrics, "real": detection_metrics([0], [0.1])}, "model", title="test")
    Console(file=written, width=80).print(table)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert name in "".join(line.split("│")[1].strip() for line in lines if line.count("│") == 6)
    assert f"{metrics['roc_auc']:.3f}" in written.getvalue()
    assert "not defined" in written.getvalue()

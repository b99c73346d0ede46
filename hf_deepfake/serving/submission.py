"""Scores as a competition wants them: the names of its own table, in its order."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from datasets import Value

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.tables import TABLE_SUFFIXES, find_columns, read_table
from hf_deepfake.errors import InputError


def blank_submission(
    inputs: Sequence[str], submission: Path, image_column: str | None = None
) -> tuple[pd.DataFrame, str]:
    """What is to be handed in, before the scores.

    Args:
        inputs: One table: the competition's list of test images or sample submission.
        submission: The CSV file that is to be written.
        image_column: The table's column of names; by default it is found as by `load_data`.

    Returns:
        The names as they stand in the table, in its order, with a score of 0.5 each, which says nothing; and the name of
        the column of scores: the second where the table has two and the first is that of the names, else `y_pred`.

    Raises:
        InputError: If `submission` is no CSV file or the table itself, or `inputs` are not one table that names images.
    """
    if submission.suffix.lower() != ".csv":
        raise InputError(f"--submission {submission}: writes .csv; found {submission.suffix or 'no suffix'}.")
    table = Path(inputs[0])
    if len(inputs) != 1 or table.suffix.lower() not in TABLE_SUFFIXES or not table.is_file():
        raise InputError(
            f"--submission {submission}: needs one INPUT, the competition's table ({' '.join(sorted(TABLE_SUFFIXES))}); "
            f"found {' '.join(inputs)}."
        )
    if submission.resolve() == table.resolve():
        raise InputError(f"--submission {submission}: is the INPUT itself; give another name.")
    rows = read_table(table)
    data = DataArguments(dataset_name=str(table), image_column=image_column)
    names = find_columns(rows, data, labelled=False, source=str(table))["image"]
    if not isinstance(rows.features[names], Value):
        raise InputError(
            f"--submission {submission}: column {names!r} of {table} holds images, not their names; "
            "give a table that names them."
        )
    columns = rows.column_names
    score = columns[1] if len(columns) == 2 and columns[0] == names else "y_pred"
    return pd.DataFrame({names: rows[names][:], score: 0.5}), score

"""Which ensemble `pipeline("deepfake-ensemble")` takes when no model is named."""

from pathlib import Path

from huggingface_hub.constants import HF_HOME

from hf_deepfake.errors import InputError
from hf_deepfake.writing import whole

PUBLISHED_ENSEMBLE: str | None = None
"""Hub id of the published ensemble; None while none is published."""


def _pointer() -> Path:
    return Path(HF_HOME) / "hf_deepfake" / "default_ensemble"


def install_default(ensemble_dir: Path) -> None:
    """Make an ensemble the default of this user; only its path is stored, under `HF_HOME`."""
    with whole(_pointer()) as partial:
        partial.write_text(str(ensemble_dir.resolve()), encoding="utf-8")


def default_ensemble() -> str:
    """Path or Hub id of the default ensemble.

    Raises:
        InputError: If none was made on this machine and none is published.
    """
    pointer = _pointer()
    if pointer.is_file():
        path = Path(pointer.read_text(encoding="utf-8"))
        if (path / "config.json").is_file():
            return str(path)
    if PUBLISHED_ENSEMBLE is not None:
        return PUBLISHED_ENSEMBLE
    raise InputError(
        "No model was named, and there is no default ensemble on this machine. "
        "Make one with `hf-deepfake demo`, or name one: pipeline('deepfake-ensemble', model=DIR)."
    )

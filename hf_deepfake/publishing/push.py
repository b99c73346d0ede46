"""`hf-deepfake push`: a run directory or an ensemble on the Hub, as one commit."""

import argparse
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import load_results
from hf_deepfake.printing import first_line, printable
from hf_deepfake.publishing.card import Publication
from hf_deepfake.publishing.contents import CHECKPOINT, contents

_CURES = {
    400: "the Hub does not take what it was sent; if it is the card, --license must be one of its ids, like apache-2.0",
    401: "the token is not valid; log in again with hf auth login, or set HF_TOKEN",
    403: "the token may not write there; take one with write access to that user or organisation (hf auth login)",
    404: "there is no such repository or branch, or the token may not see it",
    409: "the name is taken by a repository of another kind, or someone else is committing; choose another, or try again",
}


def push(files: Mapping[str, Path | bytes], repo_id: str, private: bool = False, revision: str = "main") -> CommitInfo:
    """Upload files to a model repository, which is made where there is none, as one commit.

    Large files go first, and those that the Hub has already are not sent again; then everything appears at once. A push
    that fails leaves the branch as it was.

    Args:
        files: What `contents` returns.
        repo_id: `USER/NAME`.
        private: Whether only its owner may see it.
        revision: Branch, which is made from `main` where there is none.

    Raises:
        InputError: If the Hub cannot be reached, does not let this happen, or shows a repository to everyone that was to
            be private.
    """
    api = HfApi()
    with hub_errors(repo_id):
        make_repository(api, repo_id, private)
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*commit a data file")  # hashes and predictions belong here
            return api.create_commit(repo_id, additions, commit_message="Upload with hf_deepfake", revision=revision)


def make_repository(api: HfApi, repo_id: str, private: bool, repo_type: str = "model") -> None:
    """Make a repository where there is none.

    Raises:
        InputError: If it is to be private, and there is a public one already.
    """
    sdk = "gradio" if repo_type == "space" else None
    api.create_repo(repo_id, private=private or None, repo_type=repo_type, space_sdk=sdk, exist_ok=True)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise InputError(
            f"{repo_id}: is there already, and public; make it private in its settings, or choose another name."
        )


def push_checkpoint(checkpoint: Path, repo_id: str, revision: str | None, strategy: str) -> list[Future[CommitInfo]]:
    """Begin to upload a checkpoint of a training that goes on meanwhile.

    The detector goes to the root of the repository. By Trainer's `hub_strategy`, all that the training resumes from goes
    to `last-checkpoint` (`checkpoint`) or to a folder of the checkpoint's name (`all_checkpoints`) besides, but for
    `training_args.bin`, which Trainer pickles with any token in it.

    Returns:
        The uploads, which end in the background.
    """
    api, message = HfApi(), f"Training in progress, {checkpoint.name}"
    job = api.upload_folder(
        repo_id=repo_id,
        folder_path=checkpoint,
        commit_message=message,
        revision=revision,
        allow_patterns=list(CHECKPOINT),
        run_as_future=True,
    )
    folder = {"checkpoint": "last-checkpoint", "all_checkpoints": checkpoint.name}.get(strategy)
    if folder is None:
        return [job]

    def upload_states() -> CommitInfo:
        additions = [CommitOperationAdd(f"{folder}/{name}", content) for name, content in _states(checkpoint).items()]
        return api.create_commit(repo_id, additions, commit_message=message, revision=revision)

    return [job, api.run_as_future(upload_states)]


def _states(checkpoint: Path) -> dict[str, Path | bytes]:
    """All that a training resumes from, without the folder that it lies in."""
    files: dict[str, Path | bytes] = {
        path.relative_to(checkpoint).as_posix(): path
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != "training_args.bin"
    }
    if "trainer_state.json" in files:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        best = state.get("best_model_checkpoint")
        state["best_model_checkpoint"] = None if best is None else Path(best).name
        files["trainer_state.json"] = json.dumps(state, indent=2).encode()
    return files


def check_access() -> None:
    """Refuse a push without a token before anything reaches the network.

    Raises:
        InputError: If there is no token, or the network is switched off.
    """
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE=1 keeps everything off the network; unset it to push to the Hub.")
    if get_token() is None:
        raise InputError("no token of the Hub is known; log in with hf auth login, or set HF_TOKEN.")


def check_name(repo_id: str) -> None:
    """Refuse what is not `USER/NAME`.

    Raises:
        InputError: What is wrong with it.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id}: is no USER/NAME of a repository: {first_line(error)}") from error
    if "/" not in repo_id:
        raise InputError(f"{repo_id}: whose repository? Give it as USER/{repo_id}.")


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Say what the Hub or the network did not let happen, and what to do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        status = next((code for reason in _reasons(error) if (code := _status(reason))), None)
        cure = _CURES.get(status or 0, "try again; what is uploaded already is not sent again")
        told = f"{constants.ENDPOINT} answered {status}" if status else f"{constants.ENDPOINT} cannot be used"
        reason = " ".join(str(error).split())
        raise InputError(
            f"{repo_id}: {told} ({reason}): {cure}. A push is one commit: the branch is as it was."
        ) from error


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake push`: list what would be uploaded, then upload it."""
    arguments = _parser().parse_args(argv)
    check_name(arguments.repo_id)
    results = _finished(arguments.run)
    measured = _evaluations(arguments.evaluation, arguments.run)
    publication = Publication(
        repo_id=arguments.repo_id,
        revision=arguments.revision,
        license=arguments.license,
        dataset=arguments.dataset,
        evaluations={name: load_results(path) for name, path in measured.items()},
    )
    files = contents(arguments.run, results, publication, measured, arguments.predictions)
    console = Console()
    console.print(listing(files, arguments.repo_id))
    if arguments.license is None:
        console.print("no --license: the card says so, and nobody knows whether they may use it", markup=False)
    if arguments.dry_run:
        console.print("dry run: nothing was uploaded", markup=False)
        return 0
    check_access()
    commit = push(files, arguments.repo_id, arguments.private, arguments.revision)
    brings_code = any(name.endswith(".py") for name in files)
    console.print(
        f"pushed {constants.ENDPOINT}/{arguments.repo_id}\n"
        f'next: pipeline("image-classification", model="{arguments.repo_id}", revision="{commit.oid}"'
        f"{', trust_remote_code=True' if brings_code else ''})",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _finished(run: Path) -> dict[str, Any]:
    if not (run / "config.json").is_file():
        raise InputError(f"{run}: no config.json; push takes what hf-deepfake train or ensemble wrote.")
    if not (run / "results.json").is_file():
        raise InputError(
            f"{run}: no results.json, so it is not finished; go on with it (hf-deepfake train --resume_from_checkpoint "
            "true), or build it again."
        )
    results = load_results(run)
    if not results.get("metrics"):
        raise InputError(f"{run / 'results.json'}: holds no metrics; train or build it again.")
    return results


def _evaluations(folders: Sequence[Path], run: Path) -> dict[str, Path]:
    """Folders with this model's results, by the folder that they are published in."""
    name, found = run.resolve().name, {}
    for folder in folders:
        parts = [part for part in (folder, folder / name) if (part / "results.json").is_file()]
        own = next((part for part in parts if load_results(part).get("model") == name), None)
        if own is None:
            raise InputError(f"--evaluation {folder}: holds no results.json of {name}; evaluate that model first.")
        published = f"evaluations/{folder.resolve().name}"
        if published in found:
            raise InputError(f"--evaluation {folder}: another one is called so too; rename a folder.")
        found[published] = own
    return found


def listing(files: Mapping[str, Path | bytes], repo_id: str) -> Table:
    """Every file that would be uploaded, with its size."""
    table = Table(title=f"to {printable(repo_id)}", min_width=40)
    table.add_column("file", overflow="fold")
    table.add_column("kB", justify="right")
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        table.add_row(Text(printable(name)), f"{size / 1000:,.1f}")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-deepfake push",
        description="Upload a run directory or an ensemble to the Hub as one commit. The token is that of hf auth login, "
        "or of HF_TOKEN.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="what hf-deepfake train or ensemble wrote")
    parser.add_argument("--repo_id", required=True, metavar="USER/NAME", help="made where there is none")
    parser.add_argument("--private", action="store_true", help="only you may see it")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="made from main where there is none")
    parser.add_argument("--license", metavar="ID", help="licence id of the Hub, such as apache-2.0")
    parser.add_argument("--dataset", metavar="NAME", help="training data that the card names; default: the recipe's")
    parser.add_argument(
        "--evaluation",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="what hf-deepfake evaluate wrote of this model; its figures go into the card",
    )
    parser.add_argument("--predictions", action="store_true", help="upload predictions too, which name image files")
    parser.add_argument("--dry_run", action="store_true", help="only list what would be uploaded")
    return parser

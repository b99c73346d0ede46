"""`hf-deepfake push-space`: the page as a Hugging Face Space, with the package's own source, since it is on no registry."""

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, SpaceCard, constants
from rich.console import Console

import hf_deepfake
from hf_deepfake.publishing.push import check_access, check_name, hub_errors, listing, make_repository

VARIABLE = "HF_DEEPFAKE_MODEL"
"""Of the Space's environment: which model it shows."""

_PACKAGE = Path(hf_deepfake.__file__).parent


def space_files(model: str) -> dict[str, Path | bytes]:
    """What a Space consists of: its three files, this package as it is installed here, and the licence.

    A Space installs its requirements before it sees any other file, so the package lies beside `app.py` and is imported
    from there.

    Args:
        model: Hub id that its card links to.
    """
    folder = _space_folder()
    card = SpaceCard((folder / "README.md").read_text(encoding="utf-8"))
    card.data["models"] = [model]
    files: dict[str, Path | bytes] = {"README.md": str(card).encode()}
    files |= {name: folder / name for name in ("app.py", "requirements.txt")}
    files["LICENSE"] = (distribution("hf_deepfake").read_text("licenses/LICENSE") or "").encode()
    sources = (path for path in sorted(_PACKAGE.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    return files | {path.relative_to(_PACKAGE.parent).as_posix(): path for path in sources}


def _space_folder() -> Path:
    """`space/` of an installed package or of a checkout."""
    installed = Path(__file__).with_name("space_files")
    return installed if installed.is_dir() else _PACKAGE.parent / "space"


def push_space(files: Mapping[str, Path | bytes], repo_id: str, model: str, private: bool = False) -> CommitInfo:
    """Make a Space, tell it its model, and upload it as one commit; one that is there gets both anew.

    Args:
        files: What `space_files` returns.
        repo_id: `USER/NAME` of the Space.
        model: Hub id of the model that it shows.
        private: Whether only its owner may see it.

    Raises:
        InputError: If there is no such model, the Hub cannot be reached or does not let this happen, or a Space that was
            to be private is public.
    """
    api = HfApi()
    with hub_errors(model):
        api.model_info(model)
    with hub_errors(repo_id):
        make_repository(api, repo_id, private, repo_type="space")
        api.add_space_variable(repo_id, VARIABLE, model)  # first, so that it never starts without a model
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        return api.create_commit(repo_id, additions, commit_message="Upload with hf_deepfake", repo_type="space")


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake push-space`: list what would be uploaded, then upload it."""
    parser = argparse.ArgumentParser(
        prog="hf-deepfake push-space",
        description="Upload the page to Hugging Face Spaces as one commit. The token is that of hf auth login, or of HF_TOKEN.",
    )
    parser.add_argument("--repo_id", required=True, metavar="USER/NAME", help="of the Space; made where there is none")
    parser.add_argument("--model", required=True, metavar="USER/NAME", help="model on the Hub that the page shows")
    parser.add_argument("--private", action="store_true", help="only you may see it")
    parser.add_argument("--dry_run", action="store_true", help="only list what would be uploaded")
    arguments = parser.parse_args(argv)
    check_name(arguments.repo_id)
    check_name(arguments.model)
    files = space_files(arguments.model)
    console = Console()
    console.print(listing(files, arguments.repo_id))
    if arguments.dry_run:
        console.print("dry run: nothing was uploaded", markup=False)
        return 0
    check_access()
    push_space(files, arguments.repo_id, arguments.model, arguments.private)
    console.print(
        f"pushed {constants.ENDPOINT}/spaces/{arguments.repo_id}\n"
        f"next: wait until it is built; for a private model, give its settings a secret HF_TOKEN that may read {arguments.model}",
        markup=False,
        soft_wrap=True,
    )
    return 0

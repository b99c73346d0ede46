"""Command line: a table of command names and the modules that run them."""

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

import wrapt

from hf_deepfake.errors import InputError
from hf_deepfake.printing import printable

COMMANDS = {
    "demo": ("hf_deepfake.demo", "train, vote and score a small ensemble, start to finish"),
    "audit": ("hf_deepfake.data.audit", "check a data set: broken files, duplicates, leaks, shortcuts"),
    "train": ("hf_deepfake.training.train", "fine-tune a detector from a recipe"),
    "ensemble": ("hf_deepfake.ensemble.building", "combine checkpoints into one"),
    "evaluate": ("hf_deepfake.evaluation.command", "measure checkpoints on labelled images"),
    "report": ("hf_deepfake.evaluation.report.page", "one page on runs, ensembles and evaluations"),
    "predict": ("hf_deepfake.serving.predict", "score images, folders or lists"),
    "serve": ("hf_deepfake.serving.serve", "answer over HTTP, with a page for people"),
    "explain": ("hf_deepfake.explain.gallery", "save heatmaps of what a detector looked at, and check them"),
    "monitor": ("hf_deepfake.evaluation.monitor", "tell whether images or scores of a deployed detector have drifted"),
    "synthesize": ("hf_deepfake.data.synthesis", "make self-blended fakes of real photographs"),
    "push": ("hf_deepfake.publishing.push", "put a run or an ensemble on the Hub, with its card"),
    "push-space": ("hf_deepfake.publishing.space", "put the page that shows a model to people on Hugging Face Spaces"),
}

USAGE = "\n".join(
    [
        "usage: hf-deepfake <command> [flags]",
        "",
        *(f"  {name:<10} {summary}" for name, (_, summary) in COMMANDS.items()),
        "",
        "`hf-deepfake <command> --help` lists that command's flags.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 some images failed, 2 wrong usage or input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("hf_deepfake"))
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"error: no command {name!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    _quieten()
    try:
        status: int = importlib.import_module(COMMANDS[name][0]).main(rest)
    except InputError as error:
        message = str(error).rsplit("InputError: ", 1)[-1]  # a worker process puts its traceback before
        print(f"error: {printable(' '.join(message.splitlines()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; a training goes on with --resume_from_checkpoint true, the demo, evaluate and synthesize by themselves",
            file=sys.stderr,
        )
        return 130
    return status


def _quieten() -> None:
    """Hide the bars of loading and saving local weights; those of training, scoring and downloads stay."""

    def when_imported(transformers_logging: ModuleType) -> None:
        from huggingface_hub.utils.tqdm import enable_progress_bars

        transformers_logging.disable_progress_bar()
        enable_progress_bars()

    wrapt.register_post_import_hook(when_imported, "transformers.utils.logging")


if __name__ == "__main__":
    sys.exit(main())

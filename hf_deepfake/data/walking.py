"""The images below a folder: which links are followed, and what is passed over is said."""

import logging
import os
from collections import defaultdict
from pathlib import Path

from hf_deepfake.errors import InputError
from hf_deepfake.printing import printable

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))

_OUTSIDE = "links that lead out of it (--follow_links follows them)"
_TWICE = "links to what is read under its own name"
_UNLISTED = "folders that cannot be listed"
_NO_FILE = "names of images that are no files"
_NO_TEXT = "names that are not UTF-8"

logger = logging.getLogger(__name__)


def find_images(root: Path, follow_links: bool = False) -> tuple[list[str], int]:
    """Look for images below a folder; hidden names are passed over in silence, all else with one warning.

    A link is followed where it stays below `root` and leads to what is not read under its own name, so that no circle
    is walked and no folder read twice. Links out of `root` are followed only where `follow_links` says so: data that
    somebody else packed are not to read what lies beside them.

    Returns:
        The images' paths below `root`, with `/`, in a stable order, and how many links out of it were not followed.

    Raises:
        InputError: If the folder itself cannot be listed.
    """
    walk = _Walk(root)
    walk.take("", walk.real_root)
    walk.take_links(follow_links)
    walk.report()
    return walk.images, len(walk.left_out[_OUTSIDE])


class _Walk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.real_root = os.path.realpath(root)
        self.images: list[str] = []
        self.links: list[str] = []
        self.real_folders: set[str] = set()  # those walked, by their paths without links
        self.left_out: dict[str, list[str]] = defaultdict(list)

    def take(self, folder: str, real_folder: str) -> None:
        """Images in and below a folder; its links wait until all that has a name of its own is taken."""
        waiting = [(folder, real_folder)]
        while waiting:
            folder, real_folder = waiting.pop()
            if real_folder in self.real_folders:
                continue
            self.real_folders.add(real_folder)
            inner = []
            for entry in self._entries(folder):
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_symlink():
                    self.links.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    inner.append((name, os.path.join(real_folder, entry.name)))
                elif _is_image(name):
                    self._keep(name, entry.is_file(follow_symlinks=False))
            waiting += reversed(inner)

    def take_links(self, follow: bool) -> None:
        """Follow the links that may be, those to folders first."""
        to_files = {}
        for name in self.links:  # it grows while folders are taken
            target = os.path.realpath(self.root / name)
            is_folder = os.path.isdir(target)
            if not is_folder and not _is_image(name):
                continue
            if not follow and not Path(target).is_relative_to(self.real_root):
                self.left_out[_OUTSIDE].append(name)
            elif not is_folder:
                to_files[name] = target
            elif target in self.real_folders:
                self.left_out[_TWICE].append(name)
            else:
                self.take(name, target)
        for name, target in to_files.items():
            folder, file = os.path.split(target)
            if os.path.isfile(target) and folder in self.real_folders and _is_image(file) and file[0] != ".":
                self.left_out[_TWICE].append(name)
            else:
                self._keep(name, os.path.isfile(target))

    def report(self) -> None:
        """Say what was passed over, in one line."""
        parts = [
            f"{reason} ({len(names)}): {', '.join(map(printable, names[:3]))}{', …' * (len(names) > 3)}"
            for reason, names in self.left_out.items()
        ]
        if parts:
            logger.warning("%s: passed over: %s", self.root, "; ".join(parts))

    def _entries(self, folder: str) -> list["os.DirEntry[str]"]:
        try:
            with os.scandir(self.root / folder) as scan:
                entries = sorted((entry for entry in scan if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise InputError(f"{self.root}: cannot be listed: {error.strerror}.") from error
            self.left_out[_UNLISTED].append(folder)
            return []
        return [entry for entry in entries if self._is_named(folder, entry)]

    def _is_named(self, folder: str, entry: "os.DirEntry[str]") -> bool:
        """Whether Arrow can hold a name; bytes that are not UTF-8 come from the system as lone surrogates."""
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            if _is_image(entry.name) or entry.is_dir():
                self.left_out[_NO_TEXT].append(f"{folder}/{entry.name}".lstrip("/"))
            return False
        return True

    def _keep(self, name: str, is_file: bool) -> None:
        (self.images if is_file else self.left_out[_NO_FILE]).append(name)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES

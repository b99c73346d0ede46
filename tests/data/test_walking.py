import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_deepfake.data.walking import find_images
from hf_deepfake.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_images_come_in_one_order_and_the_rest_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "z.JPG", "b/c/d.png", "b/a.webp", "a/x.tiff", "notes.txt", ".hidden/a.jpg", "b/._a.jpg")
    assert find_images(tmp_path) == (["z.JPG", "a/x.tiff", "b/a.webp", "b/c/d.png"], 0)
    assert not caplog.text


def test_links_out_of_the_folder_are_counted_and_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = touch(tmp_path, "data/a.jpg", "elsewhere/b.jpg", "elsewhere/c.jpg") / "data"
    link(root / "folder", tmp_path / "elsewhere")
    link(root / "d.jpg", tmp_path / "elsewhere" / "b.jpg")
    link(root / "up", tmp_path)
    link(root / "gone.jpg", tmp_path / "nowhere")
    link(root / "notes.txt", tmp_path / "elsewhere" / "notes.txt")
    assert find_images(root) == (["a.jpg"], 4)
    assert "links that lead out of it (--follow_links follows them) (4): d.jpg, folder, gone.jpg, …" in caplog.text


def test_links_out_of_the_folder_are_followed_where_that_is_wished(tmp_path: Path) -> None:
    root = touch(tmp_path, "data/a.jpg", "elsewhere/b.jpg", "elsewhere/c/d.jpg") / "data"
    link(root / "x" / "e.jpg", tmp_path / "elsewhere" / "b.jpg")
    assert find_images(root, follow_links=True) == (["a.jpg", "x/e.jpg"], 0)
    link(root / "folder", tmp_path / "elsewhere")
    assert find_images(root, follow_links=True) == (["a.jpg", "folder/b.jpg", "folder/c/d.jpg"], 0)


@pytest.mark.parametrize("follow", [False, True])
def test_links_within_the_folder_are_read_once_and_circles_end(
    follow: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "fake/b.jpg", "fake/c/d.jpg", ".store/e.jpg", ".store/deep/f.jpg")
    link(tmp_path / "fake" / "up", tmp_path)
    link(tmp_path / "fake" / "c" / "same", tmp_path / "fake" / "c")
    link(tmp_path / "again", tmp_path / "fake")
    link(tmp_path / "again.jpg", tmp_path / "fake" / "b.jpg")
    link(tmp_path / "real", tmp_path / ".store")
    link(tmp_path / "deep", tmp_path / ".store" / "deep")
    link(tmp_path / ".store" / "round", tmp_path / "real")
    link(tmp_path / "one.jpg", tmp_path / ".store" / "deep" / "f.jpg")
    images, outside = find_images(tmp_path, follow)
    assert sorted(images) == ["deep/f.jpg", "fake/b.jpg", "fake/c/d.jpg", "real/e.jpg"]
    assert outside == 0
    assert "links to what is read under its own name (6): " in caplog.text


def test_a_folder_given_by_a_link_is_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.jpg", "data/.b/b.jpg")
    link(tmp_path / "data" / "b", tmp_path / "data" / ".b")
    link(tmp_path / "link", tmp_path / "data")
    assert find_images(tmp_path / "link") == (["a.jpg", "b/b.jpg"], 0)


def test_what_is_no_file_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Reading a pipe would wait for ever."""
    touch(tmp_path, "a.jpg", "folder.jpg/b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    link(tmp_path / "self.jpg", tmp_path / "self.jpg")
    link(tmp_path / "to_pipe.jpg", tmp_path / "pipe.jpg")
    assert find_images(tmp_path)[0] == ["a.jpg", "folder.jpg/b.jpg"]
    assert "names of images that are no files (3): pipe.jpg, self.jpg, to_pipe.jpg" in caplog.text


def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "open/a.jpg", "shut/b.jpg")
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert find_images(tmp_path)[0] == ["open/a.jpg"]
    assert "folders that cannot be listed (1): shut" in caplog.text
    with pytest.raises(InputError, match=r"shut: cannot be listed: Permission denied"):
        find_images(tmp_path / "shut")


@pytest.mark.skipif(sys.platform == "darwin", reason="names are text there")
def test_names_that_are_not_text_are_reported_on_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path,
        "a.jpg",
        "new\nline/" + os.fsdecode(b"\xff.jpg"),
        os.fsdecode(b"\xfe/a.jpg"),
        os.fsdecode(b"\xfd.txt"),
    )
    assert find_images(tmp_path)[0] == ["a.jpg"]
    assert r"names that are not UTF-8 (2): \udcfe, new\nline/\udcff.jpg" in caplog.text

"""Shards of two images a line; nothing is listed, and nothing reaches the network."""

import io
import itertools
import json
import pickle
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from conftest import draw_image
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict, Value
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_deepfake.arguments import DataArguments, ModelArguments
from hf_deepfake.data import tables
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.streaming import TrainingStream, load_streaming
from hf_deepfake.data.transforms import ImageTransform, collate
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.models.detector import new_detector

Sample = dict[str, bytes]


def encoded(label: int, seed: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    draw_image(label, seed).save(buffer, form)
    return buffer.getvalue()


def samples(numbers: Iterable[int]) -> Iterator[tuple[str, Sample]]:
    """Real and fake in turn, labelled by number, the fakes as PNG."""
    for number in numbers:
        label = number % 2
        image = {"png": encoded(1, number, "PNG")} if label else {"jpg": encoded(0, number)}
        yield f"{number:03d}", image | {"cls": str(label).encode()}


def shard(path: Path, rows: Iterable[tuple[str, Sample]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, fields in rows:
            for field, content in fields.items():
                member = tarfile.TarInfo(f"{key}.{field}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training shards of 8 images, 6 to validate on and 4 to test on."""
    root = tmp_path_factory.mktemp("shards")
    shard(root / "train-000.tar", samples(range(8)))
    shard(root / "train-001.tar", samples(range(8, 16)))
    shard(root / "val-000.tar", samples(range(20, 26)))
    shard(root / "test" / "000.tar", samples(range(30, 34)))
    return root


def load(root: Path | str, **arguments: Any) -> tuple[IterableDataset, DatasetDict]:
    return load_streaming(DataArguments(str(root), **arguments))


def names(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A transform that decodes, and keeps the name in place of the pixels."""
    for image in rows["image"]:
        open_rgb(image)
    return {"pixel_values": rows["file"], "labels": rows["label"]}


def taken(stream: TrainingStream, count: int) -> list[str]:
    return [item["pixel_values"] for item in itertools.islice(stream, count)]


# What is read


def test_webdataset_shards_are_read_with_the_columns_of_other_data(shards: Path) -> None:
    train, splits = load(shards)
    rows = list(train)
    assert [row["file"] for row in rows] == [f"train-00{number // 8}.tar/{number:03d}" for number in range(16)]
    assert [row["label"] for row in rows] == [0, 1] * 8
    assert rows[1]["image"]["bytes"] == encoded(1, 1, "PNG")
    assert list(splits) == ["validation", "test"]
    assert splits["validation"].features == Features(
        {"image": Image(decode=False), "file": Value("string"), "label": ClassLabel(names=["real", "fake"])}
    )
    assert splits["test"]["file"][:] == [f"000.tar/{number:03d}" for number in range(30, 34)]
    assert splits["validation"][0]["image"]["bytes"] == encoded(0, 20)
    assert sum(1 for _ in load(f"{shards}/*.tar")[0]) == 16


def test_labels_sources_and_groups_are_read_from_json(tmp_path: Path) -> None:
    def told(numbers: range) -> Iterator[tuple[str, Sample]]:
        for number in numbers:
            about = {"is_fake": bool(number % 2), "source": "camera", "person": number, "other": [1, {"a": 2}]}
            yield str(number), {"JPG": encoded(number % 2, number), "json": json.dumps(about).encode()}

    shard(tmp_path / "train.tar", told(range(4)))
    shard(tmp_path / "validation.tar", told(range(4, 8)))
    train, splits = load(tmp_path, group_by="person")
    assert [(row["label"], row["source"], row["group"]) for row in train] == [
        (number % 2, "camera", str(number)) for number in range(4)
    ]
    assert splits["validation"]["label"][:] == [0, 1, 0, 1]
    assert splits["validation"]["group"][:] == ["4", "5", "6", "7"]


@pytest.mark.parametrize("names", [["real", "fake"], ["fake", "real"], None])
def test_parquet_shards_are_read_as_the_same_tables_are(names: list[str] | None, tmp_path: Path) -> None:
    for split, first in (("train", 0), ("validation", 10)):
        images = [{"bytes": encoded(number % 2, number), "path": None} for number in range(first, first + 6)]
        labels = [["REAL", "FAKE"][number % 2] for number in range(6)]
        path = tmp_path / split / "0000.parquet"
        path.parent.mkdir()
        if names is None:
            pd.DataFrame({"image": images, "target": labels, "source": "x"}).to_parquet(path)
        else:
            features = Features({"image": Image(), "label": ClassLabel(names=names), "source": Value("string")})
            columns = {"image": images, "label": [label.lower() for label in labels], "source": ["x"] * 6}
            Dataset.from_dict(columns, features=features).to_parquet(path)
    train, splits = load(tmp_path)
    assert [(row["label"], row["source"], row["file"]) for row in train] == [
        (number % 2, "x", f"train/{number}") for number in range(6)
    ]
    listed = load_data(DataArguments(str(tmp_path / "validation" / "0000.parquet")))["all"]
    held = splits["validation"]
    assert held["label"][:] == listed["label"][:] == [0, 1] * 3
    assert held["image"][:] == listed["image"][:]
    assert held.features == listed.features


def test_a_hub_id_is_streamed_with_its_configuration_and_revision(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []

    def fake_hub(*arguments: Any, **named: Any) -> IterableDatasetDict:
        asked.append((arguments, named))
        files = {"train": [str(shards / "train-000.tar")], "valid": [str(shards / "val-000.tar")]}
        fields = {name: Image() for name in ("jpg", "png")} | {"cls": Value("int64")}
        features = Features(fields | {"__key__": Value("string"), "__url__": Value("string")})
        loaded = datasets.load_dataset("webdataset", data_files=files, features=features, streaming=True)
        return IterableDatasetDict(loaded | {"extra": loaded["train"]})

    monkeypatch.setattr(tables, "load_dataset", fake_hub)
    train, splits = load("user/faces", dataset_config_name="small", dataset_revision="abc")
    assert asked == [(("user/faces", "small"), {"revision": "abc", "streaming": True})]
    assert [row["label"] for row in train] == [0, 1] * 4
    assert splits["validation"]["label"][:] == [0, 1] * 3
    assert "user/faces: split extra is no train, validation or test" in caplog.text


# What is refused


def test_data_without_a_split_to_train_or_validate_on_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"needs a train and a validation split; found \['train'\].*leave --streaming out"
    ):
        load(f"{shards}/train-*.tar")
    with pytest.raises(InputError, match=r"split; found \['validation'\]"):
        load(f"{shards}/val-*.tar")
    shard(tmp_path / "train.tar", samples(range(2)))
    shard(tmp_path / "faces.tar", samples(range(2)))
    with pytest.raises(InputError, match=r"faces\.tar: neither its name nor its folder's tells train"):
        load(tmp_path)


def test_only_shards_of_one_kind_are_streamed(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"only shards are streamed.*found \{\}.*without --streaming"):
        load(tmp_path)
    (tmp_path / "train.tar").touch()
    (tmp_path / "val.parquet").touch()
    with pytest.raises(InputError, match=r"found \{'\.tar': 1, '\.parquet': 1\}"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"none\.tar: no such file or folder, and no Hub id"):
        load("none.tar")
    with pytest.raises(InputError, match="--shuffle_buffer 0: must be at least 1"):
        load(shards, shuffle_buffer=0)


def test_shards_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    (tmp_path / "val.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"its shards cannot be read: .*[Pp]arquet"):
        load(tmp_path)


def test_shards_that_number_their_classes_differently_are_refused(tmp_path: Path) -> None:
    """Read by the names of the first, real photographs would be fakes."""
    image = {"bytes": encoded(0, 0), "path": None}
    for split, names in (("train", ["real", "fake"]), ("validation", ["fake", "real"])):
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        rows = Dataset.from_dict({"image": [image], "label": ["real"]}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(
        InputError, match=r"validation\.parquet: the classes of label are \['fake', 'real'\], but \['real'"
    ):
        load(tmp_path)


def test_a_split_that_cannot_be_measured_on_is_refused(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", samples(range(4)))
    shard(tmp_path / "val.tar", samples([0, 2]))
    with pytest.raises(InputError, match="the validation split has 2 images and not both classes"):
        load(tmp_path)
    assert len(load_streaming(DataArguments(str(tmp_path)), both_classes=False)[1]["validation"]) == 2
    shard(tmp_path / "val.tar", [("a", {"jpg": encoded(0, 0), "cls": b"fake"})])
    with pytest.raises(InputError, match=r"the validation split cannot be read: invalid literal for int.*'fake'"):
        load(tmp_path)
    shard(tmp_path / "val.tar", [])
    with pytest.raises(InputError, match="the validation split has no images"):
        load(tmp_path)


def test_data_that_do_not_tell_their_columns_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = IterableDataset.from_generator(lambda: iter([{"image": None}]))
    monkeypatch.setattr(tables, "load_dataset", lambda *_, **__: IterableDatasetDict(train=rows))
    with pytest.raises(InputError, match="user/faces: does not tell its columns"):
        load("user/faces")


def test_a_training_label_that_validation_does_not_have_is_refused_where_it_stands(tmp_path: Path) -> None:
    rows = [*samples(range(3)), ("odd", {"jpg": encoded(0, 0), "cls": b"2"})]
    shard(tmp_path / "train.tar", rows)
    shard(tmp_path / "val.tar", samples(range(4)))
    train, _ = load(tmp_path)
    with pytest.raises(InputError, match=r"train\.tar/odd: cls is '2', but the validation split.* has \['0', '1'\]"):
        list(TrainingStream(train, names))


def test_a_group_to_train_and_to_measure_on_is_a_leak(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", samples([0, 1, 7]))
    shard(tmp_path / "val.tar", samples(range(4, 8)))
    train, splits = load(tmp_path, group_by=r"\d+$")
    assert splits["validation"]["group"][:] == ["004", "005", "006", "007"]
    with pytest.raises(InputError, match=r"train\.tar/007: group '007' stands in validation and in train"):
        list(train)


# The stream that is trained on


def test_each_pass_reads_every_image_once_in_an_order_of_its_own(shards: Path) -> None:
    stream = TrainingStream(load(shards)[0], names, shuffle_buffer=6, seed=3)
    passes = [taken(stream, 48)[start : start + 16] for start in (0, 16, 32)]
    assert all(len(set(files)) == 16 for files in passes)
    assert len({tuple(files) for files in passes}) == 3
    assert {file.split("/")[0] for file in passes[0][:6]} == {"train-000.tar", "train-001.tar"}
    assert taken(stream, 48) == list(itertools.chain(*passes))
    assert taken(TrainingStream(stream.rows, names, 6, seed=4), 16) != passes[0]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_the_shards(workers: int, shards: Path) -> None:
    stream = pickle.loads(pickle.dumps(TrainingStream(load(shards)[0], names, shuffle_buffer=4)))
    loader = DataLoader(stream, batch_size=4, num_workers=workers)
    batches = [batch["pixel_values"] for batch in itertools.islice(loader, 4)]
    assert len(set(itertools.chain(*batches))) == 16
    by_shard = [{file.split("/")[0] for file in batch} for batch in batches]
    assert all(len(found) == 1 for found in by_shard) == (workers > 1)


def test_unreadable_images_are_listed_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = dict(samples(range(20)))
    broken = {f"b{number}": {"jpg": good["000"]["jpg"][: 200 + number], "cls": b"0"} for number in range(12)}
    no_image = {"none": {"cls": b"1"}}
    shard(tmp_path / "train.tar", (good | broken | no_image).items())
    shard(tmp_path / "val.tar", samples(range(4)))
    stream = TrainingStream(load(tmp_path)[0], names, shuffle_buffer=40)
    assert sorted(taken(stream, 40)[:20]) == [f"train.tar/{key}" for key in good]
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.startswith("left out: train.tar/")]) == 10
    assert "13 of 33 training images cannot be read" in lines


@pytest.mark.parametrize(("count", "found"), [(3, 3), (101, 100)])
def test_a_stream_without_a_readable_image_ends(count: int, found: int, tmp_path: Path) -> None:
    """Else an endless stream would be searched for ever."""
    shard(tmp_path / "train.tar", [(str(number), {"jpg": b"no image", "cls": b"0"}) for number in range(count)])
    shard(tmp_path / "val.tar", samples(range(4)))
    with pytest.raises(InputError, match=f"none of the first {found} training images can be read"):
        next(iter(TrainingStream(load(tmp_path)[0], names)))


def test_a_stream_that_breaks_off_says_so(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", [*samples(range(2)), ("a", {"jpg": encoded(0, 0), "cls": b"fake"})])
    shard(tmp_path / "val.tar", samples(range(4)))
    with pytest.raises(InputError, match=r"the stream of training images broke off: invalid literal.*'fake'"):
        list(TrainingStream(load(tmp_path)[0], names))


class _Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 3


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_trainer_trains_on_a_stream_and_resumes_to_the_same_weights(
    workers: int, shards: Path, tmp_path: Path
) -> None:
    """Interrupted in the second pass."""

    def trained(run: str, *callbacks: TrainerCallback, resume: bool = False) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        train, splits = load(shards)
        detector, processor, _ = new_detector(ModelArguments("test_resnet", image_size=32))
        transform = ImageTransform(processor)
        options = TrainingArguments(
            str(tmp_path / run),
            max_steps=4,
            per_device_train_batch_size=8,
            eval_strategy="steps",
            save_steps=3,
            eval_steps=3,
            learning_rate=3e-3,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            remove_unused_columns=False,
            dataloader_num_workers=workers,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            detector,
            options,
            data_collator=collate,
            train_dataset=TrainingStream(train, transform, shuffle_buffer=4),
            eval_dataset=splits["validation"].with_transform(transform),
            callbacks=list(callbacks),
        )
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == (3 if callbacks else 4)
        return dict(trainer.model.state_dict())

    whole = trained("whole")
    trained("resumed", _Stop())
    resumed = trained("resumed", resume=True)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainingArguments

from hf_deepfake.arguments import AugmentationArguments, DataArguments, ModelArguments
from hf_deepfake.errors import InputError
from hf_deepfake.recipe import load_recipe, parse_recipe, save_recipe

TYPES = (DataArguments, AugmentationArguments, ModelArguments, TrainingArguments)
NEEDED = ["--dataset_name", "images", "--model_name_or_path", "resnet18"]


def recipe(folder: Path, **keys: Any) -> str:
    path = folder / "vit.yaml"
    path.write_text(yaml.safe_dump(keys))
    return str(path)


def parse(*argv: str) -> Any:
    return parse_recipe(TYPES, argv, "hf-deepfake train")


def test_flags_override_the_recipe_which_overrides_defaults(tmp_path: Path) -> None:
    path = recipe(tmp_path, dataset_name="a", model_name_or_path="b", mix_prob=0.5, image_size=64)
    data, augmentation, model, _ = parse("--image_size", "96", "--config", path)
    assert (data.dataset_name, model.image_size, augmentation.mix_prob) == ("a", 96, 0.5)
    assert augmentation.transforms == ["light"]


@pytest.mark.parametrize("flag", [["--config", "{}"], ["--config={}"]])
def test_a_recipe_is_named_with_or_without_an_equals_sign(flag: list[str], tmp_path: Path) -> None:
    path = recipe(tmp_path, dataset_name="a", model_name_or_path="b")
    assert parse(*(word.format(path) for word in flag))[0].dataset_name == "a"


def test_booleans_lists_mappings_and_nulls_stand_in_a_recipe(tmp_path: Path) -> None:
    keys = {
        "use_cpu": True,
        "disable_tqdm": False,
        "label_names": ["labels", "masks"],
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "test_share": None,
        "learning_rate": "2e-4",  # YAML reads 2e-4 without a point as a word
    }
    data, _, _, training = parse("--config", recipe(tmp_path, **keys), *NEEDED)
    assert training.use_cpu is True
    assert training.disable_tqdm is False
    assert training.label_names == ["labels", "masks"]
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert data.test_share is None
    assert training.learning_rate == 2e-4


def test_a_value_may_start_with_a_dash(tmp_path: Path) -> None:
    data, *_ = parse("--config", recipe(tmp_path, group_by="-(p[0-9]+)-"), *NEEDED)
    assert data.group_by == "-(p[0-9]+)-"


def test_an_unknown_key_is_refused_and_a_near_one_suggested(tmp_path: Path) -> None:
    path = recipe(tmp_path, learning_rte=1e-4, zzz=1)
    with pytest.raises(
        InputError, match=r"vit\.yaml: unknown keys \['learning_rte', 'zzz'\]\. Did you mean \['learning_rate'\]\?$"
    ):
        parse("--config", path, *NEEDED)


def test_keys_that_are_no_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "on.yaml").write_text("on: epoch\n7: 2\nb: 3\n")
    with pytest.raises(InputError, match=r"on\.yaml: unknown keys \['True', '7', 'b'\]\.$"):
        parse("--config", str(tmp_path / "on.yaml"), *NEEDED)


def test_an_unknown_flag_is_refused_and_a_near_one_suggested() -> None:
    with pytest.raises(
        InputError, match=r"train: unknown flags \['--image_sise=3'\]\. Did you mean \['--image_size'\]"
    ):
        parse(*NEEDED, "--image_sise=3")
    with pytest.raises(InputError, match=r"unknown flags \['images2'\]\.$"):
        parse(*NEEDED, "images2")


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such recipe"):
        parse("--config", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not YAML: while parsing"), ("- a\n- b", "found list"), ("", "found NoneType"), ("word", "found str")],
)
def test_a_recipe_that_is_no_mapping_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"bad\.yaml: .*{message}") as caught:
        parse("--config", str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(InputError, match=r"bad\.yaml: not YAML: .* can't decode"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["mix_prob", "self_blend_prob"])
def test_a_chance_above_one_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"--{name} 1\.5: a chance is between 0 and 1"):
        parse(*NEEDED, f"--{name}", "1.5")


@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha", "transforms_strength"])
def test_a_negative_strength_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"--{name} -0\.5: cannot be below 0"):
        parse(*NEEDED, f"--{name}=-0.5")


def test_a_wrong_value_or_a_missing_flag_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([*NEEDED, "--image_size", "big"], ["--model_name_or_path", "resnet18"], [*NEEDED, "--config"]):
        with pytest.raises(SystemExit, match="2"):
            parse(*argv)
    assert "--dataset_name" in capsys.readouterr().err


def test_a_saved_recipe_makes_the_same_arguments_again(tmp_path: Path) -> None:
    given = ["--group_by=-(x)", "--test_share", "0.2", "--pretrained", "--model_args", '{"drop_rate": 0.2}']
    given += ["--output_dir", str(tmp_path / "run"), "--warmup_steps", "0.1", "--use_cpu", "--report_to", "none"]
    given += ["--lr_scheduler_kwargs", '{"num_cycles": 2}', "--eval_strategy", "epoch", "--hub_token", "hf_secret"]
    first = parse(*NEEDED, *given)
    save_recipe(first, tmp_path / "recipe.yaml")
    assert "secret" not in (tmp_path / "recipe.yaml").read_text()
    again = parse("--config", str(tmp_path / "recipe.yaml"))
    for before, after in zip(first, again, strict=True):
        for field in dataclasses.fields(before):
            if field.init and field.name != "hub_token":
                left, right = getattr(before, field.name), getattr(after, field.name)
                assert left == right or type(left).__name__ == "AcceleratorConfig", field.name

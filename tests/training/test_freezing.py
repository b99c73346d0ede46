from typing import Any

import pytest
import torch
from conftest import build_tiny_vit
from torch import nn
from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

from hf_deepfake.arguments import ModelArguments, TuningArguments
from hf_deepfake.errors import InputError
from hf_deepfake.models.blocks import parameter_blocks
from hf_deepfake.models.detector import new_detector
from hf_deepfake.models.lora import ADAPTER, add_adapters
from hf_deepfake.training.freezing import (
    Stage,
    Unfreezing,
    keep_frozen_at_rest,
    parameter_groups,
    set_trained,
    trained_parameters,
    training_stages,
)


def resnet(**model_args: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    detector: PreTrainedModel = new_detector(ModelArguments("test_resnet", image_size=32, **model_args))[0]
    return detector


def test_stages_are_what_the_flags_say() -> None:
    assert training_stages(TuningArguments()) == [Stage(0, "full")]
    tuning = TuningArguments(train="probe", unfreeze_at=["3:head+2", "6:full"])
    assert training_stages(tuning) == [Stage(0, "probe"), Stage(3, "head+2"), Stage(6, "full")]


@pytest.mark.parametrize(
    ("train", "unfreeze_at", "message"),
    [
        ("heads", [], r"--train heads: must be probe, head\+N"),
        ("head+0", [], r"--train head\+0: must be"),
        ("probe", ["full"], "--unfreeze_at full: needs EPOCHS:WHAT"),
        ("probe", ["2.5:full"], "--unfreeze_at 2.5:full: needs EPOCHS:WHAT"),
        ("probe", ["3:"], "--unfreeze_at 3:: needs EPOCHS:WHAT"),
        ("probe", ["3:all"], "--train all: must be"),
        ("head+2", ["3:head+2"], r"3:head\+2: has to come later and train more than head\+2 from epoch 0"),
        ("probe", ["3:head+2", "3:full"], r"3:full: has to come later and train more than head\+2 from epoch 3"),
        ("full", ["3:probe"], "3:probe: has to come later and train more than full"),
        ("lora", ["3:full"], "LoRA trains its adapters from the first to the last step"),
    ],
)
def test_stages_that_make_no_sense_are_refused(train: str, unfreeze_at: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_stages(TuningArguments(train=train, unfreeze_at=unfreeze_at))


def test_the_head_and_as_many_blocks_as_named_are_trained() -> None:
    detector = resnet()
    blocks = parameter_blocks(detector)
    assert trained_parameters(detector, "probe") == set(blocks[-1])
    assert trained_parameters(detector, "head+2") == {name for names in blocks[-3:] for name in names}
    assert trained_parameters(detector, "full") == {name for name, _ in detector.named_parameters()}
    set_trained(detector, "head+2")
    assert {n for n, p in detector.named_parameters() if p.requires_grad} == trained_parameters(detector, "head+2")
    with pytest.raises(InputError, match=r"--train head\+6: timm_wrapper has 5 blocks"):
        trained_parameters(detector, "head+6")


def test_lora_trains_the_head_and_the_adapters() -> None:
    detector = build_tiny_vit(32)
    add_adapters(detector, 2, 4, torch.zeros(1, 3, 32, 32))
    trained = trained_parameters(detector, "lora")
    assert {name for name in trained if ADAPTER not in name} == {"classifier.weight", "classifier.bias"}
    assert {name for name, _ in detector.named_parameters() if ADAPTER in name} <= trained


@pytest.mark.parametrize("train", ["probe", "head+2"])
def test_frozen_batch_norms_keep_their_statistics_in_training(train: str) -> None:
    detector = resnet()
    set_trained(detector, train)
    keep_frozen_at_rest(detector)
    before = {name: tensor.clone() for name, tensor in detector.named_buffers()}
    detector.train()(pixel_values=torch.randn(4, 3, 32, 32))
    moved = {
        name.rpartition(".")[0] for name, tensor in detector.named_buffers() if not torch.equal(tensor, before[name])
    }
    norms = {name for name, module in detector.named_modules() if isinstance(module, nn.BatchNorm2d)}
    trained = {name.rpartition(".")[0] for name in trained_parameters(detector, train)}
    assert moved == norms & trained
    assert bool(moved) == (train == "head+2")


def test_what_is_frozen_drops_nothing_and_the_head_still_does() -> None:
    detector = resnet(model_args='{"drop_rate": 0.5, "drop_path_rate": 0.5}')
    nn.init.normal_(detector.timm_model.fc.weight)
    set_trained(detector, "probe")
    keep_frozen_at_rest(detector)
    seen: list[torch.Tensor] = []
    detector.timm_model.global_pool.register_forward_hook(lambda module, args, output: seen.append(output))
    pixel_values = torch.randn(4, 3, 32, 32)
    logits = [detector.train()(pixel_values=pixel_values).logits for _ in range(2)]
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    assert not torch.equal(logits[0], logits[1])


def test_a_part_without_parameters_does_as_the_next_one_that_has_some() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(1, 1)
            self.early = nn.Dropout()
            self.blocks = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.Dropout()), nn.Sequential(nn.Linear(1, 1)))
            self.late = nn.Dropout()
            self.head = nn.Linear(1, 1)

    network = Network()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(("blocks.1", "head")))
    network.forward = lambda x: x  # type: ignore[method-assign]
    keep_frozen_at_rest(network)  # type: ignore[arg-type]
    network.train()(torch.zeros(1))
    at_rest = {name for name, module in network.named_modules() if not module.training}
    assert at_rest == {"embed", "early", "blocks.0", "blocks.0.0", "blocks.0.1"}


def test_layers_learn_the_slower_the_lower_they_are() -> None:
    detector = build_tiny_vit(32)
    stem, first, last, head = parameter_blocks(detector)
    decayed = {name for name, parameter in detector.named_parameters() if parameter.ndim > 1}
    trained = trained_parameters(detector, "full")
    groups = parameter_groups(detector, trained, decayed, 0.1, 0.05, 0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for names, rate in ((head, 0.1), (last, 0.05), (first, 0.025), (stem, 0.0125)):
        assert [rates[id(detector.get_parameter(name))] for name in names] == pytest.approx([rate] * len(names))
    assert all(decays[id(p)] == (0.05 if p.ndim > 1 else 0) for p in detector.parameters())
    assert groups[0]["lr"] == 0.1


def test_without_layer_decay_there_are_two_groups_of_what_is_ever_trained() -> None:
    detector = build_tiny_vit(32)
    trained = trained_parameters(detector, "head+1")
    groups = parameter_groups(detector, trained, {"classifier.weight"}, 0.1, 0.05, None)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert held == {id(detector.get_parameter(name)) for name in trained}


@pytest.mark.parametrize(
    ("epoch", "train"), [(None, "probe"), (0.0, "probe"), (1.5, "probe"), (2.0, "head+1"), (7.5, "full")]
)
def test_the_stage_of_the_epoch_is_trained_also_after_an_interruption(
    epoch: float | None, train: str, tmp_path: Any
) -> None:
    detector = build_tiny_vit(32)
    unfreezing = Unfreezing(detector, [Stage(0, "probe"), Stage(2, "head+1"), Stage(5, "full")])
    state = TrainerState(epoch=epoch)
    unfreezing.on_epoch_begin(TrainingArguments(str(tmp_path), use_cpu=True), state, TrainerControl())
    assert {n for n, p in detector.named_parameters() if p.requires_grad} == trained_parameters(detector, train)

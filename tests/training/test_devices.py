import itertools
import json
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import assert_same_weights, build_tiny_vit, save_tiny_vit, training_arguments
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Trainer,
    TrainerState,
    TrainingArguments,
    ViTImageProcessor,
)

from hf_deepfake import InputError
from hf_deepfake.arguments import AugmentationArguments, FittingArguments, ModelArguments
from hf_deepfake.data.augmentation import TRANSFORMS
from hf_deepfake.data.faces import find_cropper
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.transforms import ImageTransform
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import ImageReader
from hf_deepfake.labels import ID2LABEL, LABEL2ID
from hf_deepfake.models.detector import new_detector
from hf_deepfake.training import devices, losses
from hf_deepfake.training import train as training_module
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.resuming import complete_checkpoint, complete_checkpoints
from hf_deepfake.training.train import train
from hf_deepfake.training.trainer import build_trainer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def out_of_memory(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """Training batches above `largest` images fail as they do on a full GPU."""
    loss = losses.cross_entropy

    def failing(outputs: Any, labels: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(labels) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(outputs, labels, *args, **kwargs)

    monkeypatch.setattr("hf_deepfake.training.trainer.cross_entropy", failing)


def test_out_of_memory_shrinks_the_batches_and_lengthens_the_schedule(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """28 training images: 5 batches of 6, of which two make a step, where 8 were asked for."""
    out_of_memory(monkeypatch, 6)
    choices = {"auto_find_batch_size": True, "gradient_accumulation_steps": 2, "lr_step_epochs": 1}
    run = train(*training_arguments(image_folder, tmp_path / "run", **choices))
    state = json.loads((run / "trainer_state.json").read_text())
    assert (state["train_batch_size"], state["global_step"], state["epoch"]) == (6, 6, 2)
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates == pytest.approx([3e-3, 3e-4])
    assert "out of memory: batches of 6 instead of 8" in caplog.text


def test_no_checkpoint_of_too_large_batches_passes_for_the_latest(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of 4 steps go well before batches are too large; then an epoch has 5 steps."""
    loss, calls = losses.cross_entropy, itertools.count(1)
    latest: list[str] = []

    def failing(outputs: Any, labels: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and next(calls) > 8 and len(labels) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(outputs, labels, *args, **kwargs)

    def completed(run: Path, *args: Any) -> None:
        complete_checkpoint(run, *args)
        latest.append(complete_checkpoints(run)[-1].name)

    monkeypatch.setattr("hf_deepfake.training.trainer.cross_entropy", failing)
    monkeypatch.setattr("hf_deepfake.training.trainer.complete_checkpoint", completed)
    choices = {"auto_find_batch_size": True, "num_train_epochs": 3}
    train(*training_arguments(image_folder, tmp_path / "run", **choices))
    assert latest == [f"checkpoint-{step}" for step in (4, 8, 5, 10, 15)]


def test_out_of_memory_says_what_to_do(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory(monkeypatch, 6)
    with pytest.raises(InputError, match=r"out of memory .* batches of 8: pass --auto_find_batch_size true"):
        train(*training_arguments(image_folder, tmp_path / "run"))


def test_out_of_memory_in_an_evaluation_names_its_own_batches(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = losses.cross_entropy

    def failing(*args: Any, **kwargs: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(*args, **kwargs)

    monkeypatch.setattr("hf_deepfake.training.trainer.cross_entropy", failing)
    choices = {"auto_find_batch_size": True, "per_device_eval_batch_size": 8}
    with pytest.raises(InputError, match=r"in evaluation .* of 8: pass a smaller --per_device_eval_batch_size"):
        train(*training_arguments(image_folder, tmp_path / "run", **choices))


def test_a_process_asks_the_others_before_it_takes_smaller_batches(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def built(*args: Any, **kwargs: Any) -> Any:
        trainer = build_trainer(*args, **kwargs)
        trainer.shortage = lambda error, batch_size: asked.append(batch_size)  # type: ignore[assignment,func-returns-value]
        return trainer

    monkeypatch.setattr(training_module, "build_trainer", built)
    out_of_memory(monkeypatch, 6)
    train(*training_arguments(image_folder, tmp_path / "run", auto_find_batch_size=True))
    assert asked == [8, 7]


def build_tiny_dinov2() -> Dinov2ForImageClassification:
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    return Dinov2ForImageClassification(Dinov2Config(**settings, id2label=ID2LABEL, label2id=LABEL2ID))


@pytest.mark.parametrize(("architecture", "idle"), [("dinov2", True), ("vit", False), ("test_resnet", False)])
def test_processes_wait_for_no_gradient_that_never_comes(
    architecture: str, idle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DINOv2 has a token for masked patches, of which a detector sees none."""
    built = {"dinov2": build_tiny_dinov2, "vit": lambda: build_tiny_vit(32)}
    other = built.get(architecture, lambda: new_detector(ModelArguments(architecture, image_size=32))[0])
    detector = other().train()
    buffers = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    rows = Dataset.from_dict({"label": [0, 1], "pixel_values": torch.rand(2, 3, 32, 32).tolist()})
    views, collator = {"train": rows, "validation": rows}, MixingCollator(AugmentationArguments())
    options, processor = options_for(tmp_path), ViTImageProcessor()
    monkeypatch.setattr(DetectorTrainingArguments, "world_size", 2)
    build_trainer(detector, processor, views, collator, FittingArguments(), options, rows)
    assert options.ddp_find_unused_parameters is idle
    assert all(torch.equal(buffers[name], buffer) for name, buffer in detector.named_buffers())
    assert detector.training
    assert all(parameter.grad is None for parameter in detector.parameters())


def run_out(rank: int, store: str) -> None:
    """What each of two processes does: run out of memory together, then one alone, then the other."""
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    error = torch.OutOfMemoryError("CUDA out of memory.")
    devices.SharedShortage()(error, 8)
    for alone in range(2):
        shortage = devices.SharedShortage(patience=1)
        shortage(RuntimeError("something else"), 8)
        if rank == alone:
            with pytest.raises(
                InputError, match=f"process {rank} alone ran out .*--per_device_train_batch_size below 8"
            ):
                shortage(error, 8)
        dist.barrier()


@pytest.mark.slow  # two processes import torch and wait for each other
def test_several_processes_take_smaller_batches_together_or_not_at_all(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_out, (f"file://{tmp_path / 'store'}",), nprocs=2)


def test_no_batch_size_at_all_is_said_as_well() -> None:
    with (
        pytest.raises(InputError, match="out of memory in training: pass less;"),
        devices.memory_advice("training", "less"),
    ):
        raise RuntimeError("No executable batch size found, reached zero.")
    with pytest.raises(RuntimeError, match="else"), devices.memory_advice("training", "less"):
        raise RuntimeError("something else")


def test_the_batch_size_that_was_asked_for_is_not_worth_a_word(tmp_path: Path, caplog: Any) -> None:
    options = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    notice = devices.BatchSizeNotice()
    notice.on_train_begin(options, TrainerState(train_batch_size=8), None)  # type: ignore[arg-type]
    assert not caplog.text
    notice.on_train_begin(options, TrainerState(train_batch_size=7), None)  # type: ignore[arg-type]
    assert "batches of 7 instead of 8" in caplog.text


def options_for(tmp_path: Path, **choices: Any) -> DetectorTrainingArguments:
    return DetectorTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **choices)


def test_half_precision_of_the_launcher_is_refused_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(InputError, match="--fp16 needs a GPU"):
        devices.check_devices(options_for(tmp_path))
    devices.check_devices(options_for(tmp_path, bf16=True))  # a flag goes before the launcher


@pytest.mark.parametrize("accelerator", [False, True])
def test_bf16_needs_no_other_flag_where_there_is_only_a_cpu(
    accelerator: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer refuses it there without --use_cpu; what it would train on is asked of PyTorch."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: accelerator)
    options = DetectorTrainingArguments(output_dir=str(tmp_path), bf16=True, dataloader_num_workers=0)
    assert options.use_cpu != accelerator


@pytest.mark.parametrize(("native", "warned"), [(True, False), (False, True)])
def test_bf16_is_warned_of_where_the_cpu_emulates_it(
    native: bool, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    devices.check_devices(options_for(tmp_path, bf16=True))
    assert ("this CPU emulates bf16, which is slower than float32: pass --bf16 false" in caplog.text) == warned


def test_bf16_is_warned_of_on_a_gpu_that_emulates_it(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A T4 says that it supports bf16, unless asked without emulation."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    device = SimpleNamespace(type="cuda")
    devices.check_devices(SimpleNamespace(device=device, fp16=False, bf16=True, torch_compile=False))  # type: ignore[arg-type]
    assert "pass --bf16 false --fp16 true" in caplog.text


def test_compilation_without_a_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")  # which Trainer's arguments leave set; so it is undone
    with pytest.raises(InputError, match=r"--torch_compile: a C\+\+ compiler is not installed"):
        devices.check_devices(options_for(tmp_path, torch_compile=True))


def test_tf32_without_its_gpu_is_refused(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tf32 requires Ampere"):
        training_arguments(image_folder, tmp_path / "run", tf32=True)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_vit", "hf_vit"])
def test_checkpointed_activations_give_the_same_gradient(architecture: str, tmp_path: Path) -> None:
    base = str(save_tiny_vit(tmp_path)) if architecture == "hf_vit" else architecture
    pixel_values = torch.rand(4, 3, 24, 24) if architecture == "hf_vit" else torch.rand(4, 3, 32, 32)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        size = None if architecture == "hf_vit" else 32
        detector = new_detector(ModelArguments(base, image_size=size))[0].train()
        devices.check_checkpointing(detector, SimpleNamespace(gradient_checkpointing=True))  # type: ignore[arg-type]
        if checkpointed:
            detector.activation_checkpointing_enable()
        torch.manual_seed(0)
        detector(pixel_values).logits[:, 1].sum().backward()
        gradients.append([parameter.grad for parameter in detector.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_activations_that_cannot_be_checkpointed_are_refused(tmp_path: Path) -> None:
    detector = new_detector(ModelArguments("test_resnet", image_size=32))[0]
    detector.supports_gradient_checkpointing = False
    with pytest.raises(InputError, match="--activation_checkpointing: test_resnet cannot"):
        devices.check_checkpointing(detector, options_for(tmp_path, activation_checkpointing=True))


@pytest.mark.parametrize(
    ("platform", "on_gpu", "processes", "workers"),
    [("linux", True, "1", 6), ("linux", True, "2", 3), ("linux", False, "1", 0), ("win32", True, "1", 0)],
)
def test_workers_fit_the_machine(
    platform: str, on_gpu: bool, processes: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert devices.default_workers(on_gpu) == workers


def test_the_number_of_workers_that_is_given_is_kept(tmp_path: Path) -> None:
    assert options_for(tmp_path).dataloader_num_workers == 0
    assert options_for(tmp_path, dataloader_num_workers=2).dataloader_num_workers == 2


@pytest.mark.parametrize("architecture", ["test_resnet", "hf_vit"])
def test_what_workers_need_travels_to_a_fresh_process(architecture: str, tmp_path: Path) -> None:
    """As on Windows, where a worker is no copy of the process that starts it."""
    base = str(save_tiny_vit(tmp_path)) if architecture == "hf_vit" else architecture
    processor = new_detector(ModelArguments(base))[1]
    everything = AugmentationArguments(
        transforms=list(TRANSFORMS), train_crop_size=16, self_blend_prob=0.5, mixup_alpha=0.2, cutmix_alpha=1
    )
    faces = find_cropper("auto", "--face_detector")
    for part in (ImageTransform(processor, everything, ImageReader(32), faces), MixingCollator(everything)):
        assert len(ForkingPickler.dumps(part)) > 0


@pytest.mark.slow  # each epoch starts a process that imports torch
def test_workers_that_start_afresh_read_the_same_images(image_folder: Path, tmp_path: Path) -> None:
    """Without chance in the images, a worker changes nothing."""
    choices = {"transforms": "none", "num_train_epochs": 1}
    here = train(*training_arguments(image_folder, tmp_path / "here", **choices))
    spawned = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}
    there = train(*training_arguments(image_folder, tmp_path / "there", **choices, **spawned))
    assert_same_weights(there / "model.safetensors", here / "model.safetensors")


@pytest.mark.slow  # compiles for a minute
def test_a_compiled_training_leaves_a_plain_checkpoint(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")  # which Trainer's arguments leave set; so it is undone
    choices = {"model_name_or_path": "test_vit", "image_size": 32, "learning_rate": 5e-5, "num_train_epochs": 1}
    plain = train(*training_arguments(image_folder, tmp_path / "plain", **choices))
    compiled = train(*training_arguments(image_folder, tmp_path / "compiled", torch_compile=True, **choices))
    weights = load_file(compiled / "model.safetensors")
    for name, tensor in load_file(plain / "model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_accelerate_configuration_can_be_launched(config: Path) -> None:
    """By accelerate's own reading, without starting anything."""
    command = ["--config_file", str(config), "recipes/train.py"]
    options, loaded, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    gpus = loaded.distributed_type in ("MULTI_GPU", "FSDP") and not loaded.use_cpu
    assert options.num_processes == (2 if gpus or config.stem == "cpu_2_processes" else 1)
    assert options.mixed_precision == ("fp16" if config.stem == "two_t4s" else "no")
    assert options.use_fsdp == (config.stem == "fsdp")


def test_sharded_checkpoints_are_gathered() -> None:
    options, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(ROOT / "recipes/accelerate/fsdp.yaml"), "train.py"])
    )
    assert (options.fsdp_version, options.fsdp_state_dict_type) == (2, "FULL_STATE_DICT")


@pytest.mark.slow
def test_a_sharded_training_goes_on_with_its_whole_checkpoint(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shards would leave is stood in for by other weights: those of the checkpoint count."""
    finish = training_module.finish

    def finish_sharded(trainer: Any, *args: Any, **kwargs: Any) -> None:
        trainer.is_fsdp_enabled = True
        torch.nn.init.zeros_(next(trainer.model.parameters()))
        finish(trainer, *args, **kwargs)

    monkeypatch.setattr(training_module, "finish", finish_sharded)
    choices = {"num_train_epochs": 1, "keep_checkpoints": True}
    run = train(*training_arguments(image_folder, tmp_path / "run", **choices))
    (checkpoint,) = run.glob("checkpoint-*/model.safetensors")
    assert_same_weights(run / "model.safetensors", checkpoint)
    assert (run / "results.json").is_file()


@pytest.mark.parametrize("choices", [{"ema_decay": 0.9}, {"auto_find_batch_size": True}])
def test_what_shards_cannot_do_is_refused(
    choices: dict[str, Any], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Trainer.create_accelerator_and_postprocess

    def start_sharding(trainer: Trainer) -> None:
        start(trainer)
        trainer.is_fsdp_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", start_sharding)
    with pytest.raises(InputError, match=f"--{next(iter(choices))}: .*FSDP"):
        train(*training_arguments(image_folder, tmp_path / "run", **choices))


def test_shards_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path)), is_fsdp_enabled=True, state=TrainerState()
    )
    with pytest.raises(InputError, match="FSDP: no checkpoint was saved"):
        training_module.finish(trainer, {}, {}, 0.0)  # type: ignore[arg-type]

"""
A small training run on generated scenes, for tests that kill it, resume it, or run it in several processes.

    torchrun --nproc_per_node 2 tests/helpers/distributed_training.py '[["OUTPUT", {"max_steps": 6}]]'

runs one training after the other, each in its own folder.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from setr_hf import (
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
    SetrTrainer,
    SetrTrainingArguments,
    add_lora,
)
from setr_hf.data.augmentation import training_transform
from setr_hf.data.examples import TrainingExamples, collate, evaluation_examples
from setr_hf.data.rows import SegmentationData
from setr_hf.data.scenes import make_scenes


CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "decoder_hidden_size": 8,
    "decoder_type": "naive",
    "semantic_loss_average": "all",
}
ARGUMENTS = {
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "learning_rate": 0.01,
    "head_learning_rate_ratio": 10,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 0.9, "min_lr": 1e-4},
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "seed": 3,
}
SCALARS = ("loss", "learning_rate", "head_learning_rate", "grad_norm", "eval_mean_iou", "epoch", "step")


class RecordedExamples(TrainingExamples):
    """Notes in a file which examples are read in which epoch."""

    def __init__(self, *args, record: Path):
        super().__init__(*args)
        self.record = record

    def __getitem__(self, index):
        with self.record.open("a") as file:
            file.write(f"{self.epoch.item()} {index}\n")
        return super().__getitem__(index)


def crop_differently(row: dict, index: int) -> dict:
    box = (0, 0, 160 - 24 * index, 128 - 16 * (index % 3))
    return {"image": row["image"].crop(box), "annotation": row["annotation"].crop(box)}


def make_trainer(
    output_dir: str | Path,
    arguments: dict,
    config: dict | None = None,
    trainer_class=SetrTrainer,
    lora: int | None = None,
    **options,
) -> SetrTrainer:
    """
    A trainer of a small SETR, with adapters if `lora` is their rank, on 12 scenes, evaluated on 5 of several sizes,
    which have several windows.
    """
    torch.set_num_threads(1)
    arguments = SetrTrainingArguments(str(output_dir), **{**ARGUMENTS, **arguments})
    data = make_scenes(12, 0)
    validation = make_scenes(5, 100).rows.map(crop_differently, with_indices=True)
    processor = SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=48)
    transform = training_transform((32, 32), (0.5, 1.0), None, processor.image_mean, processor.image_std)
    record = Path(output_dir) / f"examples-{arguments.process_index}.txt"
    record.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    model = SetrForSemanticSegmentation(SetrConfig(**{**CONFIG, **(config or {})}, id2label=data.label_set.id2label))
    return trainer_class(
        add_lora(model, lora) if lora else model,
        arguments,
        train_dataset=RecordedExamples(data, transform, 7, record=record),
        eval_dataset=evaluation_examples(SegmentationData(validation, data.label_set)),
        data_collator=collate,
        processing_class=processor,
        **options,
    )


def history(trainer: SetrTrainer) -> list[dict]:
    """What was logged, without times."""
    rows = [{key: row[key] for key in SCALARS if key in row} for row in trainer.state.log_history]
    return [row for row in rows if {"loss", "eval_mean_iou"} & set(row)]


def run(output_dir: str | Path, arguments: dict, resume: bool = False, killed_at: str | int | None = None):
    """
    Trains, and saves the model and what was logged in `output_dir`. With `killed_at` the process gets a SIGKILL when
    it is about to write the file of that name, or at the change of that number, see [`kill_at_change`].
    """
    if isinstance(killed_at, int):
        kill_at_change(killed_at, Path(output_dir))
    elif killed_at:
        sys.addaudithook(partial(kill_at, killed_at))
    config, lora = arguments.pop("config", None), arguments.pop("lora", None)
    trainer = make_trainer(output_dir, arguments, config, SlowToSave if killed_at else SetrTrainer, lora)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    if trainer.is_world_process_zero():
        (Path(output_dir) / "history.json").write_text(json.dumps(history(trainer)))


class SlowToSave(SetrTrainer):
    """The second process comes late with what each process saves."""

    def _save_rng_state(self, output_dir):
        if self.args.process_index == 1:
            time.sleep(1)
        super()._save_rng_state(output_dir)


def start(function, *args) -> multiprocessing.Process:
    """Calls a function in a process of its own. Packages are imported once, for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["setr_hf.data.scenes", "setr_hf.training.trainer"])
    process = context.Process(target=function, args=args)
    process.start()
    return process


def run_as_one_of_two(rank: int, port: int, fsdp: bool, *args):
    """[`run`], started as torchrun starts it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    if fsdp:
        let_fsdp_run_on_cpu()
    run(*args)


def kill_at(name: str, event: str, args: tuple):
    if event == "open" and args[1] == "w" and str(args[0]).endswith(name):
        os.kill(os.getpid(), signal.SIGKILL)


def kill_at_change(number: int, folder: Path):
    """
    From now on, this process notes in `folder.with_suffix(".log")` each change of a name in `folder`: a file opened to
    be written, renamed or deleted, a folder made or deleted. Before the change of this number, it gets a SIGKILL.
    """
    changes = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
    log = folder.with_suffix(".log").open("a")
    count = 0

    def hook(event: str, args: tuple):
        nonlocal count
        if event not in changes and not (event == "open" and "w" in str(args[1])):
            return
        # What is deleted with a whole folder has no path.
        in_deletion = event in ("os.remove", "os.rmdir") and args[1] != -1
        if in_deletion or str(args[0]).startswith(f"{folder}/"):
            count += 1
            log.write(f"{event} {args[0]}\n")
            log.flush()
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def let_fsdp_run_on_cpu():
    """
    Accelerate shards on accelerators only and would train by DDP here, although torch's FSDP2 works with gloo. It is
    made to see an accelerator when it decides, and then runs on the CPU.
    """
    decide = AcceleratorState.__init__

    def decide_for_fsdp(self, *args, **kwargs):
        if PartialState(cpu=True).distributed_type == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_NPU
        decide(self, *args, **kwargs)

    AcceleratorState.__init__ = decide_for_fsdp


if __name__ == "__main__":
    for folder, options in json.loads(sys.argv[1]):
        run(folder, options)

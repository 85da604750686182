"""
What each of several processes sees of the data in a folder; a test starts it by

    torchrun --nproc_per_node 2 tests/helpers/distributed_data.py FOLDER OUTPUT
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms import v2
from transformers import Trainer, TrainingArguments

from setr_hf.data.checks import checked_samples
from setr_hf.data.examples import collate, training_examples
from setr_hf.data.loading import load_segmentation_data


def seen(trainer: Trainer) -> list[int]:
    """The red values of the photos in the batches of an epoch, which in the test's folder are their numbers."""
    return [int(value) for batch in trainer.get_train_dataloader() for value in batch["pixel_values"][:, 0, 0, 0]]


def main(folder: str, output: str):
    arguments = TrainingArguments(
        output,
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=2,
        dataloader_num_workers=2,
        accelerator_config={"dispatch_batches": False},
        remove_unused_columns=False,
        report_to=[],
    )
    data = load_segmentation_data(folder, "train")
    try:
        checked_samples(data)
    except ValueError as error:
        message = str(error)
    data = checked_samples(data, skip_bad_samples=True)
    stream = load_segmentation_data(folder, "train", streaming=True)
    transform = v2.ToDtype(torch.float32)
    report = {"error": message, "kept": data.rows["name"][:]}
    for kind, source in (("read", data), ("streamed", stream)):
        examples = training_examples(source, transform, skip_bad_samples=True)
        trainer = Trainer(nn.Linear(1, 1), arguments, train_dataset=examples, data_collator=collate)
        report[kind] = seen(trainer)
    (Path(output) / f"{arguments.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""
What each of several processes says of a loss that is not finite in one of them; a test starts it by

    torchrun --nproc_per_node 2 tests/helpers/distributed_divergence.py OUTPUT
"""

import json
import sys
from pathlib import Path

from distributed_training import RecordedExamples, make_trainer


class Poisoned(RecordedExamples):
    def __getitem__(self, index):
        example = super().__getitem__(index)
        if index == 7:
            example["pixel_values"][0, 5, 5] = float("nan")
        return example


def main(output: str):
    trainer = make_trainer(output, {"max_steps": 6, "per_device_train_batch_size": 2, "max_grad_norm": 0.0})
    trainer.train_dataset.__class__ = Poisoned
    try:
        trainer.train()
    except ValueError as error:
        message = str(error)
    is_finite = all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())
    report = {"message": message, "step": trainer.state.global_step, "is_finite": is_finite}
    (Path(output) / f"{trainer.args.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A disk that is full before, during or at the end of a run: one line, and all that was complete still is."""

import pytest
from distributed_training import make_trainer
from small_disk import small_disk

from setr_hf import SetrForSemanticSegmentation
from setr_hf.errors import SetrError
from setr_hf.files import size_of
from setr_hf.training.output_folder import checkpoint_bytes, checkpoint_folders, is_complete


ARGUMENTS = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "num_prediction_pictures": 0}


def whole_run(folder):
    trainer = make_trainer(folder, ARGUMENTS)
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", {"eval_mean_iou": 0.5})
    trainer.create_model_card()


def test_a_disk_without_room_for_a_checkpoint_is_named_before_the_first_step(tmp_path):
    trainer = make_trainer(tmp_path, ARGUMENTS)
    weights = sum(tensor.nbytes for tensor in trainer.model.state_dict().values())
    momentum = sum(weight.nbytes for weight in trainer.model.parameters())
    with small_disk(tmp_path / "disk", (weights + momentum) // 4096 * 4096) as disk:
        trainer.args.output_dir = str(disk)
        with pytest.raises(SetrError, match=r"disk/checkpoint is not written: it needs .* so .* are missing"):
            trainer.train()
        assert trainer.state.global_step == 0
        assert not list(disk.iterdir())


@pytest.mark.parametrize("arguments", [{"optim": "adamw_torch", "optim_args": None}, {"optim_args": None}, {}])
def test_what_an_optimizer_will_keep_is_known_before_the_first_step(tmp_path, arguments):
    """Two moments, none, or one; afterwards it is what it keeps."""
    trainer = make_trainer(tmp_path, ARGUMENTS | arguments | {"max_steps": 1, "save_strategy": "no"})
    optimizer = trainer.create_optimizer()
    before = checkpoint_bytes(trainer.model, optimizer)
    trainer.train()
    after = checkpoint_bytes(trainer.model, trainer.optimizer)
    counters = sum(state["step"].nbytes for state in trainer.optimizer.state.values() if "step" in state)
    assert before == after - counters


def test_wherever_the_disk_is_full_what_was_complete_still_is(tmp_path):
    whole_run(tmp_path / "whole")
    checkpoint = size_of(tmp_path / "whole" / "checkpoint-1")
    total = size_of(tmp_path / "whole")
    num_complete = set()
    for part in range(2, 12):
        num_bytes = part * total // 12 // 4096 * 4096
        with small_disk(tmp_path / f"disk-{part}", num_bytes) as disk:
            with pytest.raises(SetrError, match=r"^\S+ is not written: ") as error:
                whole_run(disk / "run")
            checkpoints = checkpoint_folders(disk / "run")
            assert all(is_complete(checkpoint) for checkpoint in checkpoints)
            assert len(checkpoints) >= min(3, num_bytes // checkpoint - 1)
            if checkpoints and len(checkpoints) < 3:
                assert str(error.value).endswith(f"--resume-from-checkpoint True goes on from {checkpoints[-1]}")
            if (disk / "run/model.safetensors").exists():
                SetrForSemanticSegmentation.from_pretrained(disk / "run")
            assert not list(disk.rglob(".*"))
            num_complete.add(len(checkpoints))
    assert num_complete == {0, 1, 2, 3}

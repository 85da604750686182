"""`Trainer` for SETR: the paper's rates and test protocol, and runs that survive being killed.

Where [`SetrTrainer`] overrides a private method, a comment says what that mends in Transformers 5.17 to 5.23.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import EvalPrediction, PreTrainedModel, SchedulerType, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import EvalLoopOutput, HubStrategy, SaveStrategy, TrainOutput, has_length
from transformers.training_args import OptimizerNames, ParallelMode
from transformers.utils import logging

from ..cards.model_card import write_model_card
from ..data.examples import TrainingExamples
from ..errors import SetrError
from ..files import check_space, read_text, whole_file
from ..inference.loading import ADAPTER_FOLDER
from ..inference.sliding_windows import segment
from ..metrics import confusion_matrix, segmentation_scores
from ..model.image_processing_setr import SetrImageProcessor
from ..text import markdown_text
from .adapters import FOR_WHOLE_WEIGHTS, MERGED, is_adapted, load_adapter_weights, lora_rows, merged, save_adapter
from .arguments import SCORES, SetrTrainingArguments
from .averaging import WeightAverage
from .encoder_layers import find_encoder, freeze_encoder
from .features import FEATURE_FOLDER, NO_FOLDER, FeatureExamples, FrozenEncoder
from .finite import NAMES, FiniteSteps, NamedBatches, check_finite_weights, spread_to_gradients
from .optimization import freeze_layers, parameter_groups, poly_schedule
from .output_folder import (
    bytes_of,
    checkpoint_bytes,
    is_checkpoint,
    is_complete,
    last_complete_checkpoint,
    remove_incomplete_checkpoints,
    remove_old_checkpoints,
    whole_checkpoint,
    whole_model,
)
from .prediction_pictures import PredictionSamples, publish_picture
from .resumption import RESUMED_OTHERWISE, check_checkpoint, check_same_settings, group_settings
from .run_card import RunFacts, run_facts


logger = logging.get_logger(__name__)


class MeanIouOfMatrices:
    """`compute_metrics` of [`SetrTrainer`]: scores of the sum of all confusion matrices."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what an evaluation that did not reach its end has added."""
        self.total: Any = 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self.total = self.total + torch.as_tensor(prediction.predictions).sum(dim=0).cpu().numpy()
        if not compute_result:
            return {}
        scores = segmentation_scores(self.total)
        self.reset()
        return {name: scores[name] for name in SCORES}


class EpochOfExamples(TrainerCallback):
    """Calls `set_epoch` of the examples. Accelerate's loaders pass the epoch on to a sampler, if there is one."""

    def __init__(self, examples: Any) -> None:
        self.examples = examples
        self.epoch = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        # Of a resumed run, the epoch in which it stopped.
        self.epoch = int(state.epoch or 0)

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        # Counted, as `state.epoch` is not whole after an epoch of a stream, whose length is not known.
        if hasattr(self.examples, "set_epoch"):
            self.examples.set_epoch(self.epoch)
        self.epoch += 1


@dataclass(frozen=True)
class QuietWorker:
    """Initializes a worker of a data loader that ignores Ctrl-C, and ends with the process that it works for."""

    initialize: Callable[[int], Any] | None

    def __call__(self, worker_id: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.initialize is not None:
            self.initialize(worker_id)


class LogsOfShortRuns(TrainerCallback):
    """Logs ten times in a run that would be too short for its interval."""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if args.logs_short_runs and state.max_steps < 10 * args.logging_steps:
            control.should_log |= state.global_step % max(1, state.max_steps // 10) == 0


class RoomForACheckpoint(TrainerCallback):
    """Ends a run before its first step if the disk has no room for what it will write first."""

    def on_train_begin(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        if args.should_save:
            if args.save_strategy == SaveStrategy.NO:
                needed = bytes_of(model.state_dict())
            else:
                needed = checkpoint_bytes(model, None if args.save_only_model else optimizer, args.ema is not None)
            check_space(Path(args.output_dir) / "checkpoint", needed)


def batch_norm_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def whole_parameters(model: nn.Module, reshard_after_forward: bool) -> Iterator[None]:
    """Inside, the modules that FSDP2 shards have their parameters whole, and a forward pass needs no communication:
    each process may run it a different number of times. Afterwards they are sharded again.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(reshard_after_forward, recurse=False)
            module.reshard()


class SetrTrainer(Trainer):
    """`Trainer` with what SETR needs besides:

    - A learning rate for the heads, one for each layer of the encoder, or none for all of it, an average of the
      weights, and the poly schedule with an absolute floor, see [`SetrTrainingArguments`].
    - Synchronized or frozen BatchNorm. Saved models hold plain BatchNorm layers.
    - Evaluation of label maps at the photos' original sizes, as the stock pipeline computes them. Gathered from
      processes and batches is one confusion matrix per image, not its logits, so photos may differ in size. There is
      no evaluation loss. Pictures of some predictions go to `output_dir/predictions`.
    - An end at the first loss or gradient that is not finite, which names the samples; see [`FiniteSteps`].
    - Checkpoints that are known to be complete, and resumption from the last complete one.
    - Of a model with adapters, see [`add_lora`], checkpoints hold the adapters alone, in a folder `adapter`; a saved
      model is whole, with the adapters merged, and has them in such a folder besides.

    Args:
        model ([`SetrForSemanticSegmentation`] or `peft.PeftModel`): The model to train.
        args ([`SetrTrainingArguments`]): With `remove_unused_columns=False`, their default.
        train_dataset ([`TrainingExamples`] or [`StreamingExamples`], *optional*): Its method `set_epoch`, if it has
            one, is called before each epoch.
        eval_dataset (`datasets.Dataset`, *optional*): With the columns `photo` and `label_map`, see
            [`evaluation_examples`].
        data_collator (`Callable`, *optional*): [`collate`].
        processing_class ([`SetrImageProcessor`], *optional*): The processor whose windows the evaluation uses.
        compute_metrics (`Callable`, *optional*, defaults to [`MeanIouOfMatrices`]): Takes the matrices, of shape
            `(num_images, num_labels, num_labels)` with true classes in the rows, as `predictions`.
        kwargs: See `Trainer`.

    Raises:
        [`SetrError`]: `args` are of another class, drop columns, or shard by FSDP 1, or adapters by any FSDP; or the
            model has a single class.

    Example:

    ```python
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
    >>> from setr_hf import SetrTrainer, SetrTrainingArguments
    >>> from setr_hf.data.augmentation import training_transform
    >>> from setr_hf.data.examples import collate, evaluation_examples, training_examples
    >>> from setr_hf.data.scenes import make_scenes

    >>> data = make_scenes(count=2, first_seed=0)
    >>> config = SetrConfig(
    ...     hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=64, **data.label_set.config_fields
    ... )
    >>> processor = SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=48)
    >>> augment = training_transform((64, 64), (0.5, 2.0), None, processor.image_mean, processor.image_std)
    >>> trainer = SetrTrainer(
    ...     SetrForSemanticSegmentation(config),
    ...     SetrTrainingArguments(
    ...         "outputs/mine", max_steps=1, save_strategy="no", logging_steps=9, report_to=[], disable_tqdm=True
    ...     ),
    ...     train_dataset=training_examples(data, augment),
    ...     eval_dataset=evaluation_examples(data),
    ...     data_collator=collate,
    ...     processing_class=processor,
    ... )
    >>> trainer.train().global_step
    {'train_runtime': ...}
    1
    >>> 0 <= trainer.evaluate()["eval_mean_iou"] <= 1
    {'eval_mean_iou': ...}
    True
    ```
    """

    # `Trainer` does not declare them.
    optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None
    train_dataset: Any
    lr_scheduler: Any

    def __init__(self, *args: Any, compute_metrics: Callable[..., dict] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, compute_metrics=compute_metrics or MeanIouOfMatrices(), **kwargs)
        if not isinstance(self.args, SetrTrainingArguments):
            raise SetrError(f"SetrTrainer takes SetrTrainingArguments as args, got {type(self.args).__name__}")
        if self.args.remove_unused_columns:
            raise SetrError("set remove_unused_columns=False: photos are not an input of the model")
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise SetrError(
                "FSDP 1 cannot evaluate photos of different sizes, as each has its own number of forward passes: set "
                "the FSDP version to 2"
            )
        if (self.is_fsdp_enabled or self.is_deepspeed_enabled) and self.args.ema is not None:
            raise SetrError("ema averages whole weights, which are sharded here: train by DDP, or leave it out")
        if self.is_fsdp_enabled and is_adapted(self.model):
            raise SetrError(
                "adapters cannot be sharded by FSDP: train them by DDP, which takes little memory for them"
            )
        if is_adapted(self.model):
            for name, unused in FOR_WHOLE_WEIGHTS.items():
                if getattr(self.args, name) != unused:
                    raise SetrError(f"{name} is for the weights of the encoder, which adapters leave as they are")
        freeze_layers(self.model, self.args.num_frozen_layers)
        for name in ("head_learning_rate_ratio", "layer_decay"):
            if self.optimizer is not None and getattr(self.args, name) != 1:
                raise SetrError(f"{name} has no effect on an optimizer that is passed in: leave it at 1")
        if self.args.freeze_encoder:
            freeze_encoder(self.model)
            self.keep_features()
        self.data_collator: Callable[[list], Any] = NamedBatches(self.data_collator)
        self.finite_steps = FiniteSteps()
        self.add_callback(EpochOfExamples(self.train_dataset))
        self.add_callback(LogsOfShortRuns())
        self.add_callback(RoomForACheckpoint())
        self.weight_average = None if self.args.ema is None else WeightAverage(self.args.ema)
        if self.weight_average is not None:
            self.add_callback(self.weight_average)
        self.prediction_samples = PredictionSamples(0, None)
        self.head_learning_rate: float | None = None
        self.run_facts = RunFacts()

    def keep_features(self) -> None:
        """Lets a frozen encoder run on each photo once, if it can; see [`FrozenEncoder`]."""
        chosen, examples = self.args.feature_folder, self.train_dataset
        if chosen == NO_FOLDER or not isinstance(examples, TrainingExamples) or self.is_fsdp_enabled:
            return

        @torch.no_grad()
        def compute(pixel_values: torch.Tensor) -> torch.Tensor:
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            find_encoder(model)[1].eval()
            with self.accelerator.autocast():
                return model.compute_feature_maps(pixel_values.to(self.args.device))

        self.train_dataset = FeatureExamples(examples)
        folder = Path(chosen) if chosen else Path(self.args.output_dir) / FEATURE_FOLDER
        self.add_callback(FrozenEncoder(self.train_dataset, folder, compute, self.accelerator.mixed_precision))

    def prepare_batch_norm(self, model: nn.Module) -> None:
        """Changes BatchNorm in place, before the model is wrapped for several processes: it runs over all of them if
        they have GPUs, and in fp32 under FSDP2, which would cast its weights, unlike its running statistics, to bf16
        or fp16. The names of parameters and buffers stay.
        """
        if any(isinstance(layer, nn.SyncBatchNorm | FSDPModule) for layer in batch_norm_layers(model)):
            return
        is_distributed_on_gpu = self.args.parallel_mode == ParallelMode.DISTRIBUTED and self.args.device.type == "cuda"
        if self.args.sync_batch_norm and is_distributed_on_gpu:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.is_fsdp_enabled and self.accelerator.mixed_precision != "no":
            for layer in batch_norm_layers(model):
                fully_shard(layer)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stock optimizer; if heads or layers have rates of their own, with parameter groups for them. Raises
        [`SetrError`] if `args` ask for one that is not installed, or for settings that it does not have.
        """
        model = self.model if model is None else model
        optim = OptimizerNames(self.args.optim).value
        self.prepare_batch_norm(model)
        rate, ratio, layer_decay = self.args.learning_rate, self.args.head_learning_rate_ratio, self.args.layer_decay
        if self.optimizer is None and not ratio == layer_decay == 1:
            chosen = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
            optimizer_cls, options = chosen
            if is_optimizer_factory(optimizer_cls) or {"params", "model", "optimizer_dict"} & set(options):
                raise SetrError(
                    f"optim={optim} makes its own parameter groups and leaves none to heads and layers: set "
                    "head_learning_rate_ratio and layer_decay to 1, or another optim"
                )
            decayed = self.get_decay_parameter_names(model)
            groups = parameter_groups(model, rate, ratio, self.args.weight_decay, decayed, layer_decay)
            self.optimizer_cls_and_kwargs = optimizer_cls, {**options, "params": groups}
        try:
            return super().create_optimizer(model)
        except (ImportError, TypeError, ValueError) as error:
            raise SetrError(f"optim={optim} cannot be used with these settings: {error}") from error

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The stock schedule, or poly with an absolute floor if `lr_scheduler_kwargs` names `min_lr`."""
        options = self.args.lr_scheduler_kwargs or {}
        is_polynomial = self.args.lr_scheduler_type == SchedulerType.POLYNOMIAL
        if self.lr_scheduler is None and is_polynomial and "min_lr" in options:
            if unknown := sorted(set(options) - {"power", "min_lr"}):
                raise SetrError(f"with min_lr, lr_scheduler_kwargs may also hold power, but not {unknown}")
            if self.args.get_warmup_steps(num_training_steps):
                raise SetrError("the polynomial schedule with min_lr has no warm-up: set warmup_steps to 0")
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = poly_schedule(optimizer, num_training_steps, **options)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_learning_rate(self) -> float:
        # Stock, only the rate of the first group is logged. That of the heads is kept for `log`, which is called when
        # the schedule has moved on.
        head_rates = [group["lr"] for group in self.optimizer.param_groups if group.get("name", "").startswith("head")]
        self.head_learning_rate = float(head_rates[0]) if head_rates else None
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "learning_rate" in logs and self.head_learning_rate is not None:
            logs["head_learning_rate"] = self.head_learning_rate
        super().log(logs, start_time)

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.args.freeze_batch_norm:
            # Here, because `training_step` has just set the whole model to training mode.
            for layer in batch_norm_layers(model):
                layer.eval()
        if self.args.freeze_encoder:
            find_encoder(model)[1].eval()
        loss = super().compute_loss(model, *args, **kwargs)
        return loss if isinstance(loss, tuple) else spread_to_gradients(loss)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        names = inputs.pop(NAMES, None)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.finite_steps.add(loss, names)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        # Called once in each step of the optimizer, before it changes the weights.
        norm = super()._get_grad_norm(*args, **kwargs)
        is_scaled = self.accelerator.scaler is not None
        self.finite_steps.check(norm, self.state.global_step + 1, self.optimizer, is_scaled)
        return norm

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As `Trainer.train`, but `resume_from_checkpoint=True` stands for the last **complete** checkpoint in the
        output folder; if there is none, training starts at the beginning, with a warning. Incomplete ones are removed
        first. Raises [`SetrError`] for a folder that is not a complete checkpoint, is damaged, or is of another
        network or other rates.
        """
        output_dir = self.args.output_dir
        if isinstance(resume_from_checkpoint, str) and not is_complete(resume_from_checkpoint):
            raise SetrError(
                f"{resume_from_checkpoint} is not a complete checkpoint; the last one in {output_dir} is "
                f"{last_complete_checkpoint(output_dir)}"
            )
        if resume_from_checkpoint:
            if self.args.should_save:
                remove_incomplete_checkpoints(output_dir)
            self.accelerator.wait_for_everyone()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(output_dir)
            if resume_from_checkpoint is None:
                logger.warning(f"{output_dir} has no complete checkpoint: training starts at the beginning")
        if resume_from_checkpoint:
            check_checkpoint(Path(resume_from_checkpoint), self.model, self.args.ema)
        if self.weight_average is not None:
            self.weight_average.checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # Stock, the rates and the decay of the checkpoint take the place of those that were asked for, without a word.
        if checkpoint is None:
            return
        asked = group_settings(self.optimizer)
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise SetrError(f"the optimizer of {checkpoint} does not fit ({reason}): {RESUMED_OTHERWISE}") from error
        check_same_settings(asked, group_settings(self.optimizer), checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Stock, adapters are beside the state of the run, from where `push_to_hub` copies them to the whole model,
        # which would load with the adapters twice.
        if is_adapted(self.model):
            load_adapter_weights(self.model, Path(resume_from_checkpoint) / ADAPTER_FOLDER)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if is_adapted(self.model):
            load_adapter_weights(self.model, Path(self.state.best_model_checkpoint) / ADAPTER_FOLDER)
        else:
            super()._load_best_model()
        if self.weight_average is not None:
            # The best average, which that of the last step must not replace.
            self.weight_average.forget()

    def averaged(self) -> AbstractContextManager:
        """In the block, the model has the average of its weights, if it is training with one; see
        [`WeightAverage`]. Evaluation and saving see to that themselves.
        """
        return nullcontext() if self.weight_average is None else self.weight_average.in_place()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.weight_average is not None and self.args.should_save:
            self.weight_average.save_weights(Path(output_dir))

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        dataloader = super()._get_dataloader(*args, **kwargs)
        # The seed of the workers is drawn when they start. Stock, it comes from the global generator, and a resumed
        # run, which starts persistent workers anew, continues with other random numbers than the run it resumes.
        base = dataloader.base_dataloader
        base.generator = torch.Generator()
        base.worker_init_fn = QuietWorker(base.worker_init_fn)
        return dataloader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        """As stock, but `dataloader_drop_last` is for training only: every photo of an evaluation counts."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _run_epoch(self, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # Resumed from the last step, which is in the middle of an epoch. Stock, one more step would be trained.
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes the run's card into the output folder, over one that is there: use, hyperparameters, curves, scores
        and predictions. `run_facts` says what the trainer does not know. Of the arguments, `language`, `license`,
        `tags`, `model_name` and `finetuned_from` are used; the model's task is known. See `Trainer`.
        """
        if not self._has_card():
            super().create_model_card(language, license, tags, model_name, finetuned_from)
            return
        tags = [tags] if isinstance(tags, str) else tags or []
        given = {"tags": list(dict.fromkeys(["generated_from_trainer", *tags])), "language": language}
        if license:
            given |= {"license": license, "license_text": f"{markdown_text(license)}."}
        if finetuned_from:
            given |= {"base_model": finetuned_from}
        self._write_card(Path(self.args.output_dir), model_name, **given)

    def _has_card(self) -> bool:
        """Whether what is saved is a whole model, and not adapters of other kinds than LoRA."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return isinstance(model, PreTrainedModel) or is_adapted(model)

    def _write_card(self, folder: Path, model_name: str | None = None, **given: Any) -> None:
        if not self.is_world_process_zero() or not self._has_card():
            return
        model, run = self.accelerator.unwrap_model(self.model, keep_torch_compile=False), self.run_facts
        if is_adapted(model):
            run = replace(run, rows=[*lora_rows(model), *run.rows])
            given = {"training_text": MERGED, **given}
        repository = self.args.hub_model_id or model_name or folder.resolve().name
        facts = run_facts(folder, run, model.config, self.args, self.state, repository, **given)
        write_model_card(folder, facts, model.config, self.processing_class or SetrImageProcessor())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As stock, and writes the run's card, see [`create_model_card`]. Raises a [`SetrError`] before anything is
        written if a weight is not finite.
        """
        step = f"the model of step {self.state.global_step}"
        with self.averaged():
            check_finite_weights(self.model, step, is_sharded=self.is_fsdp_enabled)
            super().save_model(output_dir, _internal_call)
        if not _internal_call and not self.args.push_to_hub:
            self._write_card(Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Stock, a checkpoint looks complete while it is written over one of the same step, or deleted.
        if not self.args.should_save:
            super()._save_checkpoint(model, trial)
            return
        run_dir, limit = self._get_output_dir(trial), self.args.save_total_limit
        checkpoint = Path(run_dir) / f"checkpoint-{self.state.global_step}"
        self.args.save_total_limit = None
        try:
            with whole_checkpoint(checkpoint):
                optimizer = None if self.args.save_only_model else self.optimizer
                check_space(checkpoint, checkpoint_bytes(model, optimizer, self.args.ema is not None))
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        remove_old_checkpoints(run_dir, limit, self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Stock, the weights are copied from the checkpoint, which holds the adapters alone.
        is_idle = self.args.hub_always_push or self.push_in_progress is None or self.push_in_progress.is_done()
        if is_adapted(self.model) and self.args.hub_strategy != HubStrategy.END and is_idle:
            self._save(self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def _save_rng_state(self, output_dir: str) -> None:
        # What each process saves last. Stock, the main process then writes `trainer_state.json`, and deletes older
        # checkpoints, without waiting for the others.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if isinstance(self.model, FSDPModule):
            # FSDP2 gives the model a class of its own. Stock, its name and file would be saved as the model's code.
            sharded_class, (_, model_class) = type(self.model), type(self.model).__bases__
            sharded_class.__name__, sharded_class.__module__ = model_class.__name__, model_class.__module__
        if not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        # Stock, the files of an earlier model are overwritten one by one.
        output = Path(output_dir or self.args.output_dir)
        with whole_model(output) as folder:
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            if is_adapted(model):
                self._save_adapted(model, folder, with_whole_model=not is_checkpoint(output))
            else:
                super()._save(str(folder), state_dict)

    def _save_adapted(self, model: Any, folder: Path, with_whole_model: bool) -> None:
        save_adapter(model, folder / ADAPTER_FOLDER)
        if with_whole_model:
            merged(model).save_pretrained(folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        torch.save(self.args, folder / TRAINING_ARGS_NAME)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """As stock, but each file is written whole or not at all. Stock, a file that was not is an error the next
        time.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        every = folder / "all_results.json"
        contents = {folder / f"{split}_results.json": metrics}
        if combined:
            contents[every] = (json.loads(read_text(every)) if every.exists() else {}) | metrics
        for path, content in contents.items():
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        with self.averaged():
            return self._evaluation_loop(*args, **kwargs)

    def _evaluation_loop(self, dataloader: torch.utils.data.DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        if self.args.parallel_mode == ParallelMode.DISTRIBUTED:
            # Each process has running statistics of its own; those of the main process are saved.
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)
        if isinstance(self.compute_metrics, MeanIouOfMatrices):
            self.compute_metrics.reset()
        examples: Any = dataloader.dataset
        num_images = len(examples) // self.args.world_size if has_length(examples) else None
        num_samples = self.args.num_prediction_pictures if self.is_world_process_zero() else 0
        self.prediction_samples = PredictionSamples(num_samples, num_images)
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """No loss, a confusion matrix for each image, and zeros instead of labels, which the matrix has counted."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if not self.is_fsdp_enabled:
            # Not the compiled model, which would be compiled anew for each number of windows.
            model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        reshard = plugin is None or plugin.reshard_after_forward
        with whole_parameters(model, reshard), self.compute_loss_context_manager():
            windows = self.args.eval_window_batch_size
            label_maps = segment(model, self.processing_class, inputs["photo"], window_batch_size=windows)
            predictions = [label_map.numpy() for label_map in label_maps]
        config, counted = self.model.config, []
        for photo, truth, prediction in zip(inputs["photo"], inputs["label_map"], predictions):
            self.prediction_samples.add(photo, truth, prediction)
            counted.append(
                confusion_matrix(prediction, truth, len(config.id2label), config.semantic_loss_ignore_index)
            )
        matrices = torch.from_numpy(np.stack(counted)).to(self.args.device)
        return None, matrices, torch.zeros(len(matrices), dtype=torch.long, device=self.args.device)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.prediction_samples.samples:
            step = self.state.global_step
            # Several evaluation sets are evaluated one by one, each with a prefix of its own.
            suffix = metric_key_prefix.removeprefix("eval").replace("_", "-")
            path = Path(self.args.output_dir) / "predictions" / f"step-{step}{suffix}.png"
            sheet = self.prediction_samples.sheet(self.model.config)
            publish_picture(sheet, f"{metric_key_prefix}/predictions", path, step, self.callback_handler.callbacks)
            self.prediction_samples.samples.clear()
        return metrics

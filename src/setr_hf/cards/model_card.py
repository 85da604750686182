"""Evaluation results in a model card, where the Hub shows them and `huggingface_hub` reads them."""

from pathlib import Path
from typing import cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_update
from huggingface_hub.repocard_data import eval_results_to_model_index

from ..files import whole_file


METRICS = {"mean_iou": "mean IoU", "overall_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}


def eval_results(summary: dict, dataset: str, split: str, scales: tuple[float, ...] | None = None) -> list[EvalResult]:
    """Scores in the form of a model card, in percent, from `mean_iou`, `overall_accuracy` and `mean_accuracy`, 0 to 1;
    undefined ones (`None`) are left out. `scales` are the ratios of the multi-scale protocol with mirror images.
    """
    protocol = "single scale" if scales is None else f"scales {', '.join(f'{s:g}' for s in scales)} with mirror images"
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic Segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{name} (%), {protocol}",
            metric_value=round(100 * summary[metric], 2),
        )
        for metric, name in METRICS.items()
        if summary[metric] is not None
    ]


def update_card(model: str, results: list[EvalResult]) -> None:
    """Adds results to a model's card, or replaces them: in a folder's `README.md`, or by a commit on the Hub."""
    folder = Path(model)
    if not folder.is_dir():
        index = eval_results_to_model_index(model.split("/")[-1], results)
        metadata_update(model, {"model-index": index}, overwrite=True, commit_message="Add evaluation results")
        return
    path, name = folder / "README.md", folder.resolve().name
    card = ModelCard.load(path) if path.exists() else ModelCard(f"---\nlibrary_name: transformers\n---\n\n# {name}\n")
    data = cast(ModelCardData, card.data)
    kept = [old for old in data.eval_results or [] if not any(new.is_equal_except_value(old) for new in results)]
    data.eval_results = [*kept, *results]
    data.model_name = data.model_name or name
    with whole_file(path) as unfinished:
        card.save(unfinished)

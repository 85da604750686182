"""Evaluation results in a model card, where the Hub shows them and `huggingface_hub` reads them."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_update
from huggingface_hub.repocard_data import eval_results_to_model_index


METRICS = {
    "mean_iou": "mean IoU",
    "overall_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
}


def eval_results(summary: dict, dataset: str, split: str, scales: tuple[float, ...] | None) -> list[EvalResult]:
    """
    Results in the form of a model card, in percent.

    Args:
        summary: As [`setr_hf.evaluation.results.summarize`] returns it.
        dataset: Name of the data set.
        scales: Ratios of the multi-scale protocol with mirror images, `None` for a single scale.
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


def update_card(model: str, results: list[EvalResult]):
    """
    Adds results to the card of a model, or replaces their values where the card has them; its text stays as it is.

    Args:
        model: A folder, whose `README.md` is changed or made; or the id of a model on the Hub, which gets a commit.
    """
    folder = Path(model)
    if not folder.is_dir():
        index = eval_results_to_model_index(model.split("/")[-1], results)
        metadata_update(model, {"model-index": index}, overwrite=True, commit_message="Add evaluation results")
        return
    path = folder / "README.md"
    name = folder.resolve().name
    card = ModelCard.load(path) if path.exists() else ModelCard(f"---\nlibrary_name: transformers\n---\n\n# {name}\n")
    data: ModelCardData = card.data
    kept = [old for old in data.eval_results or [] if not any(new.is_equal_except_value(old) for new in results)]
    data.eval_results = [*kept, *results]
    data.model_name = data.model_name or name
    temporary = path.with_name("README.md.tmp")
    card.save(temporary)
    temporary.replace(path)

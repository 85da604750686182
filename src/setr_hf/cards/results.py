"""Evaluation results in a model card: in its metadata, where the Hub reads them, and as a table in its text."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from ..files import whole_file
from ..text import markdown_text, one_line
from .benchmarks import Benchmark
from .reading import read_card


CARD = "README.md"
# What the metadata of a card must say for the Hub to list the model and to offer its widget.
LISTED_AS: dict[str, Any] = {"pipeline_tag": "image-segmentation", "library_name": "transformers"}
METRICS = {"mean_iou": "mean IoU", "overall_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}
BETWEEN_NAME_AND_PROTOCOL = " (%), "
# What stands between these lines of a card is written anew when a result is added, and nothing else.
BEGIN, END = "<!-- results: written by setr-hf -->", "<!-- end of results -->"


def protocol_name(scales: Sequence[float] | None) -> str:
    """What a card calls the single-scale protocol (`None`), or the multi-scale one with these ratios."""
    return "single scale" if scales is None else f"scales {', '.join(f'{s:g}' for s in scales)} with mirror images"


def eval_results(
    summary: dict,
    dataset: str | Benchmark,
    split: str,
    scales: Sequence[float] | None = None,
    validation_fraction: float | None = None,
) -> list[EvalResult]:
    """Measured scores in the form of a model card, in percent, from `mean_iou`, `overall_accuracy` and
    `mean_accuracy`, 0 to 1; missing and undefined ones (`None`) are left out. `dataset` is a public data set, or the
    Hub id or name of another; `scales` are the ratios of the multi-scale protocol with mirror images;
    `validation_fraction` is the share of the training samples that was held out, if they were such.
    """
    arguments: dict = {} if scales is None else {"scales": [float(scale) for scale in scales]}
    arguments |= {"validation_fraction": validation_fraction} if validation_fraction else {}
    dataset_type, title = (dataset, dataset) if isinstance(dataset, str) else (dataset.dataset_type, dataset.title)
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic Segmentation",
            dataset_type=dataset_type,
            dataset_name=title,
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{name}{BETWEEN_NAME_AND_PROTOCOL}{protocol_name(scales)}",
            metric_args=arguments or None,
            metric_value=round(100 * summary[metric], 2),
        )
        for metric, name in METRICS.items()
        if summary.get(metric) is not None
    ]


def published_results(
    mean_iou: float, benchmark: Benchmark, scales: Sequence[float] | None, publisher: str, url: str
) -> list[EvalResult]:
    """As [`eval_results`], for a mean IoU in percent that others published for the validation split. Who and where is
    said in `metric_args`: a card's metadata holds one `source_url` for all results on a split.
    """
    return [
        replace(
            result,
            metric_name=f"{result.metric_name}, published by {publisher}",
            metric_args={**(result.metric_args or {}), "published_by": publisher, "url": url},
        )
        for result in eval_results({"mean_iou": mean_iou / 100}, benchmark, "validation", scales)
    ]


def is_ours(result: EvalResult) -> bool:
    """Whether a result has the form of [`eval_results`] or [`published_results`]."""
    has_name = result.metric_type in METRICS and BETWEEN_NAME_AND_PROTOCOL in (result.metric_name or "")
    return has_name and isinstance(result.metric_value, int | float)


def is_measured(result: EvalResult) -> bool:
    """Whether a result is one of [`eval_results`], which can be computed again to the printed digit."""
    return is_ours(result) and "published_by" not in (result.metric_args or {})


def scales_of(result: EvalResult) -> list[float] | None:
    """The ratios of the multi-scale protocol of a result, or `None` for the single-scale one."""
    return (result.metric_args or {}).get("scales")


def validation_fraction_of(result: EvalResult) -> float | None:
    """The share of the training samples that were held out for a result, or `None` if it is of a whole split."""
    return (result.metric_args or {}).get("validation_fraction")


def split_text(result: EvalResult) -> str:
    fraction = validation_fraction_of(result)
    return (result.dataset_split or "") + (f", {fraction:g} held out" if fraction else "")


def evaluate_command(result: EvalResult, model: str) -> str:
    """The command that computes a result."""
    folder = result.dataset_type if "/" in result.dataset_type else f"path/to/{result.dataset_type}"
    scales, fraction = scales_of(result), validation_fraction_of(result)
    words = ["setr-hf", "evaluate", "--model", model, "--dataset", folder]
    words += [] if result.dataset_split in (None, "validation") else ["--split", result.dataset_split]
    words += ["--validation-fraction", f"{fraction:g}"] if fraction else []
    words += [] if scales is None else ["--protocol", "multi", "--scales", *(f"{scale:g}" for scale in scales)]
    return one_line(shlex.join(words))


def results_section(results: list[EvalResult], model: str) -> str:
    """Results as a table between the lines `BEGIN` and `END`, with the commands that compute them. Results in other
    forms than ours are left to the metadata.
    """
    ours = [result for result in results if is_ours(result)]
    rows: dict[tuple, dict[str, str]] = {}
    for result in ours:
        arguments = result.metric_args or {}
        publisher = markdown_text(arguments.get("published_by"))
        source = "measured" if is_measured(result) else f"[published by {publisher}]({arguments.get('url')})"
        cells = (result.dataset_name, split_text(result), protocol_name(scales_of(result)))
        rows.setdefault((*map(markdown_text, cells), source), {})[result.metric_type] = f"{result.metric_value:.2f}"
    shown = [metric for metric in METRICS if any(metric in scores for scores in rows.values())]
    header = ["data set", "split", "protocol", *(f"{METRICS[metric]} (%)" for metric in shown), "source"]
    table = [header, ["---"] * len(header)]
    table += [[*row[:3], *(scores.get(metric, "") for metric in shown), row[3]] for row, scores in rows.items()]
    commands = list(dict.fromkeys(evaluate_command(result, model) for result in ours))
    lines = [f"| {' | '.join(cells)} |" for cells in table] if rows else ["No results yet."]
    if commands:
        lines += ["", "These commands compute them:", "", "```bash", *commands, "```"]
    return "\n".join([BEGIN, *lines, END])


def add_results(card: ModelCard, results: list[EvalResult], model: str) -> None:
    """Adds results to a card, or replaces them: in its metadata, and in its text between `BEGIN` and `END`, if it has
    these lines. All else in it stays.
    """
    data = cast(ModelCardData, card.data)
    kept = [old for old in data.eval_results or [] if not any(new.is_equal_except_value(old) for new in results)]
    data.eval_results = [*kept, *results]
    data.model_name = data.model_name or model.split("/")[-1]
    section = results_section(data.eval_results, model)
    card.text = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: section, card.text, flags=re.DOTALL)


def update_card(model: str, results: list[EvalResult]) -> None:
    """As [`add_results`], to a model's card: in a folder's `README.md`, or by a commit on the Hub."""
    folder = Path(model)
    is_folder = folder.is_dir()
    name = folder.resolve().name if is_folder else model
    try:
        path = folder / CARD if is_folder else Path(hf_hub_download(model, CARD))
    except RemoteEntryNotFoundError:
        path = None
    if path is None or not path.exists():
        title = markdown_text(name.split("/")[-1])
        card = ModelCard(f"---\n{ModelCardData(**LISTED_AS)}\n---\n\n# {title}\n\n{BEGIN}\n{END}\n")
    else:
        card = read_card(path)
    add_results(card, results, name)
    if is_folder:
        with whole_file(folder / CARD) as unfinished:
            card.save(unfinished)
    else:
        card.push_to_hub(model, commit_message="Add evaluation results")

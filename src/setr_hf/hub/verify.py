"""Verifies a published model: files, weights, code, card and, with the data, the figures on the card."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

from huggingface_hub import EvalResult, ModelCardData, snapshot_download
from huggingface_hub.errors import HTTPError

from ..cards.reading import read_card
from ..cards.results import eval_results, is_measured, protocol_name, scales_of
from ..data.rows import SegmentationData
from ..errors import SetrError
from ..evaluation.arguments import EvaluationArguments
from ..evaluation.records import compute_records
from ..evaluation.results import summarize
from ..evaluation.segmenter import load_segmenter
from ..evaluation.settings import evaluation_settings
from ..files import temporary_folder
from ..inference.loading import load_model
from ..repositories import files_on_hub
from ..text import one_line, printable
from .manifest import check_manifest, read_manifest
from .signing import check_signature
from .staging import CARD, CODE, CODE_FOLDER, check_card


LONGEST_DIFFERENCE, LONGEST_LINE = 12, 200  # lines, characters


@contextmanager
def local_copy(source: str, revision: str | None) -> Iterator[Path]:
    """The folder `source`, or a download of the repository of that id. Raises [`SetrError`] if there is neither."""
    if Path(source).is_dir():
        if revision is not None:
            raise SetrError(f"{source} is a folder, which has no revision {revision!r}")
        yield Path(source)
        return
    files_on_hub(source, "model", revision)
    with temporary_folder() as temporary:
        try:
            snapshot_download(source, revision=revision, local_dir=temporary)
        except (HTTPError, OSError) as error:
            raise SetrError(f"{source} cannot be downloaded: {one_line(error, 500)}") from error
        yield temporary


def check_weights(folder: Path) -> list[str]:
    """A sentence if weights, configuration and image processor do not make a whole SETR; see [`load_model`]."""
    try:
        load_model(str(folder))
    except SetrError as error:
        return [str(error)]
    return []


def check_code(folder: Path) -> list[str]:
    """The differences between the code that travels with a model and that of this package, a sentence for each file,
    with the lines that differ. A model of another version of setr-hf may have other code: compare it there.
    """
    try:
        written_by, _ = read_manifest(folder)
    except SetrError:
        written_by = "an unknown version"
    ours = version("setr-hf")
    findings = []
    for name in sorted({*CODE, *(path.name for path in folder.glob("*.py"))}):
        expected, found = (
            path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else None
            for path in (CODE_FOLDER / name, folder / name)
        )
        if found is None:
            findings.append(f"the code {name} is missing")
        elif expected is None or name not in CODE:
            findings.append(f"{name} is not a part of setr-hf: read it before you trust it")
        elif found != expected:
            difference = list(difflib.unified_diff(expected, found, f"setr-hf {ours}", written_by, lineterm="", n=0))
            more = len(difference) - LONGEST_DIFFERENCE
            shown = difference[:LONGEST_DIFFERENCE] + ([f"… and {more} more lines"] if more > 0 else [])
            text = "\n".join(f"    {printable(line)[:LONGEST_LINE]}" for line in shown)
            findings.append(f"{name}, written by setr-hf {written_by}, is not the code of setr-hf {ours}:\n{text}")
    return findings


def check_page(folder: Path) -> list[str]:
    """A sentence if the card cannot be read, or is not that of a model for image segmentation."""
    try:
        check_card(read_card(folder / CARD))
    except SetrError as error:
        return [str(error)]
    return []


def measured_results(folder: Path, split: str) -> dict[str, list[EvalResult]]:
    """The results on a card that were measured on a split, by the name of their protocol."""
    results: dict[str, list[EvalResult]] = {}
    for result in cast(ModelCardData, read_card(folder / CARD).data).eval_results or []:
        if is_measured(result) and (result.dataset_split or "validation") == split:
            results.setdefault(protocol_name(scales_of(result)), []).append(result)
    return results


def check_figures(folder: Path, data: SegmentationData, split: str, evaluation: EvaluationArguments) -> list[str]:
    """Computes the measured figures on a card again, by their protocols, and says which differ in a printed digit.
    `evaluation` holds batch sizes, threads and precision; its protocol is that of each figure. Raises [`SetrError`] if
    the card has no measured figure of this split, or model and data do not fit together.
    """
    measured = measured_results(folder, split)
    if not measured:
        raise SetrError(f"{CARD} has no measured figure of the split {split!r} that could be computed again")
    findings = []
    for protocol, results in measured.items():
        scales = scales_of(results[0])
        options = replace(evaluation, protocol="single" if scales is None else "multi", scales=scales)
        segmenter = load_segmenter(str(folder), data.label_set, options)
        data = data.with_bands(segmenter.processor.num_bands)
        with temporary_folder() as temporary:
            records = compute_records(temporary, evaluation_settings(segmenter, data), data, [segmenter])
            summary, _ = summarize(records, data.label_set)
        computed = {new.metric_type: new.metric_value for new in eval_results(summary, "", split, scales)}
        for result in results:
            now = computed.get(result.metric_type)
            if now != result.metric_value:
                findings.append(f"{result.metric_type}, {protocol}: {result.metric_value} on the card, computed {now}")
    return findings


def verify(folder: Path, public_key: Path | None = None) -> dict[str, list[str]]:
    """What is wrong with a model's folder, by what was checked: nothing where the list is empty.

    - `manifest`: every file is listed in `MANIFEST.json`, there, and of the listed content;
    - `weights`: weights, configuration and image processor make a whole SETR: every tensor is used, of the right
      shape, and finite;
    - `code`: the code beside the weights is this package's;
    - `card`: its metadata can be read, results included, and is that of a segmentation model;
    - `signature`: with a `public_key`, the files are those that its owner signed.

    Nothing of the folder is run. For the figures on the card see [`check_figures`].

    Raises:
        [`SetrError`]: `folder` is not a folder, or the key cannot be read.
    """
    if not folder.is_dir():
        raise SetrError(f"{folder} is not a folder")
    checks = {
        "manifest": check_manifest(folder),
        "weights": check_weights(folder),
        "code": check_code(folder),
        "card": check_page(folder),
    }
    if public_key is not None:
        checks["signature"] = check_signature(folder, public_key)
    return checks

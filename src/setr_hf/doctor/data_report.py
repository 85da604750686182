"""Examines a data set, and says what was found: for people, for programs, and as pictures."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.arguments import DataArguments
from ..data.label_sets import LabelSet
from ..model.image_processing_setr import IGNORED_LABEL
from ..tables import percent, print_table
from . import check_files, check_masks, check_splits
from .findings import Finding, sorted_by_severity
from .opening import open_data, unnamed_label_set
from .samples import DataFacts, read_samples


@dataclass(frozen=True)
class DataReport:
    """What was seen in the data set `source`, what is wrong with it, and how long that took."""

    source: str
    facts: DataFacts
    findings: list[Finding]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the findings."""
        return {
            "seconds": round(self.seconds, 1),
            "splits": {split: split_summary(self.facts, split) for split in self.facts.splits},
            "classes": class_rows(self.facts),
        }


def examine_data(arguments: DataArguments) -> DataReport:
    """Reads every sample of all splits of the data set that the options name. Raises [`SetrError`] if there is none,
    or an option is wrong; whatever is wrong in the data set is a finding.
    """
    start = time.perf_counter()
    opened = open_data(arguments)
    splits = opened.splits
    label_set: LabelSet = next((data.label_set for data in splits.values()), unnamed_label_set())
    facts = DataFacts(read_samples(splits), label_set, splits, opened.has_names)
    findings = list(opened.findings)
    for check in (*check_files.CHECKS, *check_masks.CHECKS, *check_splits.CHECKS):
        findings += check(facts)
    findings += check_masks.refused(facts, findings)
    return DataReport(str(arguments.dataset), facts, sorted_by_severity(findings), time.perf_counter() - start)


def split_summary(facts: DataFacts, split: str) -> dict[str, Any]:
    samples = [sample for sample in facts.samples if sample.split == split]
    photos = [sample.photo for sample in samples if sample.photo is not None]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    counts = facts.class_counts(split)
    return {
        "samples": len(samples),
        "width": spread([photo.size[0] for photo in photos]),
        "height": spread([photo.size[1] for photo in photos]),
        "photos": dict(Counter(f"{photo.format} {photo.mode}" for photo in photos)),
        "annotations": dict(Counter(f"{mask.format} {mask.mode}" for mask in masks)),
        "ignored": float(counts[IGNORED_LABEL] / counts.sum()) if counts.any() else None,
    }


def spread(values: list[int]) -> dict[str, int] | None:
    if not values:
        return None
    return {"min": min(values), "median": int(np.median(values)), "max": max(values)}


def class_rows(facts: DataFacts) -> list[dict[str, Any]]:
    """The classes that occur, with their share of the pixels that are not ignored, 0 to 1, in each split."""
    shares = {}
    for split, data in facts.splits.items():
        counts = facts.class_counts(split)[:IGNORED_LABEL]
        if data.has_annotations:
            shares[split] = counts / max(1, counts.sum())
    return [
        {"id": index, "name": name, "shares": {split: float(values[index]) for split, values in shares.items()}}
        for index, name in enumerate(facts.label_set.names)
        if any(values[index] for values in shares.values())
    ]


def print_data_report(report: DataReport) -> None:
    """Prints what was seen in a data set, without the findings."""
    content = report.to_dict()
    print(f"{report.source}: a data set, read in {report.seconds:.1f} s")
    rows = [
        (
            split,
            summary["samples"],
            *(extent(summary[side]) for side in ("width", "height")),
            *(kinds(summary[part]) for part in ("photos", "annotations")),
            percent(summary["ignored"]),
        )
        for split, summary in content["splits"].items()
    ]
    print_table(["split", "samples", "width", "height", "photos", "annotations", "% ignored"], rows)
    if content["classes"]:
        splits = list(content["classes"][0]["shares"])
        print_table(
            ["class", "name", *(f"% of {split}" for split in splits)],
            [[row["id"], row["name"], *map(percent, row["shares"].values())] for row in content["classes"]],
        )


def extent(sizes: dict[str, int] | None) -> str | None:
    if sizes is None or sizes["min"] == sizes["max"]:
        return str(sizes["min"]) if sizes else None
    return f"{sizes['min']} to {sizes['max']}"


def kinds(counts: dict[str, int]) -> str | None:
    if len(counts) < 2:
        return next(iter(counts), None)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())

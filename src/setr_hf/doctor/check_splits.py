"""What is wrong between the splits of a data set: classes that one lacks, and photos that two have."""

import itertools

import numpy as np

from ..data.label_sets import NAMES_FILE
from ..model.image_processing_setr import IGNORED_LABEL
from ..text import listing
from .findings import Finding
from .repeats import repeated, same_photos
from .samples import DataFacts, SampleFacts


def classes(data: DataFacts) -> list[Finding]:
    """Classes that never occur, or not in one of the splits that are trained and evaluated on."""
    if not data.has_names or not data.with_ids:
        return []
    names = data.label_set.names
    occurs = {
        split: data.class_counts(split)[:IGNORED_LABEL] > 0
        for split in ("train", "validation")
        if split in data.splits and data.splits[split].has_annotations
    }
    if not occurs:
        return []

    def named(is_meant: np.ndarray) -> str:
        chosen = [f"{index} {names[index]}" for index in np.flatnonzero(is_meant[: len(names)])]
        return f"{len(chosen)} of {len(names)} classes {{}}: {listing(chosen, most=10)}" if chosen else ""

    findings = []
    nowhere = named(~np.any(list(occurs.values()), axis=0))
    if nowhere:
        advice = (
            f"remove them from id2label in {NAMES_FILE} if they are not meant to occur; else see the other findings"
        )
        findings.append(Finding("class_never", "note", nowhere.format("never occur"), advice))
    if len(occurs) < 2:
        return findings
    untrained = named(occurs["validation"] & ~occurs["train"])
    if untrained:
        meaning = untrained.format("occur in validation and not in train, so they cannot be learnt")
        findings.append(Finding("class_only_in_validation", "warning", meaning, "divide the samples anew"))
    unmeasured = named(occurs["train"] & ~occurs["validation"])
    if unmeasured:
        meaning = unmeasured.format("occur in train and not in validation, so they are not measured")
        findings.append(Finding("class_only_in_train", "note", meaning, "divide the samples anew, if they matter"))
    return findings


def photos_twice(data: DataFacts) -> list[Finding]:
    """The same photo in two splits, also saved or resized anew, or twice in one."""
    seen: dict[str, list[SampleFacts]] = {split: [] for split in data.splits}
    for sample in data.samples:
        if sample.photo is not None and not sample.photo.is_constant:
            seen[sample.split].append(sample)
    prints = {split: [s.photo.fingerprint for s in samples if s.photo] for split, samples in seen.items()}
    pairs, copies = [], []
    for one, other in itertools.combinations(seen, 2):
        pairs += [(seen[one][i].title, seen[other][j].title) for i, j in same_photos(prints[one], prints[other])]
    for split, samples in seen.items():
        copies += [[samples[i].title for i in group] for group in repeated(prints[split])]
    findings = []
    if pairs:
        shown = listing([f"{one} is {other}" for one, other in pairs])
        meaning = f"the same photo is in two splits, so that scores are too good: {shown}"
        titles = tuple(dict.fromkeys(title for pair in pairs for title in pair))
        findings.append(Finding("same_photo_in_splits", "error", meaning, "remove them from one split", titles))
    if copies:
        meaning = f"the same photo is in a split more than once: {listing([' = '.join(group) for group in copies])}"
        titles = tuple(title for group in copies for title in group)
        findings.append(Finding("repeated_photo", "note", meaning, "remove all but one, with its annotation", titles))
    return findings


CHECKS = (classes, photos_twice)

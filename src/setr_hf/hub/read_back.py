"""Reads a published model as somebody does who has Transformers but not this package, and saves its label map.

python read_back.py REPOSITORY REVISION PHOTO OUTPUT.npy
"""

import sys

import numpy as np
from transformers import pipeline


def main(repo_id: str, revision: str, photo: str, output: str) -> None:
    segmenter = pipeline("image-segmentation", model=repo_id, revision=revision, trust_remote_code=True)
    label2id = {name: int(index) for index, name in segmenter.model.config.id2label.items()}
    segments = segmenter(photo)
    label_map = np.full(np.asarray(segments[0]["mask"]).shape, -1, dtype=np.int64)
    for segment in segments:
        label_map[np.asarray(segment["mask"]) > 0] = label2id[segment["label"]]
    np.save(output, label_map)


if __name__ == "__main__":
    main(*sys.argv[1:])

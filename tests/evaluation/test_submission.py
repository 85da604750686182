"""Label maps in the form that the servers of the benchmarks take."""

import numpy as np
import pytest

from setr_hf.data.label_sets import LabelSet
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf.evaluation.submission import server_ids, submission_files


@pytest.mark.parametrize("data_set_name, first_ids", [("ade20k", [1, 2, 150]), ("cityscapes", [7, 8, 33])])
def test_ids_of_the_servers(data_set_name, first_ids):
    label_set = LabelSet.direct(CLASS_NAMES[data_set_name])
    ids = server_ids(label_set)[np.array([[0, 1, -1]])]
    assert ids.tolist() == [first_ids] and ids.dtype == np.uint8


def test_other_classes_have_no_server():
    with pytest.raises(SetrError, match="only ADE20K and Cityscapes have a server"):
        server_ids(LabelSet.direct(["sky", "tree"]))


def test_each_sample_has_a_file_of_its_own_in_the_folder(tmp_path):
    assert submission_files(tmp_path, ["a", "city/b"]) == {"a": tmp_path / "a.png", "city/b": tmp_path / "city/b.png"}
    with pytest.raises(SetrError, match=r"the sample '\.\./\.\./x' cannot have a file"):
        submission_files(tmp_path, ["a", "../../x"])
    with pytest.raises(SetrError, match="2 samples are called 'a'"):
        submission_files(tmp_path, ["a", "b", "a"])

"""`setr-hf predict` that is stopped, started again, or given what it cannot use: no photo is lost, none done twice."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from distributed_training import kill_at_change, start
from many_photos import DAMAGES, small_photo
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image
from small_disk import small_disk

from setr_hf import SetrImageProcessor
from setr_hf.errors import SetrError
from setr_hf.inference.output_folder import RECORDS_FILE, RESULTS, SETTINGS_FILE, result_names
from setr_hf_cli import load_script


def predict(folder, *photos, model="model", output="out"):
    """Segments `photos`, by default all, into `folder/out`, and returns the exit status."""
    photos = photos or [folder / "photos"]
    arguments = [*map(str, photos), "--model", str(folder / model), "--output", str(folder / output)]
    return load_script(SCRIPTS / "predict.py").main(arguments)


def write_photo(path, seed):
    small_photo(np.random.default_rng(seed)).save(path)


def contents(folder):
    """Results by their names, without the records, which hold times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORDS_FILE}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three photos, of which "b.jpg" is bad, and a model; their results have been written."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "photos").mkdir()
    for seed, name in enumerate("acd"):
        write_photo(folder / f"photos/{name}.png", seed)
    (folder / "photos/b.jpg").write_bytes(DAMAGES["truncated"](small_photo(np.random.default_rng(0))))
    save_model(folder / "model", NAMES)
    assert predict(folder) == 1
    return folder


@pytest.fixture
def done(original, tmp_path, capsys):
    """As [`original`], for a test of its own."""
    folder = tmp_path / "job"
    for name in ("photos", "model"):
        shutil.copytree(original / name, folder / name)
    assert predict(folder) == 1
    capsys.readouterr()
    return folder


def test_what_is_done_is_not_done_again_and_what_is_bad_is_named_again(done, capsys):
    before = times(done / "out")
    assert predict(done) == 1
    captured = capsys.readouterr()
    assert re.findall("^skipped (.*): image file is truncated", captured.err, re.MULTILINE) == [
        f"{done}/photos/b.jpg cannot be read as a photo: it cannot be decoded"
    ]
    assert captured.out == f"3 of 4 photos segmented into {done}/out, 3 of them by earlier runs\n"
    assert times(done / "out") == before


@pytest.mark.parametrize("end", RESULTS)
def test_a_photo_whose_result_is_missing_is_done_again(done, original, end):
    before = times(done / "out")
    (done / f"out/a{end}").unlink()
    assert predict(done) == 1
    assert contents(done / "out") == contents(original / "out")
    assert {name for name, time in times(done / "out").items() if time != before[name]} == {
        *(f"a{each}" for each in RESULTS),
        RECORDS_FILE,
    }


def test_a_photo_that_has_changed_is_done_again(done, original):
    before = times(done / "out")
    write_photo(done / "photos/a.png", 9)
    assert predict(done) == 1
    assert {name for name, time in times(done / "out").items() if time != before[name]} == {
        *(f"a{end}" for end in RESULTS),
        RECORDS_FILE,
    }
    assert (done / "out/a.png").read_bytes() != (original / "out/a.png").read_bytes()
    assert predict(done, done / "photos/a.png", output="alone") == 0
    for end in RESULTS:
        assert (done / f"out/a{end}").read_bytes() == (done / f"alone/a{end}").read_bytes()


def test_photos_may_be_mended_added_and_moved(done):
    before = times(done / "out")
    write_photo(done / "photos/b.jpg", 5)
    write_photo(done / "photos/e.png", 6)
    (done / "photos").rename(done / "moved")
    assert predict(done, done / "moved") == 0
    after = times(done / "out")
    assert {name for name in after if after[name] != before.get(name)} == {
        *(f"{name}{end}" for name in "be" for end in RESULTS),
        RECORDS_FILE,
    }


def test_results_of_another_model_are_refused(done):
    before = times(done / "out")
    save_model(done / "weights", NAMES, seed=1)
    save_model(done / "names", ["a", "b", "c", "d"])
    save_model(done / "processor", NAMES)
    SetrImageProcessor.from_pretrained(done / "model", stride=16).save_pretrained(done / "processor")
    for model, setting in (("weights", "model"), ("names", "classes"), ("processor", "image_processor")):
        message = rf"/out holds results computed with other settings \({setting} was \w{{16}}, now \w{{16}}\)\. Use"
        with pytest.raises(SetrError, match=message):
            predict(done, model=model)
    (done / "out" / SETTINGS_FILE).unlink()
    with pytest.raises(SetrError, match=r"/out holds results without _settings\.json: choose another output folder"):
        predict(done)
    del before[SETTINGS_FILE]
    assert times(done / "out") == before


@pytest.mark.parametrize("end", RESULTS)
def test_a_file_of_somebody_else_is_not_overwritten(done, end):
    file = done / f"new/d{end}"
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(SetrError, match=rf"/new/d{end} is no result of this job: move it away, or name another"):
        predict(done, output="new")
    assert contents(file.parent) == {file.name: b"mine"}


def test_the_results_of_another_photo_are_not_overwritten(done):
    before = times(done / "out")
    (done / "other").mkdir()
    write_photo(done / "other/A.png", 9)
    with pytest.raises(SetrError, match=r"/out holds the results of .*/photos/a.png, whose names those of .*/A.png"):
        predict(done, done / "other")
    assert times(done / "out") == before


def test_a_damaged_record_is_named_and_one_without_an_end_dropped(done, original):
    records = done / "out" / RECORDS_FILE
    lines = records.read_bytes().splitlines(keepends=True)
    (done / "out/d.csv").unlink()
    records.write_bytes(b"".join(lines) + lines[0][:20])
    assert predict(done) == 1
    write_photo(done / "photos/a.png", 9)
    assert predict(done) == 1
    assert len(records.read_bytes().splitlines()) == len(lines) + 4
    for damaged in (b"\0\n", b'{"name": "a"}\n', b'{"name": 1, "photo": "a", "state": null}\n', b"[]\n"):
        records.write_bytes(lines[0] + damaged + lines[1])
        with pytest.raises(SetrError, match=r"line 2 of .*/_records.jsonl is damaged: choose another output folder"):
            predict(done)


def run_killed_at(number, folder):
    kill_at_change(number, folder / "out")
    sys.exit(predict(folder))


@pytest.mark.parametrize("number", range(2, 20, 4))
def test_killed_at_a_change_it_goes_on_as_if_it_was_not(done, original, number):
    """At the beginning, one photo has changed, of another a result is missing, and a third has none."""
    for path in (done / "out/c_overlay.jpg", *(done / f"out/d{end}" for end in RESULTS)):
        path.unlink()
    (done / "photos/a.png").touch()
    killed = start(run_killed_at, number, done)
    killed.join()
    assert killed.exitcode == -9
    assert predict(done) == 1
    assert contents(done / "out") == contents(original / "out")


def test_on_a_full_disk_nothing_is_lost_and_with_more_room_it_goes_on(done, original):
    expected = contents(original / "out")
    num_done = set()
    with small_disk(done / "out", 2**20) as disk:
        shutil.rmtree(disk, ignore_errors=True)
        for num_pages in range(0, 40, 2):
            filling = disk / "filling"
            filling.write_bytes(bytes(2**20 - (num_pages + 1) * 4096))
            try:
                status = predict(done)
            except SetrError as error:
                assert re.match(r"\S+/out/\S+ is not written: (its disk is full .* needed|.* missing$)", str(error))
                status = None
            filling.unlink()
            written = contents(disk)
            assert written.items() <= expected.items()
            num_done.add(len(written))
            assert predict(done) == 1
            assert contents(disk) == expected
            if status == 1:
                break
            for path in disk.iterdir():
                path.unlink()
    assert status == 1 and len(num_done) > 3


def test_each_bad_photo_is_named_and_the_rest_is_done(done, capsys):
    photos = done / "photos"
    for name, damage in DAMAGES.items():
        (photos / f"{name}.jpg").write_bytes(damage(small_photo(np.random.default_rng(0))))
    os.mkfifo(photos / "pipe.png")
    (photos / "device.png").symlink_to("/dev/zero")
    (photos / "dangling.png").symlink_to("nowhere")
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "unreadable.png").symlink_to("/proc/self/mem")
    assert predict(done) == 1
    captured = capsys.readouterr()
    skipped = re.findall(f"^skipped {photos}/(.*) cannot be read as a photo: (.*)$", captured.err, re.MULTILINE)
    reasons = {
        "device.png": "it is not a file, but a pipe or a device",
        "pipe.png": "it is not a file, but a pipe or a device",
        "dangling.png": "No such file or directory",
        "loop.png": "Too many levels of symbolic links",
        "unreadable.png": "Input/output error",
    }
    assert reasons.items() <= dict(skipped).items()
    assert [name for name, _ in skipped] == sorted([*reasons, "b.jpg", *(f"{name}.jpg" for name in DAMAGES)])
    assert captured.out.startswith(f"3 of {3 + len(skipped)} photos segmented")


def test_that_all_photos_are_bad_is_said(done, capsys):
    assert predict(done, done / "photos/b.jpg", done / "nowhere.jpg", "x" * 300, output="new") == 1
    captured = capsys.readouterr()
    assert captured.out == f"none of 3 photos segmented into {done}/new\n"
    assert captured.err.splitlines()[-2:] == [
        f"skipped {done}/nowhere.jpg cannot be read as a photo: No such file or directory",
        f"skipped {'x' * 300} cannot be read as a photo: File name too long",
    ]


def test_photos_have_results_whatever_their_names_and_nothing_is_printed_raw(done, capsys):
    shutil.rmtree(done / "photos")
    names = [b"red\x1b[31m\nline", b"not UTF-8 \xff", "\u202eright to left".encode(), b"=1+1"]
    too_long = [b"x" * 251, b"y" * 235]
    (done / "photos").mkdir()
    for name in (*names, *too_long):
        write_photo(done / "photos" / os.fsdecode(name + b".png"), 0)
    (done / "photos" / os.fsdecode(names[0] + b".jpg")).write_bytes(b"bad")
    names[0:1] = [names[0] + b"_png"]
    output = os.fsdecode(b"\x1b[31m\xff")
    for _ in range(2):
        assert predict(done, output=output) == 1
        captured = capsys.readouterr()
        assert all(line.isprintable() for line in captured.out.splitlines())
        skipped = [line for line in captured.err.splitlines() if line.startswith("skipped ")]
        assert len(skipped) == 3 and all(line.isprintable() for line in skipped)
        assert skipped[0].startswith(rf"skipped {done}/photos/red\x1b[31m line.jpg cannot be read as a photo: ")
        for line, name in zip(skipped[1:], too_long):
            assert line == (
                f"skipped {done}/photos/{name.decode()}.png: its results cannot have its name: File name too long"
            )
        assert captured.out.startswith("4 of 7 photos segmented into ")
    expected = {os.fsdecode(name) + end for name in names for end in RESULTS}
    assert {path.name for path in (done / output).iterdir()} == {*expected, RECORDS_FILE, SETTINGS_FILE}


def test_names_that_are_one_to_a_file_system_are_told_apart_or_refused():
    composed, decomposed = "\u00e9", "e\u0301"
    photos = [
        Path("IMG.jpg"),
        Path("img.png"),
        Path(f"{composed}.jpg"),
        Path(f"{decomposed.upper()}.png"),
        Path("b.x.png"),
    ]
    names = ["IMG_jpg", "img_png", f"{composed}_jpg", f"{decomposed.upper()}_png", "b.x"]
    assert result_names({photo: photo for photo in photos}) == names
    below = {Path("all", photo): Path("day", photo) for photo in photos}
    assert result_names(below) == [f"day/{name}" for name in names]
    assert result_names({Path("a/c.jpg"): Path("a/c.jpg"), Path("b/c.jpg"): Path("b/c.jpg")}) == ["a/c", "b/c"]
    for first, second in (("a/IMG.jpg", "b/img.jpg"), (f"a/{composed}.jpg", f"b/{decomposed}.jpg")):
        message = f"the results of {first} and {second} would have the same names: rename one, pass the folder above"
        with pytest.raises(SetrError, match=message):
            result_names({Path(photo): Path(Path(photo).name) for photo in ("a/c.jpg", first, second)})
    for folder in ("b.png", "B.CSV", "b_overlay.jpg", "_settings.json", "_records.jsonl/c", "_running.lock"):
        with pytest.raises(
            SetrError, match=f"{folder}/a.png: a file of the results would have the name of its folder"
        ):
            result_names({path: path for path in (Path("b.jpg"), Path(folder, "a.png"))})


def test_a_photo_of_no_use_to_the_model_is_named(done, capsys):
    """It would be enlarged beyond all measure."""
    Image.new("RGB", (1, 30_000)).save(done / "photos/long.png")
    SetrImageProcessor(do_split_image=True, size={"shortest_edge": 3200}, crop_size=32, stride=32).save_pretrained(
        done / "model"
    )
    assert predict(done, done / "photos/long.png", output="new") == 1
    assert f"skipped {done}/photos/long.png: " in capsys.readouterr().err

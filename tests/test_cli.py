"""The command line: what each job answers to `--help` and to a bare call, how options are spelled, what errors say."""

import errno
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from paths import SCRIPTS
from transformers import TrainingArguments

import setr_hf_cli
from setr_hf.cli import JobParser, positive, run_job
from setr_hf.data.arguments import DataArguments, SplitArguments
from setr_hf.errors import SetrError
from setr_hf_ending import SIGNALS


JOBS = sorted(path.stem for path in SCRIPTS.glob("*.py"))
# Jobs that need no options.
BARE_JOBS = {"demo", "doctor", "recipes"}


def run_script(job):
    runpy.run_path(str(SCRIPTS / f"{job}.py"), run_name="__main__")


def run_console(job):
    sys.argv.insert(1, job)
    sys.exit(setr_hf_cli.main())


@pytest.fixture(params=[run_script, run_console], ids=["script", "console"])
def call(request, monkeypatch, capsys):
    """A function that runs a job as a user does, and returns its exit status and what it printed."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(job, *options):
        monkeypatch.setattr(sys, "argv", [f"{job}.py", *options])
        with pytest.raises(SystemExit) as end:
            request.param(job)
        return end.value.code, *capsys.readouterr()

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def listed_options(text):
    return [line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  --")]


@pytest.mark.parametrize("job", JOBS)
def test_help_lists_each_option_once_on_one_screen(call, job):
    status, out, err = call(job, "--help")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("usage: ") and len(lines) <= 50
    assert max(map(len, lines)) <= 100
    options = listed_options(out)
    assert len(options) == len(set(options))
    assert not [option for option in options if "_" in option]


@pytest.mark.parametrize("job", sorted(set(JOBS) - BARE_JOBS))
def test_a_bare_call_says_in_a_line_what_is_missing(call, job):
    status, out, err = call(job)
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[-1].startswith("error: ")
    assert all(line.startswith("usage: ") for line in lines[:-1])
    assert len(lines) <= 2


@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("predict", ["photo.jpg", "--output", "out", "--model"]),
        ("evaluate", ["--dataset", "no/such/data", "--model"]),
        ("compare", ["--dataset", "no/such/data", "no/such/model"]),
        ("train", ["--dataset", "no/such/data", "--use-cpu", "--model"]),
        ("train", ["--dataset", "no/such/data", "--use-cpu", "--encoder"]),
    ],
)
def test_a_model_that_is_nowhere_is_named_before_any_work(call, job, options):
    status, out, err = call(job, *options, "no/such/model")
    assert (status, out, err) == (2, "", "error: no/such/model is neither a folder here nor a model on the Hub\n")


def console(*arguments):
    return subprocess.run([sys.executable, "-m", "setr_hf_cli", *arguments], capture_output=True, text=True)


def test_the_console_command_answers_without_importing_the_package():
    script = """
import sys
import setr_hf_cli
for arguments in (["--help"], ["--version"], ["trian"], []):
    sys.argv = ["setr-hf", *arguments]
    setr_hf_cli.main()
assert not {"setr_hf", "torch", "transformers"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_console_command_lists_the_jobs_and_names_the_closest():
    listing = console("--help")
    assert listing.returncode == 0
    assert [line.split()[0] for line in listing.stdout.splitlines()[2:]] == JOBS
    bare = console()
    assert (bare.returncode, bare.stdout, bare.stderr) == (2, "", listing.stdout)
    typo = console("trian")
    assert (typo.returncode, typo.stdout) == (2, "")
    assert typo.stderr.splitlines()[1:] == ["error: there is no job 'trian': did you mean train?"]
    assert "setr-hf --help lists the jobs" in console("xyz").stderr


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, setr_hf_cli.SPIN_COUNT), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_of_jobs_do_not_wait_for_each_other_awake_unless_they_are_told_to(monkeypatch, given, count):
    monkeypatch.setattr(os, "environ", dict(given))
    setr_hf_cli.let_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == count


@dataclass
class Sizes:
    _argument_group_name = "sizes"

    crop_size: int = field(default=512, metadata={"help": "side of a crop"})
    test_size: list[int] | None = field(default=None, metadata={"help": "sides in evaluation"})
    keep_ratio: bool = field(default=False, metadata={"help": "never stretch"})


@pytest.fixture
def parser():
    hidden = {name for name in TrainingArguments.__dataclass_fields__ if name != "output_dir"}
    parser = JobParser((Sizes, TrainingArguments), hidden, prog="job")
    parser.add_argument("--num-images", type=positive, default=3, help="at most")
    parser.add_argument("--dtype", choices=("float32", "float16"), required=True, help="of the model")
    return parser


@pytest.mark.parametrize("dashed", [True, False])
def test_options_are_accepted_in_both_spellings(parser, dashed):
    def spelled(option):
        return option.replace("_", "-") if dashed else option

    command = ["--dtype", "float16", f"{spelled('--crop_size')}=48", spelled("--num_images"), "7"]
    command += [spelled("--max_steps"), "5", spelled("--test_size"), "3", "4", spelled("--keep_ratio")]
    options = parser.parse_args([*command, spelled("--run_name") + "=my_run"])
    assert (options.crop_size, options.num_images, options.max_steps, options.keep_ratio) == (48, 7, 5, True)
    assert (options.test_size, options.run_name) == ([3, 4], "my_run")


def test_the_help_is_compact_and_leaves_training_arguments_to_help_all(parser, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = parser.format_help()
    assert "usage: job --dtype {float32,float16} [options]\n" in text
    for line in (
        "  --dtype {float32,float16}  of the model",
        "  --num-images N             at most (default: 3)",
        "  --crop-size N              side of a crop (default: 512)",
        "  --test-size N …            sides in evaluation",
        "  --keep-ratio               never stretch",
    ):
        assert line in text.splitlines()
    assert "--output-dir" in text and "--max-steps" not in text
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help-all"])
    assert end.value.code == 0
    options = listed_options(capsys.readouterr().out)
    assert {"--crop-size", "--output-dir", "--max-steps", "--learning-rate"} <= set(options)
    assert len(options) == len(set(options)) and "--max_steps" not in options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "4"], "unrecognized arguments: --crop 4"),
        (["--num-images", "0"], "argument --num-images: must be a whole number of at least 1, got '0'"),
        (["--crop_size", "x"], "argument --crop-size: invalid int value: 'x'"),
    ],
)
def test_mistakes_on_the_command_line_take_a_short_usage_and_a_line(parser, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--dtype", "float32", *options])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"usage: job --dtype {{float32,float16}} [options]\nerror: {message}\n"


def test_values_that_a_dataclass_refuses_are_the_users(parser):
    options = parser.parse_args(["--dtype", "float32", "--warmup_steps", "-1"])
    with pytest.raises(SetrError, match="warmup_steps"):
        parser.parse_dict(vars(options), allow_extra_keys=True)


def test_data_options_are_optional_or_required_with_a_split():
    assert JobParser(DataArguments).parse_args([]).dataset is None
    options = JobParser(SplitArguments).parse_args(["--dataset", "mine", "--annotation_column", "mask"])
    assert (options.dataset, options.split, options.annotation_column) == ("mine", "validation", "mask")
    with pytest.raises(SystemExit):
        JobParser(SplitArguments).parse_args([])


def raiser(error, cause=None):
    def job():
        raise error from cause

    return job


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SetrError("photo.png is\n  not a photo"), "photo.png is not a photo"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "[Errno 13] Permission denied: 'out'"),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(capsys, error, line):
    assert run_job(raiser(error)) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_what_transformers_says_of_a_missing_repository_is_one_line(capsys):
    assert run_job(raiser(OSError("We couldn't connect to\nthe Hub"), LocalEntryNotFoundError("no file"))) == 2
    assert capsys.readouterr().err == "error: We couldn't connect to the Hub\n"


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), OSError("cannot write mode F"), FileNotFoundError(errno.ENOENT, "No such file", "x")],
)
def test_any_other_exception_is_a_bug_and_keeps_its_traceback(error):
    with pytest.raises(type(error)) as raised:
        run_job(raiser(error))
    assert raised.value is error


class BadSample(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise SetrError("sample 7: the annotation is 3×4, the photo 5×6")


def test_a_mistake_found_by_a_data_loaders_worker_is_one_line(capsys):
    loader = torch.utils.data.DataLoader(BadSample(), num_workers=1)
    assert run_job(lambda: len(list(loader))) == 2
    assert capsys.readouterr().err == "error: sample 7: the annotation is 3×4, the photo 5×6\n"

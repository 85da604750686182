"""The console command `setr-hf JOB …`: each job is the script of that name. This module lies beside the package, whose
import takes seconds, so that what needs no job is answered at once.
"""

import ast
import difflib
import importlib.util
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from setr_hf_ending import end_at_signals


USAGE = "usage: setr-hf JOB [options]"
# How often a thread of torch looks whether the others are done before it sleeps. By itself libgomp looks 300,000
# times, and where other programs want the same cores, nearly all time goes into that.
SPIN_COUNT = "10000"


def find_scripts() -> dict[str, Path]:
    """The script of each job, by its name. Raises `FileNotFoundError` if the installation lacks them."""
    package = importlib.util.find_spec("setr_hf")
    if package is None or package.origin is None:
        raise FileNotFoundError("the package setr_hf is missing: reinstall setr-hf")
    # An installed wheel carries the scripts inside the package, a checkout has them beside `src`.
    folder = Path(package.origin).parent
    for scripts in (folder / "scripts", folder.parents[1] / "scripts"):
        if scripts.is_dir():
            return {path.stem: path for path in sorted(scripts.glob("*.py"))}
    raise FileNotFoundError(f"no scripts in {folder}: reinstall setr-hf")


def purpose(script: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def load_script(path: Path) -> ModuleType:
    """Imports a script as a module, under a name by which worker processes find its functions again."""
    spec = importlib.util.spec_from_file_location(f"setr_hf_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python script")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def leave_out_advice_to_torchao() -> None:
    """Torch advises the authors of torchao, which Transformers imports where it is installed, in two lines of log."""

    def is_other(record: logging.LogRecord) -> bool:
        return "register_constant() on Enum subclasses" not in record.getMessage()

    logging.getLogger("torch.utils._pytree").addFilter(is_other)


def let_threads_sleep() -> None:
    """Sets [`SPIN_COUNT`] for this process and those that it starts, unless the user has set how threads wait."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def run_script(path: str | Path) -> int:
    """Runs the job of a script, whose options the command line holds; returns its exit status."""
    end_at_signals()
    let_threads_sleep()  # Heeded when torch is imported.
    leave_out_advice_to_torchao()
    from setr_hf.cli import run_job

    return run_job(lambda: load_script(Path(path)).main())


def main() -> int:
    """Runs the job that the command line names; returns its exit status."""
    end_at_signals()
    scripts = find_scripts()
    job = sys.argv[1] if len(sys.argv) > 1 else None
    if job is None or job in ("-h", "--help"):
        stream = sys.stderr if job is None else sys.stdout
        lines = [f"  {name:<10} {purpose(path)}" for name, path in scripts.items()]
        print(f"{USAGE}   (setr-hf JOB --help lists a job's options)\n", *lines, sep="\n", file=stream)
        return 2 if job is None else 0
    if job == "--version":
        print(f"setr-hf {version('setr-hf')}")
        return 0
    if job not in scripts:
        closest = difflib.get_close_matches(job, scripts, n=1)
        hint = f"did you mean {closest[0]}?" if closest else "setr-hf --help lists the jobs"
        print(f"{USAGE}\nerror: there is no job {job!r}: {hint}", file=sys.stderr)
        return 2

    sys.argv[:2] = [f"setr-hf {job}"]
    return run_script(scripts[job])


if __name__ == "__main__":
    sys.exit(main())

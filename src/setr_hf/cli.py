"""The console command `setr-hf JOB …`: each job is the script of that name."""

import importlib.util
import sys
from pathlib import Path


# An installed wheel carries the scripts inside the package, a checkout has them beside `src`.
SCRIPT_FOLDERS = (Path(__file__).parent / "scripts", Path(__file__).parents[2] / "scripts")


def find_scripts() -> dict[str, Path]:
    """Path of each job's script by name."""
    folder = next((folder for folder in SCRIPT_FOLDERS if folder.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no scripts in {' or '.join(map(str, SCRIPT_FOLDERS))}: reinstall setr-hf")
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load_script(path: Path):
    """Imports a script as a module, so that worker processes of data loaders find its functions again."""
    spec = importlib.util.spec_from_file_location(f"setr_hf_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_job(job) -> int:
    """Runs a job's `main`; what a user got wrong is reported in a line, with exit status 2, not as a traceback."""
    try:
        return job()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def main() -> int:
    """Runs a job; returns its exit status, 2 for an unknown job."""
    scripts = find_scripts()
    if len(sys.argv) < 2 or sys.argv[1] not in scripts:
        wanted = sys.argv[1] if len(sys.argv) > 1 else None
        asked_for_help = wanted in ("-h", "--help")
        stream = sys.stdout if asked_for_help else sys.stderr
        print("usage: setr-hf JOB [options]   (setr-hf JOB --help lists a job's options)", file=stream)
        for name, path in scripts.items():
            purpose = load_script(path).__doc__.strip().splitlines()[0]
            print(f"  {name:<10} {purpose}", file=stream)
        return 0 if asked_for_help else 2
    job = sys.argv.pop(1)
    sys.argv[0] = f"setr-hf {job}"
    return run_job(load_script(scripts[job]).main)


if __name__ == "__main__":
    sys.exit(main())

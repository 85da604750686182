"""What MkDocs adds to the pages of this folder: the options of every job, from its own parser, notebooks, and those
pages of the repository that lie outside of it.
"""

import contextlib
import io
import json
import os
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from setr_hf_cli import find_scripts, load_script, purpose


ROOT = Path(__file__).parents[1]
JOBS = "<!-- the options of every job -->"
# Pages beside this folder that others link to.
OUTSIDE = ["CONTRIBUTING.md", "SECURITY.md", "model_cards/**/*.*"]
NOTEBOOK_LINK = re.compile(r"(?<=\]\()(?P<path>[^):#]+)\.ipynb(?=[)#])")
LINK = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        content = page_of_notebook(json.loads(notebook.content_string))
        files.append(File.generated(config, notebook.src_uri.replace(".ipynb", ".md"), content=content))
    return files


def page_of_notebook(notebook: dict) -> str:
    """The cells of a notebook and what they printed and showed, as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        if source.startswith("%%bash"):
            language, source = "bash", source.removeprefix("%%bash\n")
        else:
            language = "python"
        parts.append(f"```{language}\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/jpeg" in data:
                alternative = output["metadata"].get("image/jpeg", {}).get("alt", "")
                parts.append(f"![{alternative}](data:image/jpeg;base64,{''.join(data['image/jpeg']).strip()})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def within_the_site(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link["path"]))
        return link["path"] if target.startswith("docs/") else posixpath.relpath(target, folder or ".")

    if not folder.startswith("model_cards"):
        markdown = NOTEBOOK_LINK.sub(r"\g<path>.md", LINK.sub(within_the_site, markdown))
    return markdown.replace(JOBS, options_of_jobs()) if JOBS in markdown else markdown


def options_of_jobs() -> str:
    """What `setr-hf JOB --help` prints, of every job."""
    sections = []
    for job, script in find_scripts().items():
        commands = [[job, "cityscapes"], [job, "pascal-context"]] if job == "prepare" else [[job]]
        helps = "\n".join(f"```text\n{help_of(script, command)}```\n" for command in commands)
        sections.append(f"## {job}\n\n{purpose(script)}\n\n{helps}")
    return "\n".join(sections)


def help_of(script: Path, command: list[str]) -> str:
    arguments, columns = sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = [f"setr-hf {command[0]}"], "100"
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            load_script(script).main([*command[1:], "--help"])
    finally:
        sys.argv = arguments
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return text.getvalue()

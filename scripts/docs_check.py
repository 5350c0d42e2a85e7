#!/usr/bin/env python3
"""Checks that the documents are true.

- Every file that a document names (in backticks or as a link) exists.
- No document has what a merge leaves where both sides changed.
- Every ```sh block runs, in order, in a folder of its own per document, beside the Atoll of the environment. When an ```output block
  follows, that is what the sh block prints on stdout; a line `...` in it stands for any lines.
- ```console blocks are for people (they need another machine, or the network); everything else is left alone.

    scripts/with-atoll.sh scripts/docs_check.py
"""

import pathlib
import re
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(TOP.glob("*.md")), *sorted((TOP / "docs").rglob("*.md")), *sorted((TOP / "bench").glob("*.md")),
             *sorted((TOP / "templates").rglob("*.md")), *sorted((TOP / "examples").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\s*$")
NAMED_FILE = re.compile(r"`([A-Za-z0-9_./-]+\.(?:rs|sh|md|svelte|ts|proto|toml|css|py))`")
MERGED = re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(text):
    """(language, body, line number) of every fenced block."""
    language, body, began = None, [], 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if language is None and fence:
            language, body, began = fence.group(1), [], number
        elif language is not None and line.startswith("```"):
            yield language, "\n".join(body), began
            language = None
        elif language is not None:
            body.append(line)


def missing_files(path, text):
    tracked = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True).stdout.split()
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    for name in sorted(set(NAMED_FILE.findall(outside))):
        known = (TOP / name).exists() or (path.parent / name).exists() or any(f.endswith("/" + name) for f in tracked)
        if not known and not name.startswith("/"):
            yield f"{path.relative_to(TOP)}: names `{name}`, which does not exist"
    for target in LINK.findall(outside):
        if "://" not in target and not target.startswith(("mailto:", "/")) and not (path.parent / target).exists():
            yield f"{path.relative_to(TOP)}: links to {target}, which does not exist"


def matches(expected, printed):
    pattern = "\n".join(".*" if line.strip() == "..." else re.escape(line.rstrip()) for line in expected.splitlines())
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.rstrip().splitlines()), re.DOTALL)


def run_blocks(path, found, work):
    folder = work / path.relative_to(TOP).with_suffix("")
    folder.mkdir(parents=True)
    for index, (language, body, line) in enumerate(found):
        if language != "sh":
            continue
        place = f"{path.relative_to(TOP)}:{line}"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", body], cwd=folder, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
        following = found[index + 1] if index + 1 < len(found) else ("", "", 0)
        if done.returncode != 0:
            yield f"{place}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        elif following[0] == "output" and not matches(following[1], done.stdout):
            yield f"{place}: should print\n{following[1]}\nbut printed\n{done.stdout}"
        else:
            print(f"ok  {place}")


def main():
    problems = []
    with tempfile.TemporaryDirectory() as work:
        for path in DOCUMENTS:
            text = path.read_text()
            problems += missing_files(path, text)
            if MERGED.search(text):
                problems.append(f"{path.relative_to(TOP)}: has the marks of a merge")
            problems += run_blocks(path, list(blocks(text)), pathlib.Path(work))
    print(f"{len(DOCUMENTS)} documents read")
    for problem in problems:
        print(f"FAILED  {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

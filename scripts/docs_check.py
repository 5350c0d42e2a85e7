#!/usr/bin/env python3
"""Checks that the documents are true.

- Every file that a document names (in backticks or as a link) exists.
- Every ```sh block runs, in order, in a folder of its own per document, against a real Atoll. When an ```output block
  follows, that is what the sh block prints on stdout; a line `...` in it stands for any lines.
- ```console blocks are for people (they need another machine, or the network); everything else is left alone.

    scripts/docs_check.py --program target/release/atoll --work DIRECTORY
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(TOP.glob("*.md")), *sorted((TOP / "docs").rglob("*.md")), *sorted((TOP / "bench").glob("*.md")),
             *sorted((TOP / "templates").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\s*$")
NAMED_FILE = re.compile(r"`([A-Za-z0-9_./-]+\.(?:rs|sh|md|svelte|ts|proto|toml|css|json|py|txt))`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Files that exist only on a user's machine.
MADE_LATER = {"credentials.json", "package.json"}


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
        if not known and pathlib.Path(name).name not in MADE_LATER and not name.startswith("/"):
            yield f"{path.relative_to(TOP)}: names `{name}`, which does not exist"
    for target in LINK.findall(outside):
        if "://" not in target and not target.startswith(("mailto:", "/")) and not (path.parent / target).exists():
            yield f"{path.relative_to(TOP)}: links to {target}, which does not exist"


def matches(expected, printed):
    pattern = "\n".join(".*" if line.strip() == "..." else re.escape(line.rstrip()) for line in expected.splitlines())
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.rstrip().splitlines()), re.DOTALL)


class Atoll:
    """A real Atoll, with a data directory of its own and whatever port is free."""

    def __init__(self, program, work):
        self.program, self.data = program, work / "docs"
        self.data.mkdir(mode=0o700)
        self.log = open(work / "docs.log", "wb")
        self.process = subprocess.Popen([program, "up", "--data-dir", self.data, "--listen", "127.0.0.1:0"],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def wait_until_ready(self, seconds=300):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                url = json.loads((self.data / "credentials.json").read_text())["url"]
                with urllib.request.urlopen(url + "/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return url
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.1)
        sys.exit(f"atoll up is not ready; the end of its log:\n{self.tail()}")

    def tail(self):
        return pathlib.Path(self.log.name).read_bytes()[-4000:].decode(errors="replace")

    def stop(self, environment):
        subprocess.run([self.program, "rm", "--all"], env=environment, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=False, timeout=60)
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "atoll up did not end within a minute of SIGTERM"
        return None


def run_blocks(path, found, environment, work):
    folder = work / "docs-cwd" / path.name
    folder.mkdir(parents=True)
    for index, (language, body, line) in enumerate(found):
        if language != "sh":
            continue
        place = f"{path.relative_to(TOP)}:{line}"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", body], cwd=folder, env=environment, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
        if done.returncode != 0:
            yield f"{place}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            continue
        if index + 1 < len(found) and found[index + 1][0] == "output":
            expected = found[index + 1][1]
            if not matches(expected, done.stdout):
                yield f"{place}: should print\n{expected}\nbut printed\n{done.stdout}"
                continue
        print(f"ok  {place}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    options = parser.parse_args()
    program = options.program.resolve()

    problems, runnable = [], []
    for path in DOCUMENTS:
        text = path.read_text()
        problems += missing_files(path, text)
        found = list(blocks(text))
        if any(language == "sh" for language, _, _ in found):
            runnable.append((path, found))
    print(f"{len(DOCUMENTS)} documents, {len(runnable)} of them with commands")
    if runnable:
        atoll = Atoll(program, options.work)
        environment = {
            "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(options.work), "LANG": "C.UTF-8",
            "ATOLL_DATA_DIR": str(atoll.data),
        }
        try:
            url = atoll.wait_until_ready()
            key = json.loads((atoll.data / "credentials.json").read_text())["api_key"]
            environment |= {"ATOLL_URL": url, "ATOLL_API_KEY": key}
            for path, found in runnable:
                problems += run_blocks(path, found, environment, options.work)
        finally:
            problem = atoll.stop(environment)
            problems += [problem] if problem else []
    for problem in problems:
        print(f"FAILED  {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

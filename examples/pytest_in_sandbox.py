"""Runs a project's tests in a sandbox: the project goes in, the report comes out, whatever else the tests do stays there.

    python pytest_in_sandbox.py [DIRECTORY]      without one, a small project with a test that fails
"""

import io
import pathlib
import sys
import tarfile
import xml.etree.ElementTree as ElementTree

from e2b import CommandExitException, Sandbox, Template

TEMPLATE = "example-pytest"
PROJECT = {
    "add.py": "def add(a, b):\n    return a + b\n",
    "test_add.py": (
        "from add import add\n\n\ndef test_numbers():\n    assert add(2, 3) == 5\n\n\n"
        "def test_texts():\n    assert add('a', 'b') == 'ba'\n"
    ),
}


def packed(directory):
    """The project as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        if directory:
            archive.add(directory, arcname=".")
        else:
            for name, text in PROJECT.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def main():
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    # Built once; from then on every sandbox begins with pytest in it.
    if not Template.exists(TEMPLATE):
        install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pytest"
        Template.build(Template().from_template("base").run_cmd(install, user="root"), TEMPLATE)
    with Sandbox.create(TEMPLATE, timeout=300, allow_internet_access=False) as sandbox:
        sandbox.files.write("/tmp/project.tar", packed(directory))
        sandbox.commands.run("mkdir -p project && tar -x -f /tmp/project.tar -C project")
        try:
            sandbox.commands.run("cd project && python3 -m pytest -q --junitxml=/tmp/report.xml", timeout=250)
            status = 0
        except CommandExitException as failed:
            status = failed.exit_code
            print(failed.stdout)
        suite = ElementTree.fromstring(sandbox.files.read("/tmp/report.xml")).find("testsuite")
        print(f"tests: {suite.get('tests')}, failed: {suite.get('failures')}, errors: {suite.get('errors')}")
    return status


if __name__ == "__main__":
    sys.exit(main())

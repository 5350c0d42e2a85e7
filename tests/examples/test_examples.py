"""Each example as its reader would run it."""

import os
import pathlib
import subprocess
import sys
import threading

import fake_model

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def run(name, *arguments, cwd, env=None, status=0):
    command = [sys.executable, "-B", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=400)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_agent_loop(tmp_path):
    with fake_model.server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": "none"}
        try:
            assert run("agent_loop.py", "How many primes below 10,000?", cwd=tmp_path, env=env) == "There are 1229.\n"
        finally:
            server.shutdown()


def test_code_interpreter(tmp_path):
    said = run("code_interpreter.py", cwd=tmp_path)
    assert "sold in all: 107\n" in said and "chart: Sales" in said and "KeyError" in said and "42 in bash" in said
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_pytest_in_sandbox(tmp_path):
    said = run("pytest_in_sandbox.py", cwd=tmp_path, status=1)
    assert "tests: 2, failed: 1, errors: 0\n" in said and "test_texts" in said
    (tmp_path / "test_fine.py").write_text("def test_fine():\n    assert True\n")
    assert run("pytest_in_sandbox.py", str(tmp_path), cwd=tmp_path) == "tests: 1, failed: 0, errors: 0\n"

"""Every method of the synchronous Sandbox that runs code, and what it is answered with."""

import os
import threading
import time
import urllib.error
import urllib.request

import pytest
from e2b import InvalidArgumentException, NotFoundException, SandboxException, TimeoutException
from e2b_code_interpreter import Sandbox


def test_the_last_value_is_the_result_and_counted(fresh: Sandbox):
    first = fresh.run_code("1+1")
    assert (first.text, first.error, first.execution_count) == ("2", None, 1)
    assert [result.is_main_result for result in first.results] == [True]
    assert fresh.run_code("x = 3").results == []
    again = fresh.run_code("x")
    assert (again.text, again.execution_count) == ("3", 3)


def test_a_string_is_shown_without_its_quotes(sandbox: Sandbox):
    assert sandbox.run_code("'it is'").text == "it is"
    assert sandbox.run_code("''").text in ("", None)


def test_output_comes_in_its_streams_and_in_order(sandbox: Sandbox):
    seen = []
    execution = sandbox.run_code(
        "import sys\nfor i in range(3): print('out', i, flush=True)\nprint('err', file=sys.stderr)",
        on_stdout=lambda message: seen.append((message.line, message.error)),
        on_stderr=lambda message: seen.append((message.line, message.error)),
    )
    assert "".join(execution.logs.stdout) == "out 0\nout 1\nout 2\n"
    assert "".join(execution.logs.stderr) == "err\n"
    assert "".join(line for line, error in seen if not error) == "out 0\nout 1\nout 2\n"
    assert "".join(line for line, error in seen if error) == "err\n"


@pytest.mark.few
def test_output_is_streamed_while_code_runs(sandbox: Sandbox):
    first = []
    began = threading.Event()

    def seen(message):
        first.append(message)
        began.set()

    code = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('/tmp/go'): time.sleep(.05)\nprint('over')"
    thread = threading.Thread(target=sandbox.run_code, args=(code,), kwargs={"on_stdout": seen})
    thread.start()
    assert began.wait(20), "nothing was seen before the end"
    assert isinstance(first[0].timestamp, int) and "over" not in first[0].line
    sandbox.files.write("/tmp/go", "")
    thread.join(20)
    sandbox.files.remove("/tmp/go")


def test_an_error_has_name_value_and_traceback(sandbox: Sandbox):
    seen = []
    execution = sandbox.run_code("print('before')\nraise ValueError('so')", on_error=seen.append)
    assert (execution.error.name, execution.error.value) == ("ValueError", "so")
    assert "ValueError: so" in execution.error.traceback and "\x1b" not in execution.error.traceback
    assert execution.logs.stdout == ["before\n"] and execution.text is None
    assert [error.name for error in seen] == ["ValueError"]
    assert sandbox.run_code("def f(:").error.name == "SyntaxError"


@pytest.mark.few
def test_results_by_kind(sandbox: Sandbox):
    code = """
from IPython.display import HTML, JSON, Image, Javascript, Latex, Markdown, SVG, display
display(HTML('<b>h</b>'), Markdown('*m*'), Latex('$l$'), JSON({'a': [1]}), Javascript('1'), SVG('<svg xmlns="http://www.w3.org/2000/svg"/>'))
display({'application/pdf': 'cGRm', 'text/plain': 'p'}, raw=True)
display({'application/x-own': 'own'}, raw=True)
import io
from PIL import Image as Picture
for kind in ('PNG', 'JPEG'):
    file = io.BytesIO()
    Picture.new('RGB', (2, 2)).save(file, kind)
    display(Image(file.getvalue(), format=kind.lower()))
42
"""
    seen = []
    execution = sandbox.run_code(code, on_result=seen.append)
    assert execution.error is None, execution.error
    html, markdown, latex, json, javascript, svg, pdf, own, png, jpeg, main = execution.results
    assert html.html == "<b>h</b>" and markdown.markdown == "*m*" and latex.latex == "$l$"
    assert json.json == {"a": [1]} and javascript.javascript == "1" and svg.svg.startswith("<svg")
    assert pdf.pdf == "cGRm" and own.extra == {"application/x-own": "own"}
    assert png.png.startswith("iVBOR") and jpeg.jpeg.startswith("/9j/")
    assert "png" in list(png.formats()) and main.text == "42" and main.is_main_result
    assert len(seen) == len(execution.results) and not any(result.is_main_result for result in seen[:-1])


def test_a_data_frame_is_a_table_and_data(sandbox: Sandbox):
    frame = sandbox.run_code(
        "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': [.5, float('nan')], 't': pd.to_datetime(['2026-01-02', None])})"
    ).results[0]
    assert frame.html.strip().startswith("<div>") and "a" in frame.text
    assert frame.data == {"a": [1, 2], "b": [0.5, None], "t": ["2026-01-02T00:00:00", "NaT"]}


CHARTS = {
    "line": "plt.plot([1, 2, 3], [4, 5, 6], label='l'); plt.xlabel('x'); plt.ylabel('y')",
    "scatter": "plt.scatter([1, 2], [3, 4])",
    "bar": "plt.bar(['a', 'b'], [4, 5])",
    "pie": "plt.pie([1, 3], labels=['a', 'b'])",
    "box_and_whisker": "plt.boxplot([[1, 2, 3, 4, 5], [2, 3, 4, 6, 7]], labels=['a', 'b'], patch_artist=True)",
    "superchart": "fig, (a, b) = plt.subplots(1, 2); a.plot([1], [2]); b.bar(['q'], [3])",
}


@pytest.mark.parametrize("kind", CHARTS)
def test_a_figure_is_a_picture_and_a_chart(sandbox: Sandbox, kind: str):
    title = "" if kind == "superchart" else "plt.title('T')\n"
    execution = sandbox.run_code(f"import matplotlib.pyplot as plt\n{CHARTS[kind]}\n{title}plt.show()")
    assert execution.error is None, execution.error
    (figure,) = execution.results
    assert figure.png.startswith("iVBOR")
    chart = figure.chart
    assert chart.type.value == kind and len(chart.elements) > 0
    if kind == "line":
        assert (chart.title, chart.x_label, chart.y_label) == ("T", "x", "y")
        assert chart.elements[0].label == "l" and chart.elements[0].points == [(1, 4), (2, 5), (3, 6)]
    if kind == "bar":
        assert [(bar.label, bar.value) for bar in chart.elements] == [("a", 4), ("b", 5)]


def test_environments_hold_for_one_execution(sandbox: Sandbox):
    look = "import os; os.environ.get('ONE', 'none')"
    assert sandbox.run_code(look, envs={"ONE": "1 '\"$\n"}).text.startswith("1 ")
    assert sandbox.run_code(look).text == "none"
    assert sandbox.run_code("import os; os.environ['ALWAYS']").text == "here"
    assert sandbox.run_code("import os; os.environ['ALWAYS']", envs={"ALWAYS": "other"}).text == "other"
    assert sandbox.run_code("import os; os.environ['ALWAYS']").text == "here"
    for language, code in (("bash", 'echo "[$ONE]"'), ("javascript", "console.log(`[${process.env.ONE ?? ''}]`)")):
        assert sandbox.run_code(code, language=language, envs={"ONE": "a b'c"}).logs.stdout == ["[a b'c]\n"]
        assert sandbox.run_code(code, language=language).logs.stdout == ["[]\n"]


def test_bash(sandbox: Sandbox):
    assert sandbox.run_code("a=5; cd /tmp; f() { echo $a; }", language="bash").error is None
    assert sandbox.run_code("f; pwd; ls /proc/self/fd/3 2>/dev/null", language="bash").logs.stdout[0].startswith("5\n")
    failed = sandbox.run_code("echo out; echo err >&2; (exit 7)", language="bash")
    assert "".join(failed.logs.stdout) == "out\n" and "".join(failed.logs.stderr) == "err\n"
    assert failed.error.value == "exit status 7"
    assert sandbox.run_code("if then", language="bash").error is not None


def test_javascript(sandbox: Sandbox):
    def run(code):
        return sandbox.run_code(code, language="js")

    assert run("const x = 1; x + 1").text == "2"
    assert run("const x = 2; x").text == "2", "a constant may be declared again"
    assert run("({ a: [1, { b: 2 }] })").text == "{ a: [ 1, { b: 2 } ] }"
    assert run("await new Promise((done) => setTimeout(() => done(7), 10))").text == "7"
    assert run("import os, { platform } from 'node:os'; platform() + typeof os.cpus").text == "linuxfunction"
    assert run("const { sep } = await import('node:path'); sep").text == "/"
    assert run("console.log('out'); console.error('err')").logs.stderr == ["err\n"]
    error = run("throw new TypeError('so')").error
    assert (error.name, error.value) == ("TypeError", "so") and "kernel.js" not in error.traceback
    assert run("let (").error.name == "SyntaxError"
    assert run("display.html('<b>'); 1").results[0].html == "<b>"
    assert run("import nothing from 'no-such-package'").error is not None


def test_typescript(sandbox: Sandbox):
    assert sandbox.run_code("const n: number = 4; interface A { x: string }; n * 2", language="ts").text == "8"
    assert sandbox.run_code("const n: = 4", language="typescript").error.name == "SyntaxError"


@pytest.mark.few
def test_contexts(fresh: Sandbox):
    assert sorted(context.language for context in fresh.list_code_contexts()) == ["javascript", "python"]
    context = fresh.create_code_context(cwd="/tmp")
    assert (context.language, context.cwd) == ("python", "/tmp")
    assert fresh.run_code("import os; x = 1; os.getcwd()", context=context).text == "/tmp"
    assert fresh.run_code("x").error.name == "NameError", "contexts share nothing"
    assert fresh.run_code("import os; os.getcwd()").text == "/home/user"
    assert context.id in [found.id for found in fresh.list_code_contexts()]
    fresh.restart_code_context(context)
    assert fresh.run_code("x", context=context).error.name == "NameError"
    assert fresh.run_code("import os; os.getcwd()", context=context).text == "/tmp"
    fresh.restart_code_context(context.id)
    fresh.remove_code_context(context)
    assert context.id not in [found.id for found in fresh.list_code_contexts()]
    for call in (fresh.remove_code_context, fresh.restart_code_context, lambda gone: fresh.run_code("1", context=gone)):
        with pytest.raises(NotFoundException, match=f"Context {context.id} not found"):
            call(context)
    script = fresh.create_code_context(language="js", cwd="/tmp")
    assert fresh.run_code("process.cwd()", context=script).text == "/tmp"
    fresh.remove_code_context(script.id)


@pytest.mark.few
def test_what_is_wrong_is_said(sandbox: Sandbox):
    context = sandbox.create_code_context()
    with pytest.raises(InvalidArgumentException):
        sandbox.run_code("1", language="python", context=context)
    sandbox.remove_code_context(context)
    with pytest.raises(SandboxException, match="cobol"):
        sandbox.run_code("1", language="cobol")
    with pytest.raises(SandboxException, match="cobol"):
        sandbox.create_code_context(language="cobol")


@pytest.mark.parametrize("cwd", ["/root", "/home/user/not-there"])
@pytest.mark.parametrize("language", ["python", "js"])
def test_a_context_of_a_directory_that_can_not_be_entered_begins_at_home(fresh: Sandbox, cwd, language):
    context = fresh.create_code_context(cwd=cwd, language=language)
    assert context.cwd == cwd and fresh.list_code_contexts()[-1].cwd == cwd
    where = "import os; os.getcwd()" if language == "python" else "process.cwd()"
    assert fresh.run_code(where, context=context).text == "/home/user"
    fresh.remove_code_context(context.id)


def test_a_picture_that_is_saved_is_shown_and_a_figure_is_not_shown_twice(sandbox: Sandbox):
    make = "from PIL import Image\nimage = Image.new('RGB', (4, 4), 'red')\n"
    execution = sandbox.run_code(make + "image.save('saved.png')\nprint('saved')")
    assert execution.error is None and execution.logs.stdout == ["saved\n"]
    assert [result.png.startswith("iVBOR") for result in execution.results] == [True]
    assert sandbox.files.get_info("/home/user/saved.png").size > 0
    assert sandbox.run_code("import io; image.save(io.BytesIO(), 'PNG')").results == []
    figure = sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('figure.png')\nplt.show()")
    assert figure.error is None and len(figure.results) == 1
    in_a_worker = "import os\nif os.fork() == 0:\n    image.save('w.png'); os._exit(0)\nprint(os.wait()[1])"
    worker = sandbox.run_code(in_a_worker)
    assert worker.results == [] and worker.logs.stdout == ["0\n"]


def test_deno(fresh: Sandbox):
    def text(code, **more):
        return fresh.run_code(code, language="deno", **more).text

    assert text("Deno.cwd()") == text("process.cwd()") == "/home/user"
    assert text("Deno.env.get('FOO')", envs={"FOO": "bar"}) == "bar" and text("Deno.env.get('FOO') || 'none'") == "none"
    assert text("function less(x: number, y: number): number { return x - y }\nless(1, 2)") == "-1"
    assert text("await (async () => 'done')()") == "done"
    assert text("import { basename } from 'node:path'\nbasename('/a/b')") == "b"
    context = fresh.create_code_context(cwd="/tmp", language="deno")
    assert context.language == "deno" and fresh.run_code("Deno.cwd()", context=context).text == "/tmp"
    assert fresh.run_code("typeof Deno", language="js").text == "undefined"


SHOWS_ITSELF = """{
  [Symbol.for("Jupyter.display")]() {
    return { "text/plain": "plain", "text/html": "<b>it</b>" }
  }
}"""


@pytest.mark.parametrize("language", ["js", "ts", "deno", "tslab"])
def test_what_begins_with_a_brace_is_an_object_or_else_a_block(fresh: Sandbox, language: str):
    def run(code):
        execution = fresh.run_code(code, language=language)
        assert execution.error is None, execution.error
        return execution

    assert run("{ a: 1, b: [2] }").text == "{ a: 1, b: [ 2 ] }"
    assert run("{ let inner = 3; console.log(inner) }").logs.stdout == ["3\n"]
    (shown,) = run(SHOWS_ITSELF).results
    assert (shown.text, shown.html, shown.is_main_result) == ("plain", "<b>it</b>", True)
    slow = run("display({ async [Symbol.for('Jupyter.display')]() { return { 'text/html': '<i>late</i>' } } })")
    assert [result.html for result in slow.results if result.html] == ["<i>late</i>"]


@pytest.mark.parametrize("words", ["[j]upyter-server", "[i]pykernel_launcher", "[u]vicorn main:app"])
def test_what_is_killed_by_the_name_that_watchers_know_comes_back(fresh: Sandbox, words):
    assert fresh.run_code("x = 1; x").text == "1"
    fresh.commands.run(f"pkill -9 -f '{words}'", user="root")
    deadline = time.monotonic() + 30
    while True:
        try:
            if fresh.run_code("x = 1; x").text == "1":
                break
        except (SandboxException, TimeoutException):
            pass
        assert time.monotonic() < deadline, "code runs no more"
        time.sleep(0.1)


def test_the_first_execution_after_a_kernel_was_killed_has_a_fresh_one(fresh: Sandbox):
    for _ in range(5):
        assert fresh.run_code("x = 1; x").text == "1"
        fresh.commands.run("pkill -9 -f '[i]pykernel_launcher'", user="root")
        execution = fresh.run_code("'x' in globals()")
        assert (execution.text, execution.error) == ("False", None)


def test_a_kernel_that_dies_is_said_and_replaced(sandbox: Sandbox):
    for language, dies, lives in (
        ("python", "import os; os._exit(1)", "1+1"),
        ("javascript", "process.exit(1)", "1+1"),
        ("bash", "exit 3", "echo 2"),
    ):
        context = sandbox.create_code_context(language=language)
        assert sandbox.run_code(dies, context=context).error.name == "UnexpectedEndOfExecution"
        execution = sandbox.run_code(lives, context=context)
        assert execution.error is None and (execution.text or execution.logs.stdout[0].strip()) == "2"
        sandbox.remove_code_context(context)


def test_a_timeout_interrupts_the_code_and_leaves_the_context(sandbox: Sandbox):
    for language, endless, remembered in (
        ("python", "import time\nwhile True: time.sleep(.1)", "y"),
        ("javascript", "while (true) {}", "y"),
    ):
        context = sandbox.create_code_context(language=language)
        sandbox.run_code("y = 5", context=context)
        with pytest.raises(TimeoutException):
            sandbox.run_code(endless, context=context, timeout=1)
        assert sandbox.run_code(remembered, context=context, timeout=30).text == "5"
        sandbox.remove_code_context(context)


def test_executions_of_one_context_wait_for_each_other(sandbox: Sandbox):
    context = sandbox.create_code_context()
    sandbox.run_code("seen = []", context=context)
    code = "seen.append(({0}, 'in'))\nimport time; time.sleep(.2)\nseen.append(({0}, 'out'))"
    threads = [threading.Thread(target=sandbox.run_code, args=(code.format(n),), kwargs={"context": context}) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = eval(sandbox.run_code("seen", context=context).text)
    assert len(seen) == 8 and all(seen[n][0] == seen[n + 1][0] for n in range(0, 8, 2))
    sandbox.remove_code_context(context)


def test_much_output_arrives_whole(sandbox: Sandbox):
    for language, code in (
        ("python", "for i in range(50_000): print('x' * 99)"),
        ("javascript", "for (let i = 0; i < 50000; i++) console.log('x'.repeat(99))"),
        ("bash", "for i in {1..50000}; do printf '%099d\\n' 0; done"),
    ):
        execution = sandbox.run_code(code, language=language)
        assert execution.error is None and sum(map(len, execution.logs.stdout)) == 5_000_000, language


def test_packages_can_be_imported(sandbox: Sandbox):
    sandbox.commands.run("mkdir -p ~/.local/lib/python3.11/site-packages && cd ~/.local/lib/python3.11/site-packages && echo 'VALUE = 9' > own_module.py")
    context = sandbox.create_code_context()
    assert sandbox.run_code("import own_module; own_module.VALUE", context=context).text == "9"
    sandbox.remove_code_context(context)
    assert sandbox.run_code("import numpy, scipy, sklearn, seaborn, sympy, requests, bs4, openpyxl, plotly, yaml; 'all'").text == "all"


def test_json_of_an_execution(sandbox: Sandbox):
    execution = sandbox.run_code("print('o')\n1")
    assert '"text": "1"' in execution.to_json() and "o\\\\n" in execution.to_json()


def test_a_killed_sandbox_is_a_timeout():
    sandbox = Sandbox.create(timeout=60)
    sandbox.run_code("1")
    sandbox.kill()
    with pytest.raises(TimeoutException):
        sandbox.run_code("1")
    with pytest.raises(TimeoutException):
        sandbox.create_code_context()


@pytest.mark.few
def test_a_kill_in_the_middle_of_an_execution_is_said():
    sandbox = Sandbox.create(timeout=60)
    with pytest.raises(TimeoutException):
        sandbox.run_code("import time; print(1, flush=True); time.sleep(60)", on_stdout=lambda _: sandbox.kill())


@pytest.mark.few
def test_private_ports_are_opened_by_the_sdk_alone():
    with Sandbox.create(timeout=120, network={"allow_public_traffic": False}) as private:
        assert private.traffic_access_token
        context = private.create_code_context(cwd="/tmp")
        private.run_code("x = 3", context=context)
        assert private.run_code("x", context=context).text == "3"
        assert context.id in [known.id for known in private.list_code_contexts()]
        private.restart_code_context(context)
        private.remove_code_context(context)
        known = {"E2b-Sandbox-Id": private.sandbox_id, "E2b-Sandbox-Port": "49999"}
        base = os.environ.get("E2B_SANDBOX_URL") or f"https://{private.get_host(49999)}"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{base}/contexts", headers=known))
        assert refused.value.code == 403

"""R and Java, which are parts of the template unless they are left out."""

import pytest
from e2b import TimeoutException
from e2b_code_interpreter import Sandbox


@pytest.fixture(scope="session")
def r(sandbox: Sandbox):
    return lambda code, **more: sandbox.run_code(code, language="r", timeout=60, **more)


@pytest.fixture(scope="session")
def java(sandbox: Sandbox):
    return lambda code, **more: sandbox.run_code(code, language="java", timeout=60, **more)


def test_r_values_output_and_errors(r):
    def value(code):
        (result,) = r(code).results
        return result.text

    assert r('print("Hello, World!")').logs.stdout == ['[1] "Hello, World!"\n']
    assert r("x <- 3").results == []
    assert value("x + 1") == "[1] 4"
    assert value("getwd()") == '[1] "/home/user"'
    assert value("f <- function(n) n * 2\nf(x)") == "[1] 6"
    assert value('"Grüße 😀"') == '[1] "Grüße 😀"'
    said = r("message('to err'); cat('to out\\n')")
    assert "".join(said.logs.stdout) == "to out\n" and "to err" in "".join(said.logs.stderr)
    failed = r("stop('so')")
    assert "so" in failed.error.value and failed.error.traceback and failed.results == []
    assert r("x +* 1").error is not None


def test_r_tables_and_plots(r):
    frame = r("data.frame(a = c(1, 2), b = c('x', 'y'))").results[0]
    assert "<table" in frame.html and "a" in frame.text
    (plot,) = r("plot(1:10, main = 'T')").results
    assert plot.png.startswith("iVBOR")
    (drawn,) = r("invisible(hist(c(1, 2, 2, 3)))").results
    assert drawn.png.startswith("iVBOR")
    assert r("IRdisplay::display_html('<b>h</b>')").results[0].html == "<b>h</b>"


def test_r_environment(sandbox, r):
    odd = "b 'c' \"d\" \\ ä 😀\n"
    always = "cat(Sys.getenv('ALWAYS'))"
    assert r("cat(Sys.getenv('ONE'))", envs={"ONE": odd}).logs.stdout == [odd]
    assert r("cat(Sys.getenv('ONE', unset = 'none'))").logs.stdout == ["none"]
    assert r(always, envs={"ALWAYS": "other", "ONE": "1"}).logs.stdout == ["other"]
    assert r(always).logs.stdout == ["here"]
    with pytest.raises(TimeoutException):
        sandbox.run_code("while (TRUE) Sys.sleep(.1)", language="r", envs={"ALWAYS": "other"}, timeout=1)
    assert r(always).logs.stdout == ["here"]


def test_java_values_output_and_errors(java):
    # As with E2B's, the end of a line is said by itself.
    assert java('System.out.println("Hello, World!")').logs.stdout == ["Hello, World!", "\n"]
    value = java("1 + 1")
    assert value.text == "2" and value.results[0].is_main_result
    assert java("int x = 3;").results == [] and java("x = 4").results == []
    assert java("int twice(int n) { return 2 * n; }\n// and\ntwice(x)").text == "8"
    assert java('System.getProperty("user.dir")').text == "/home/user"
    assert java("Stream.of(1, 2).map(n -> n + 1).collect(Collectors.toList())").text == "[2, 3]"
    assert java("new int[][] {{1}, {2, 3}}").text == "[[1], [2, 3]]"
    assert java('record P(String name) {}\nnew P("Grüße 😀")').text == "P[name=Grüße 😀]"
    said = java('System.err.println("e"); System.out.print("o");')
    assert "".join(said.logs.stderr) == "e\n" and "".join(said.logs.stdout) == "o"
    thrown = java('void deep() { throw new IllegalStateException("so", new IOException("why")); }\ndeep();')
    assert (thrown.error.name, thrown.error.value) == ("java.lang.IllegalStateException", "so")
    assert "deep" in thrown.error.traceback and "Caused by: java.io.IOException: why" in thrown.error.traceback
    assert "atoll." not in thrown.error.traceback
    refused = java('int y = "a";')
    assert refused.error.name == "CompilationException" and "incompatible types" in refused.error.value
    assert "^" in refused.error.traceback and java("twice(").error.name == "CompilationException"
    assert java("int late() { return missing(); }\nlate()").error.value == "not declared yet: method missing()"


def test_java_shows(java):
    shown = java('display("text/html", "<b>h</b>"); display(List.of(1)); 5')
    assert [result.html for result in shown.results] == ["<b>h</b>", None, None]
    assert [result.text for result in shown.results] == [None, "[1]", "5"]
    picture = java("import java.awt.image.BufferedImage; new BufferedImage(2, 2, BufferedImage.TYPE_INT_RGB)").results[0]
    assert picture.png.startswith("iVBOR")


def test_java_environment(java):
    odd = "b 'c' \"d\" \\ ä 😀\n"
    assert java('System.getenv("ONE")', envs={"ONE": odd}).text == odd
    assert java('System.getProperty("ONE")', envs={"ONE": "1"}).text == "1"
    assert java('System.getProperty("ONE", "none") + System.getenv("ONE")').text == "nonenull"
    both = 'System.getProperty("ALWAYS") + " " + System.getenv("ALWAYS")'
    assert java(both).text == "here here"
    assert java(both, envs={"ALWAYS": "other"}).text == "other other" and java(both).text == "here here"


CONTEXTS = [
    ("r", "kept <- 5", "while (TRUE) Sys.sleep(.1)", "cat(kept)", "tools::pskill(Sys.getpid(), 9)"),
    ("java", "int kept = 5;", "while (true) {}", "System.out.print(kept)", "System.exit(1)"),
]


@pytest.mark.parametrize("language, keep, endless, look, die", CONTEXTS)
def test_contexts_of_theirs(sandbox: Sandbox, language, keep, endless, look, die):
    context = sandbox.create_code_context(language=language, cwd="/tmp")
    assert (context.language, context.cwd) == (language, "/tmp")
    sandbox.run_code(keep, context=context)
    assert sandbox.run_code(look, context=context).logs.stdout == ["5"]
    with pytest.raises(TimeoutException):
        sandbox.run_code(endless, context=context, timeout=1)
    assert sandbox.run_code(look, context=context, timeout=30).logs.stdout == ["5"], "an interruption keeps what is there"
    assert sandbox.run_code(die, context=context).error.name == "UnexpectedEndOfExecution"
    assert sandbox.run_code(look, context=context).error is not None, "the next one is a fresh one"
    sandbox.remove_code_context(context)

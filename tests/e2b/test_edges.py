"""Small things that programs written for E2B rely on, each of which a sandbox of ours once did otherwise."""

import os
import urllib.error
import urllib.request

import pytest
from e2b import Sandbox

BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"


@pytest.mark.parametrize("name", ["nonexistingsandbox", "non-existing-sandbox", "i" + "0" * 20])
def test_what_nobody_has_can_not_be_killed(name):
    assert Sandbox.kill(name) is False


def test_an_empty_directory_takes_room(sandbox):
    sandbox.files.make_dir("empty")
    assert sandbox.files.get_info("empty").size > 0
    sandbox.files.write("empty/file", "")
    assert sandbox.files.get_info("empty/file").size == 0


def test_files_say_which_sandbox_it_is_as_its_variables_do(sandbox):
    for name, value in (("E2B_SANDBOX", "true"), ("E2B_SANDBOX_ID", sandbox.sandbox_id), ("E2B_TEMPLATE_ID", "base")):
        assert sandbox.commands.run(f'printf %s "${name}"').stdout == value
        assert sandbox.commands.run(f"cat /run/e2b/.{name}").stdout == value


def test_a_browser_sees_a_page_where_nothing_listens(sandbox):
    def seen(**headers):
        if "E2B_DOMAIN" in os.environ:
            url = f"https://{sandbox.get_host(3999)}/"
        else:
            url = os.environ["E2B_SANDBOX_URL"]
            headers |= {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "3999"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers))
        return refused.value.code, refused.value.headers["content-type"], refused.value.read().decode()

    status, kind, text = seen(**{"User-Agent": BROWSER, "Accept": "*/*"})
    assert status == 502 and kind.startswith("text/html") and "<title>Closed Port Error</title>" in text
    status, kind, text = seen(**{"User-Agent": BROWSER, "Accept": "application/json"})
    assert status == 502 and kind.startswith("application/json") and "port is not open" in text

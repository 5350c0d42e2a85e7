"""A SOCKS5 proxy of one's own for what a sandbox sends out: a fake one, in a network namespace beside this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2b import Sandbox

ELSEWHERE = "203.0.113.80"
ASK = f"timeout 20 bash -c 'exec 3<>/dev/tcp/{ELSEWHERE}/8080; head -n 1 <&3' 2>&1 || echo no way"


@pytest.fixture
def proxy():
    """Where it is. Not this machine's own address: sandboxes' hosts don't serve as proxies."""
    name = f"atl-e2b-{os.getpid()}"
    link, net = f"e2b{os.getpid()}"[:13], f"198.51.100.{os.getpid() % 60 * 4}"
    here, there = (f"198.51.100.{os.getpid() % 60 * 4 + place}" for place in (1, 2))
    for command in [
        f"ip netns add {name}",
        f"ip link add {link}a type veth peer name {link}b netns {name}",
        f"ip addr add {here}/30 dev {link}a",
        f"ip link set {link}a up",
        f"ip -n {name} addr add {there}/30 dev {link}b",
        f"ip -n {name} link set {link}b up",
    ]:
        subprocess.run(command.split(), check=True)
    script = Path(__file__).with_name("fake_socks.py")
    serving = subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, script, there, "1080"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout.readline() == "listening\n", f"the fake proxy at {net}/30 has not started"
        yield f"{there}:1080"
    finally:
        serving.kill()
        serving.wait()
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_connections_go_through_a_proxy_of_ones_own(make, proxy):
    own = {"address": proxy, "username": "ann-{{sandboxID}}", "password": "hunter2"}
    sandbox = make(network={"egress_proxy": own})
    through = f"ann-{sandbox.sandbox_id}:hunter2 to {ELSEWHERE}:8080\n"
    assert sandbox.commands.run(ASK).stdout == through
    shown = sandbox.get_info().network["egress_proxy"]
    assert shown == {"address": proxy, "username": "ann-{{sandboxID}}"}, "the password is never shown"

    # It is there after a pause, and a fork says who it is itself.
    sandbox.pause()
    sandbox = Sandbox.connect(sandbox.sandbox_id)
    assert sandbox.commands.run(ASK).stdout == through

    # What is denied doesn't come to it.
    sandbox.update_network({"deny_out": [f"{ELSEWHERE}/32"], "egress_proxy": {"address": proxy}})
    assert "no way" in sandbox.commands.run(ASK).stdout
    sandbox.update_network({"egress_proxy": {"address": proxy}})
    assert sandbox.commands.run(ASK).stdout == f"nobody to {ELSEWHERE}:8080\n"

    # One that isn't there is no way, and never a way past it.
    sandbox.update_network({"egress_proxy": {"address": proxy.replace(":1080", ":1081")}})
    assert "no way" in sandbox.commands.run(ASK).stdout
    sandbox.update_network({})
    assert "egress_proxy" not in (sandbox.get_info().network or {})
    for wrong in [{"address": "nonsense"}, {"address": proxy, "password": "of nobody"}]:
        with pytest.raises(Exception, match="HOST:PORT|username"):
            sandbox.update_network({"egress_proxy": wrong})

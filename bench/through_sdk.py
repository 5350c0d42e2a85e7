"""The figures through E2B's Python SDK, unmodified, on one port and plain HTTP: what a program that uses it waits for.

scripts/bench.sh --e2b runs it; scripts/e2b.sh sets its environment.
"""

import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from e2b import AsyncSandbox, Sandbox

WARM_UP, ROUNDS, MANY = 10, 200, 50


def timed(work):
    began = time.perf_counter()
    answer = work()
    return (time.perf_counter() - began) * 1000, answer


def line(name, times, goal):
    cut = statistics.quantiles(times, n=100)
    print(f"| {name} | {cut[49]:.1f} | {cut[94]:.1f} | {cut[98]:.1f} | {len(times)} | {goal} |", flush=True)


def line_of_one(name, took):
    print(f"| {name} | {took:.0f} | | | 1 | |", flush=True)


def measure(name, goal, work, rounds=ROUNDS):
    for _ in range(WARM_UP):
        work()
    line(name, [timed(work)[0] for _ in range(rounds)], goal)


def creates():
    times = []
    for number in range(WARM_UP + ROUNDS // 2):
        took, sandbox = timed(lambda: Sandbox.create(timeout=60))
        sandbox.kill()
        if number >= WARM_UP:
            times.append(took)
    line("`Sandbox.create()`", times, "20 p50")


async def at_once():
    began = time.perf_counter()
    sandboxes = await asyncio.gather(*(AsyncSandbox.create(timeout=60) for _ in range(MANY)))
    took = (time.perf_counter() - began) * 1000
    await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))
    return took


def main():
    print("| through the SDK, ms | p50 | p95 | p99 | n | goal |\n| --- | --- | --- | --- | --- | --- |")
    creates()
    sandbox = Sandbox.create(timeout=600)
    try:
        measure('`commands.run("true")`', "5 p50", lambda: sandbox.commands.run("true"))
        data = "x" * 1024

        def both():
            sandbox.files.write("small", data)
            assert sandbox.files.read("small") == data

        measure("`files.write` + `files.read`, 1 KB", "5 p50", both)
    finally:
        sandbox.kill()
    with ThreadPoolExecutor(MANY) as threads:
        took, made = timed(lambda: list(threads.map(lambda _: Sandbox.create(timeout=60), range(MANY))))
        list(threads.map(lambda sandbox: sandbox.kill(), made))
    line_of_one(f"{MANY} `Sandbox.create()` in as many threads", took)
    asyncio.run(at_once())
    line(f"{MANY} `AsyncSandbox.create()` at once, until the last", [asyncio.run(at_once()) for _ in range(10)], "800")


main()

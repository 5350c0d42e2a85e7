"""What a line of code takes through E2B's code interpreter SDK, unmodified, on one port and plain HTTP.

scripts/interpreter.sh bench runs it, after scripts/e2b.sh bench, whose table its row goes on.
"""

import statistics
import time

from e2b_code_interpreter import Sandbox

WARM_UP, ROUNDS = 10, 200


def main():
    with Sandbox.create(timeout=600) as sandbox:
        context = sandbox.create_code_context()
        times = []
        for number in range(WARM_UP + ROUNDS):
            began = time.perf_counter()
            execution = sandbox.run_code("1+1", context=context)
            took = (time.perf_counter() - began) * 1000
            assert execution.text == "2", execution
            if number >= WARM_UP:
                times.append(took)
    cut = statistics.quantiles(times, n=100)
    print(f'| `run_code("1+1")`, warm | {cut[49]:.1f} | {cut[94]:.1f} | {cut[98]:.1f} | {ROUNDS} | 10 p50 |', flush=True)


main()

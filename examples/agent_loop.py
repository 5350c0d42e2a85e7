"""An agent: a model writes Python, a sandbox of its own runs it, the model reads what came out, until it can answer.

    python agent_loop.py "How many primes are there below 10,000?"
"""

import json
import os
import sys

from e2b import CommandExitException, Sandbox
from openai import OpenAI

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4.1")
MOST_TURNS = 10
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "run_python",
            "description": "Runs a Python program in a Linux sandbox and answers what it printed. Files stay between calls.",
            "parameters": {
                "type": "object",
                "properties": {"program": {"type": "string", "description": "The program's text"}},
                "required": ["program"],
            },
        },
    }
]


def run_python(sandbox, program):
    """What the program printed, with its exit status when that is not 0."""
    sandbox.files.write("/home/user/program.py", program)
    try:
        result = sandbox.commands.run("python3 program.py", timeout=60)
    except CommandExitException as failed:
        return f"exit status {failed.exit_code}\n{failed.stdout}{failed.stderr}"
    return result.stdout + result.stderr


def answer(question):
    model = OpenAI()
    messages = [
        {"role": "system", "content": "Answer with the help of run_python whenever something can be computed."},
        {"role": "user", "content": question},
    ]
    # Whatever the model writes runs in there, and is gone with it.
    with Sandbox.create(timeout=300, allow_internet_access=False) as sandbox:
        for _ in range(MOST_TURNS):
            message = model.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content
            for call in message.tool_calls:
                program = json.loads(call.function.arguments)["program"]
                print(f"--- the model wants to run:\n{program}", file=sys.stderr)
                output = run_python(sandbox, program)
                print(f"--- it printed:\n{output}", file=sys.stderr)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
    return "no answer within the turns that it has"


if __name__ == "__main__":
    print(answer(" ".join(sys.argv[1:]) or "How many primes are there below 10,000?"))

"""A fake model for the agent's example: it speaks the wire format of chat completions, asks for one program to be run, and
answers with what that printed. This machine can't reach a real one."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROGRAM = "print(sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, 10_000)))"


def reply(messages):
    last = messages[-1]
    if last["role"] != "tool":
        call = {"name": "run_python", "arguments": json.dumps({"program": PROGRAM})}
        message = {"tool_calls": [{"id": "call-1", "type": "function", "function": call}], "content": None}
        return {**message, "role": "assistant"}, "tool_calls"
    return {"role": "assistant", "content": f"There are {last['content'].strip()}."}, "stop"


class FakeModel(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message, reason = reply(request["messages"])
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def server():
    return ThreadingHTTPServer(("127.0.0.1", 0), FakeModel)

"""A fake SOCKS5 proxy: it connects to nothing, and tells whoever came through it what it was asked for, in one line.

    fake_socks.py ADDRESS PORT
"""

import socket
import sys
import threading


def exactly(stream, length):
    data = b""
    while len(data) < length:
        more = stream.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def serve(stream):
    try:
        _, count = exactly(stream, 2)
        login = "nobody"
        if 2 in exactly(stream, count):
            stream.sendall(b"\x05\x02")
            exactly(stream, 1)
            login = ":".join(exactly(stream, exactly(stream, 1)[0]).decode() for _ in range(2))
            stream.sendall(b"\x01\x00")
        else:
            stream.sendall(b"\x05\x00")
        request = exactly(stream, 10)
        assert request[:4] == b"\x05\x01\x00\x01"
        stream.sendall(b"\x05\x00\x00\x01" + bytes(6))
        to = f"{socket.inet_ntoa(request[4:8])}:{int.from_bytes(request[8:], 'big')}"
        stream.sendall(f"{login} to {to}\n".encode())
    except (EOFError, OSError):
        pass
    finally:
        stream.close()


with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

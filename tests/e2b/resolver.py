"""Answers that every name below a domain means this machine, at a loopback address that nobody else uses.

    resolver.py DOMAIN FILE    writes FILE, for /etc/resolv.conf, when it is listening
"""

import os
import random
import socket
import struct
import sys

A, FOUND, NO_SUCH_NAME = 1, 0, 3


def answer(query, domain):
    """The reply to one question, or nothing for what is none."""
    if len(query) < 17:
        return None
    labels, place = [], 12
    while place < len(query) and query[place]:
        length = query[place]
        labels.append(query[place + 1 : place + 1 + length].decode("ascii", "replace").lower())
        place += 1 + length
    question = query[12 : place + 5]
    if len(question) != place - 7:
        return None
    kind = struct.unpack("!H", question[-4:-2])[0]
    known = (".".join(labels) + ".").endswith(f"{domain}.")
    records = b""
    if known and kind == A:
        records = b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 60, 4) + socket.inet_aton("127.0.0.1")
    flags = 0x8580 | (FOUND if known else NO_SUCH_NAME)
    return query[:2] + struct.pack("!HHHHH", flags, 1, 1 if records else 0, 0, 0) + question + records


def main():
    domain, path = sys.argv[1:]
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        try:
            listener.bind((address, 53))
            break
        except OSError as error:
            if isinstance(error, PermissionError):
                raise
    with open(f"{path}.new", "w") as file:
        file.write(f"nameserver {address}\n")
    os.rename(f"{path}.new", path)
    while True:
        query, peer = listener.recvfrom(4096)
        reply = answer(query, domain)
        if reply:
            listener.sendto(reply, peer)


main()

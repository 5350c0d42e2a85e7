#!/usr/bin/env python3
"""A Debian archive that stands still: what it was asked for once, it answers with the same ever after.

    mirror.py DIRECTORY     prints its port; serves /debian and /debian-security, keeps what it fetches in DIRECTORY

Where it fetches from: ATOLL_DEBIAN_MIRROR and ATOLL_DEBIAN_SECURITY_MIRROR, else Debian's own.
"""

import collections
import hashlib
import http.server
import os
import pathlib
import shutil
import sys
import threading
import urllib.error
import urllib.request

ARCHIVES = {
    "debian": os.environ.get("ATOLL_DEBIAN_MIRROR", "http://deb.debian.org/debian"),
    "debian-security": os.environ.get("ATOLL_DEBIAN_SECURITY_MIRROR", "http://deb.debian.org/debian-security"),
}
KEPT = pathlib.Path(sys.argv[1])
# Two builds ask for the same at the same time: one of them fetches it.
TURNS = collections.defaultdict(threading.Lock)


def kept(archive, rest):
    """The file that has it; none when the archive has none."""
    place = KEPT / hashlib.sha256(f"{archive}/{rest}".encode()).hexdigest()
    none = place.with_suffix(".none")
    with TURNS[place.name]:
        if not place.exists() and not none.exists():
            part = place.with_suffix(".part")
            try:
                with urllib.request.urlopen(f"{ARCHIVES[archive]}/{rest}", timeout=60) as answer, part.open("wb") as file:
                    shutil.copyfileobj(answer, file)
                    if file.tell() != int(answer.headers.get("Content-Length", file.tell())):
                        raise OSError(f"{rest} was cut off")
                part.rename(place)
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                none.touch()
    return place if place.exists() else None


class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        archive, _, rest = self.path.lstrip("/").partition("/")
        try:
            file = kept(archive, rest) if archive in ARCHIVES else None
        except OSError as error:
            return self.send_error(502, str(error))
        if file is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.end_headers()
        with file.open("rb") as content:
            shutil.copyfileobj(content, self.wfile)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
print(server.server_port, flush=True)
server.serve_forever()

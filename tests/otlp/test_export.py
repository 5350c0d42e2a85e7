"""What an Atoll exports, read by OpenTelemetry's own messages (the package opentelemetry-proto), not by ours."""

import gzip
import http.server
import json
import os
import pathlib
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

KEY = "a-key-that-nobody-may-see"
PATIENCE = 120


class Receiver(http.server.BaseHTTPRequestHandler):
    came = []

    def do_POST(self):
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        Receiver.came.append((self.path, dict(self.headers), ExportMetricsServiceRequest.FromString(body)))
        answer = ExportMetricsServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module", autouse=True)
def receiver():
    """Comes up after Atoll, which has found nobody there until then."""
    address = urllib.parse.urlparse(os.environ["ATOLL_OTLP_ENDPOINT"])
    until(lambda: "metrics don't reach the collector" in log(), "Atoll to notice that nobody is there")
    server = http.server.ThreadingHTTPServer((address.hostname, address.port), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def log():
    return pathlib.Path(os.environ["ATOLL_DATA_DIR"], "logs", "atoll.log").read_text()


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)
    return found


def create():
    request = urllib.request.Request(
        os.environ["ATOLL_URL"] + "/v1/sandboxes",
        json.dumps({"memory_mb": 64, "disk_mb": 64}).encode(),
        {"X-API-Key": os.environ["ATOLL_API_KEY"], "Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request))


def attributes(of):
    return {pair.key: pair.value.string_value for pair in of.attributes}


def metrics():
    """All metrics that have come: of whom, and what."""
    for _, _, message in list(Receiver.came):
        for of in message.resource_metrics:
            for scope in of.scope_metrics:
                for metric in scope.metrics:
                    yield attributes(of.resource), metric


def points(sandbox, name):
    for _, metric in metrics():
        if metric.name == name:
            data = getattr(metric, metric.WhichOneof("data"))
            yield from ((metric, point) for point in data.data_points if attributes(point).get("container.id") == sandbox)


def unknown(message):
    """Fields that OpenTelemetry doesn't know, anywhere inside."""
    found = len(UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type:
            found += sum(unknown(inner) for inner in (value if field.is_repeated else [value]))
    return found


def test_a_sandboxs_use_arrives_by_the_standards_names():
    made = create()
    work = "head -c 4M /dev/zero > ~/file; sync; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    run = ["atoll", "exec", made["id"], "--", "sh", "-c", work]
    subprocess.run(run, check=True, stdin=subprocess.DEVNULL)
    used = until(lambda: [it for it in points(made["id"], "container.cpu.time") if it[1].as_double > 0.05], "its use")
    metric, point = used[-1]
    assert metric.unit == "s" and metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
    assert abs(point.time_unix_nano / 1e9 - time.time()) < PATIENCE
    said = attributes(point)
    assert said["atoll.host.id"] == made["host_id"] and said["atoll.driver"] == made["driver"]
    assert said["atoll.template"] == "base" and said["atoll.team.id"].startswith("team-")
    for name, unit in {
        "container.memory.usage": "By", "container.filesystem.usage": "By", "atoll.sandbox.processes": "{process}",
    }.items():
        found = until(lambda name=name: [it for it in points(made["id"], name) if it[1].as_int > 0], name)
        assert (found[-1][0].unit, found[-1][0].sum.is_monotonic) == (unit, False)
    directions = {attributes(point)["network.io.direction"] for _, point in points(made["id"], "container.network.io")}
    assert directions == {"receive", "transmit"}
    assert all(metric.unit == "{cpu}" and point.as_double >= 0 for metric, point in points(made["id"], "container.cpu.usage"))


def test_the_platforms_metrics_arrive_with_their_histogram():
    create()
    found = {metric.name: (resource, metric) for resource, metric in metrics()}
    resource, metric = found["atoll.http.request.duration"]
    assert resource["service.name"] == "atoll" and resource["service.instance.id"] and resource["service.version"]
    point = metric.histogram.data_points[0]
    assert metric.unit == "s" and len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert sum(point.bucket_counts) == point.count > 0 and point.sum > 0
    resource, metric = found["atoll.sandboxes"]
    assert "service.instance.id" not in resource
    assert {attributes(point)["status"] for point in metric.gauge.data_points} >= {"running"}


def test_nothing_comes_that_the_standard_does_not_know_and_the_key_comes_and_stays_hidden():
    assert Receiver.came
    for path, headers, message in list(Receiver.came):
        assert path == "/v1/metrics"
        assert headers["Api-Key" if "Api-Key" in headers else "api-key"] == KEY
        assert headers.get("Content-Type", headers.get("content-type")) == "application/x-protobuf"
        assert unknown(message) == 0
    until(lambda: "takes all metrics again" in log(), "Atoll to say that it gets through")
    assert log().count("metrics don't reach the collector") == 1 and KEY not in log()

"""The REST interface: tensors in JSON, errors, metrics, limits, sockets."""

import base64
import gzip
import http.client
import json
import re
import socket
import subprocess
import time
import urllib.request
from concurrent import futures

import numpy as np
import pytest
from werkzeug.test import Client

from tf_triplet import client
from tf_triplet.serving import (
    batching,
    prediction,
    rest,
    rest_server,
    server,
    server_config,
    server_metrics,
)
from tf_triplet.serving.model_manager import ModelManager
from tf_triplet.serving.version_policy import Model

URL = "/v1/models/visual"


@pytest.fixture(scope="module")
def api(exported):
    counted = server_metrics.Metrics()
    models = ModelManager(metrics=counted)
    folder = exported["exact"].parent
    models.configure({"visual": Model(folder, labels={"stable": 1})})
    predictor = prediction.Predictor(models, counted)
    yield Client(rest.RestApi(predictor, counted, max_bytes=1 << 20))
    models.release()


def b64(shop, row=0):
    with open(shop.paths[row], "rb") as file:
        return {"b64": base64.b64encode(file.read()).decode()}


def post(api, body, url=URL + ":predict"):
    text = body if isinstance(body, str) else json.dumps(body)
    answer = api.post(url, data=text)
    assert answer.mimetype == "application/json"
    return answer.status_code, answer.get_json()


@pytest.mark.parametrize(
    "place", ["", "/versions/1", "/labels/stable"], ids=str
)
@pytest.mark.parametrize("named", [False, True])
def test_rows(api, shop, place, named):
    images = [b64(shop, row) for row in (0, 5)]
    if named:
        images = [{"image_bytes": image} for image in images]
    code, body = post(api, {"instances": images}, f"{URL}{place}:predict")
    assert code == 200 and set(body) == {"predictions"}
    first, second = body["predictions"]
    assert set(first) == {"product_ids", "scores", "paths", "status"}
    assert first["paths"][0] == shop.paths[0]
    assert second["product_ids"][0] == shop.product_ids[5]


@pytest.mark.parametrize("named", [False, True])
def test_columns(api, shop, named):
    inputs = [b64(shop)]
    inputs = {"image_bytes": inputs} if named else inputs
    code, body = post(api, {"inputs": inputs})
    assert code == 200
    assert body["outputs"]["paths"][0][0] == shop.paths[0]


def test_a_single_output_is_exact_and_has_no_name(api, shop):
    body = {"signature_name": "encode", "instances": [b64(shop)]}
    _, rows = post(api, body)
    np.testing.assert_allclose(
        rows["predictions"], shop.embeddings[:1], atol=1e-6
    )
    vectors = shop.embeddings[:2]
    body = {"signature_name": "search", "inputs": vectors.tolist()}
    _, found = post(api, body)
    scores = np.float32(found["outputs"]["scores"])
    want = -np.sort(-vectors @ shop.embeddings.T)[:, :3]
    np.testing.assert_allclose(scores, want, atol=1e-6)
    # Such as 0.1, not 0.10000000149011612.
    assert max(len(str(s)) for s in found["outputs"]["scores"][0]) < 13


SEARCH = {"signature_name": "search"}


@pytest.mark.parametrize(
    "body,text",
    [
        ("", "JSON Parse error: The document is empty"),
        ("{", "JSON Parse error: "),
        ("[]", "JSON Value: [] Is not object"),
        ({"instances": ["\ud800"]}, "is not of expected type: string"),
        ({"signature_name": "\ud800"}, "must be a string"),
        (
            f'{{"signature_name": "search", "inputs": {"[" * 40 + "]" * 40}}}',
            "Lists in 40 levels",
        ),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": [], "instances": []}, "expecting only one of"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": 3}, "to be an list/array"),
        ({"signature_name": 3}, "'signature_name' key must be a string"),
        (
            {"signature_name": "zzz", "instances": [1]},
            'Serving signature name: "zzz" not found in signature def',
        ),
        ({"instances": [{"b64": "*"}]}, "Unable to base64 decode"),
        ({"instances": ["x", {"a": 1}]}, "but got object at item 1"),
        (
            {"instances": [{"image": "x"}]},
            "keys must be equal to: image_bytes",
        ),
        ({"inputs": {"image": ["x"]}}, "Missing named input: image_bytes"),
        ({"instances": [1]}, "JSON Value: 1 is not of expected type: string"),
        ({"instances": ["no image"]}, "Unknown image file format"),
        (
            {**SEARCH, "inputs": [[1, 2, 3], [1, 2]]},
            "Encountered list at unexpected size: 2 at level: 1 expected "
            "size: 3",
        ),
        ({**SEARCH, "inputs": [[1, 2, [3]]]}, "list at unexpected level"),
        ({**SEARCH, "inputs": [[1, 2, "3"]]}, 'JSON Value: "3" is not of'),
        ({**SEARCH, "inputs": [[1, True, 2]]}, "JSON Value: true is not of"),
        ({**SEARCH, "inputs": [[1, 2]]}, "Received: (1, 2)"),
    ],
)
def test_bad_bodies(api, body, text):
    code, answer = post(api, body)
    assert code == 400 and set(answer) == {"error"}
    assert text in answer["error"]


@pytest.mark.parametrize(
    "method,url,code,text",
    [
        ("POST", "/v1/models/zzz:predict", 404, "Latest(zzz)"),
        ("POST", URL + "/versions/9:predict", 404, "Specific(visual, 9)"),
        ("POST", URL + "/labels/x:predict", 400, "version label: x"),
        ("POST", URL + ":classify", 400, "key 'examples' is expected"),
        ("POST", URL + f"/versions/{'9' * 5000}:predict", 400, "to numeric"),
        ("POST", URL + ":guess", 400, f"Malformed request: POST {URL}:guess"),
        ("GET", URL + ":predict", 400, "Malformed request: GET"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v2/models", 404, "Malformed request"),
        ("GET", "/v1/models/zzz", 404, "Could not find any versions of"),
        ("GET", URL + "/versions/9", 404, "Could not find version 9 of model"),
        ("GET", URL + f"/versions/{10**30}", 400, "Failed to convert version"),
    ],
)
def test_bad_paths(api, method, url, code, text):
    answer = api.open(url, method=method, data=b'{"instances": ["x"]}')
    assert answer.status_code == code
    assert text in answer.get_json()["error"]


@pytest.mark.parametrize("encoding", ["gzip", "X-GZIP", "identity, gzip"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_compressed_body_is_inflated(api, shop, encoding, parts):
    body = json.dumps({"instances": [b64(shop)]}).encode()
    cut = len(body) // parts
    data = gzip.compress(body[:cut])
    data += gzip.compress(body[cut:]) if parts > 1 else b""
    headers = {"Content-Encoding": encoding}
    answer = api.post(URL + ":predict", data=data, headers=headers)
    assert answer.status_code == 200
    assert answer.get_json() == post(api, body.decode())[1]


@pytest.mark.parametrize(
    "encoding,data,code,text",
    [
        ("br", b"x", 415, "must be gzip. Received: br. Send"),
        ("deflate", b"x", 415, "must be gzip. Received: deflate. Send"),
        ("zstd, gzip", b"x", 415, "must be gzip. Received: zstd, gzip. Send"),
        ("gzip, gzip", b"x", 415, "must be gzip. Received: gzip, gzip. Send"),
        ("gzip", b"{}", 400, "The body is not gzip, as Content-Encoding says"),
        ("gzip", gzip.compress(b"{}")[:-3], 400, "The body is cut short"),
        ("gzip", gzip.compress(b"{}") + b"more", 400, "The body is not gzip"),
        ("gzip", gzip.compress(bytes(1 << 28)), 413, "is over 1048576 bytes"),
        ("gzip", b"", 400, "JSON Parse error"),
    ],
    # gzip writes the time into its header, so a name made from the data would
    # differ between two processes that collect the tests.
    ids="br deflate zstd twice not cut more bomb empty".split(),
)
def test_bodies_that_cannot_be_inflated(api, encoding, data, code, text):
    headers = {"Content-Encoding": encoding}
    answer = api.post(URL + ":predict", data=data, headers=headers)
    assert answer.status_code == code
    assert text in answer.get_json()["error"]
    accepted = answer.headers.get("Accept-Encoding")
    assert accepted == ("gzip" if code == 415 else None)


def test_one_bad_image_is_answered_by_its_status(api, shop):
    code, answer = post(api, {"instances": [b64(shop), {"b64": "AAAA"}]})
    good, bad = answer["predictions"]
    assert code == 200 and good["status"] == [""] * 3
    assert bad["product_ids"] == [""] * 3 and bad["scores"] == [-2.0] * 3
    assert all("Unknown image file format" in text for text in bad["status"])


def test_no_signature_classifies(api):
    body = {"examples": [{"a": 1}]}
    code, answer = post(api, body, URL + ":classify")
    assert code == 400
    assert answer["error"] == "Expected one or two output Tensors, found 4"


def test_status_and_metadata(api):
    (row,) = api.get(URL).get_json()["model_version_status"]
    assert row == {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    body = api.get(URL + "/metadata").get_json()
    assert body["model_spec"]["version"] == "1"
    table = body["metadata"]["signature_def"]["signature_def"]
    assert table["search"]["inputs"]["embedding"]["dtype"] == "DT_FLOAT"


def test_a_body_may_not_be_too_large(api):
    code, answer = post(api, "x" * ((1 << 20) + 1))
    assert code == 413 and answer["error"] == "The body is over 1048576 bytes"


def test_metrics(api, shop):
    def count(status):
        text = api.get(server_metrics.PATH).get_data(as_text=True)
        pattern = (
            r'^:tensorflow:serving:request_count\{model_name="visual",'
            rf'status="{status}"}} (\d+)$'
        )
        found = re.search(pattern, text, re.MULTILINE)
        return int(found[1]) if found else 0

    good, bad = count("OK"), count("INVALID_ARGUMENT")
    post(api, {"instances": [b64(shop)]})
    post(api, {"instances": ["no image"]})
    assert (count("OK"), count("INVALID_ARGUMENT")) == (good + 1, bad + 1)
    # Names that clients invent do not become labels.
    post(api, {"instances": ["x"]}, "/v1/models/zzz:predict")
    assert "zzz" not in api.get(server_metrics.PATH).get_data(as_text=True)


def test_every_request_is_counted_however_it_ends(api, monkeypatch):
    def count(name, status):
        text = api.get(server_metrics.PATH).get_data(as_text=True)
        pattern = (
            rf':request_count{{model_name="{name}",status="{status}"}} (\d+)'
        )
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    for body, url, name, status in (
        ("{", URL, "visual", "INVALID_ARGUMENT"),
        ({"instances": [{"b64": "?"}]}, URL, "visual", "INVALID_ARGUMENT"),
        ({"instances": [1]}, URL + "/versions/9", "visual", "NOT_FOUND"),
        ({"instances": [1]}, "/v1/models/zzz", "", "NOT_FOUND"),
    ):
        before = count(name, status)
        assert post(api, body, f"{url}:predict")[0] in (400, 404)
        assert count(name, status) == before + 1, (body, url)

    def broken(*arguments):
        raise MemoryError("no room")

    before = count("visual", "OK"), count("visual", "INTERNAL")
    monkeypatch.setattr(prediction.Predictor, "run", broken)
    code, body = post(api, {"signature_name": "search", "inputs": [[0, 0, 1]]})
    assert (code, body) == (500, {"error": "MemoryError: no room"})
    after = count("visual", "OK"), count("visual", "INTERNAL")
    assert after == (before[0], before[1] + 1)


@pytest.mark.parametrize("written", ["encodebytes", "unpadded"])
def test_base64_may_have_line_ends_or_lack_padding(api, shop, written):
    with open(shop.paths[0], "rb") as file:
        data = file.read()
    # A PNG may be followed by a byte, which makes base64 add padding.
    data += b"\0" * (-len(data) % 3 == 0)
    text = base64.encodebytes(data).decode()
    assert "\n" in text and "=" in text
    text = text if written == "encodebytes" else text.strip().rstrip("=")
    code, body = post(api, {"inputs": [{"b64": text}]})
    assert code == 200 and body["outputs"]["paths"][0][0] == shop.paths[0]


def test_a_histogram_counts_values_up_to_each_bound():
    counted = server_metrics.Metrics()
    name = ":tensorflow:serving:request_example_counts"
    for value in (1, 2, 3, 1e9):
        counted.observe(name, 'a"b', value=value)
    lines = counted.render().splitlines()
    label = r"model=\"a\\\"b\"".replace(r"\"", '"').replace(r"\\", "\\")
    assert f'{name}_bucket{{{label},le="1"}} 1' in lines
    assert f'{name}_bucket{{{label},le="4"}} 3' in lines
    assert f'{name}_bucket{{{label},le="+Inf"}} 4' in lines
    assert f"{name}_count{{{label}}} 4" in lines
    assert f"# TYPE {name} histogram" in lines


@pytest.fixture(scope="module")
def running(exported, tmp_path_factory):
    """A server with REST, batching and TLS, and its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    config = folder / "ssl.config"
    config.write_text(
        f"server_key: {json.dumps(key.read_text())}\n"
        f"server_cert: {json.dumps(certificate.read_text())}\n"
    )
    options = server.Options(
        port=0,
        rest_port=0,
        poll_seconds=0,
        tls=server_config.read_tls(config),
        batching=batching.Parameters(8, 5000, allowed_batch_sizes=(1, 4, 8)),
        max_message_bytes=1 << 20,
    )
    folder = exported["exact"].parent
    started = server.Server(server_config.one_model("visual", folder), options)
    yield started, certificate
    started.stop()


def fetch(running, path, body=None):
    url = f"http://localhost:{running.rest_port}{path}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=30) as answer:
        return answer.read().decode()


def test_requests_over_sockets_share_batches(running, shop):
    def ask(row):
        body = {"instances": [b64(shop, row)]}
        found = json.loads(fetch(running[0], URL + ":predict", body))
        return found["predictions"][0]["paths"][0]

    rows = [i % 12 for i in range(24)]
    with futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, rows)) == [shop.paths[i] for i in rows]
    text = fetch(running[0], server_metrics.PATH)
    batches = re.search(r"processed_batch_size_count (\d+)", text)[1]
    assert 1 <= int(batches) < 24
    assert "batching_session:queuing_latency_count 24" in text


def test_tls(running, shop):
    server_, certificate = running
    address = f"localhost:{server_.port}"
    image = client.read_image(shop.paths[2])
    (answer,) = client.query(
        [image], address, "visual", ca_file=str(certificate)
    )
    assert answer[0].path == shop.paths[2]
    with pytest.raises(client.QueryError):
        client.query([image], address, "visual", timeout_s=5)


def test_a_message_may_not_be_too_large(running):
    server_, certificate = running
    with pytest.raises(client.QueryError, match="RESOURCE_EXHAUSTED"):
        client.query(
            [b"x" * (1 << 20)],
            f"localhost:{server_.port}",
            "visual",
            ca_file=str(certificate),
        )


def test_further_connections_are_closed(exported, monkeypatch):
    monkeypatch.setattr(rest_server, "CONNECTIONS", 3)
    folder = exported["exact"].parent
    other = server.Server(
        server_config.one_model("visual", folder),
        server.Options(port=0, rest_port=0, poll_seconds=0),
    )
    address = ("localhost", other.rest_port)
    idle = [socket.create_connection(address) for _ in range(3)]
    with socket.create_connection(address, timeout=20) as late:
        assert late.recv(10) == b""
    for one in idle:
        one.close()
    end = time.monotonic() + 20
    while True:  # The places of closed connections are free again.
        try:
            assert "AVAILABLE" in fetch(other, URL)
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < end
    other.stop()


def test_a_rest_port_in_use_is_an_error(running, exported):
    port = running[0].rest_port
    folder = exported["exact"].parent
    with pytest.raises(OSError, match=f"Port {port} of .* is in use"):
        server.Server(
            server_config.one_model("visual", folder),
            server.Options(port=0, rest_port=port, poll_seconds=0),
        )

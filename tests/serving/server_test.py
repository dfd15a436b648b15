"""The answers of the server over gRPC, good and bad."""

import socket
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.servable import saved_model
from tf_triplet.serving import (
    batching,
    loaded_model,
    ports,
    prediction,
    server,
    server_config,
)
from tf_triplet.serving.errors import RequestError

Code = grpc.StatusCode


@pytest.fixture(scope="module", params=["scann", "exact"])
def stub(exported, request):
    folder = exported[request.param].parent
    running, port, model = server.start(folder, "visual", 0)
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)
    running.stop(0).wait()
    model.release()


def image(shop, row=0):
    with open(shop.paths[row], "rb") as file:
        return file.read()


def ask(stub, inputs, signature="", name="visual", outputs=(), **spec):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    request.output_filter.extend(outputs)
    for key, value in inputs.items():
        # A TensorProto is returned unchanged.
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return stub.Predict(request, timeout=60)


def error_of(stub, *arguments, **more):
    with pytest.raises(grpc.RpcError) as caught:
        ask(stub, *arguments, **more)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("version", [None, 1])
def test_a_good_request(stub, shop, version):
    spec = {} if version is None else {"version": version}
    answer = ask(stub, {"image_bytes": [image(shop)]}, **spec)
    assert answer.model_spec.name == "visual"
    assert answer.model_spec.version.value == 1
    assert answer.model_spec.signature_name == "serving_default"
    paths = tf.make_ndarray(answer.outputs["paths"])
    assert paths.shape == (1, 3) and paths[0, 0].decode() == shop.paths[0]
    scores = tf.make_ndarray(answer.outputs["scores"])
    want = -np.sort(-shop.embeddings[:1] @ shop.embeddings.T)[:, :3]
    np.testing.assert_allclose(scores, want, atol=1e-5)


def test_every_other_signature(stub, shop):
    inputs = {"image_bytes": [image(shop)]}
    answer = ask(stub, inputs, "encode_and_search_exact")
    assert answer.model_spec.signature_name == "encode_and_search_exact"
    paths = tf.make_ndarray(answer.outputs["paths"])
    assert paths[0, 0].decode() == shop.paths[0]
    answer = ask(stub, inputs, "encode")
    assert answer.model_spec.signature_name == "encode"
    vector = tf.make_ndarray(answer.outputs["embedding"])
    np.testing.assert_allclose(vector, shop.embeddings[:1], atol=1e-6)
    for name in ("search", "search_exact"):
        answer = ask(stub, {"embedding": vector}, name)
        ids = tf.make_ndarray(answer.outputs["product_ids"])
        assert ids[0, 0].decode() == shop.product_ids[0]


def test_values_are_in_typed_fields(stub, shop):
    answer = ask(stub, {"image_bytes": [image(shop)]})
    assert len(answer.outputs["scores"].float_val) == 3
    assert len(answer.outputs["product_ids"].string_val) == 3
    answer = ask(stub, {"image_bytes": [image(shop)]}, "encode")
    assert len(answer.outputs["embedding"].float_val) == 3


@pytest.mark.parametrize(
    "array",
    [
        np.float32([[1.5, 2], [3, np.nan]]),
        np.float64([1e-300, 2]),
        np.float32(7.25),
        np.zeros([0, 3], np.float32),
        np.array([[b"a", b""], [b"\xff\x00", b"c"]], object),
        np.int32([1, -1]),
        np.int64([1 << 40]),
        np.array([True, False]),
        np.float16([1.5, -2.0]),
        np.uint8([[7]]),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_any_array_can_be_written(array):
    message = tensor_pb2.TensorProto()
    prediction._write(message, array)
    again = tf.make_ndarray(message)
    assert again.dtype == array.dtype and again.shape == array.shape
    np.testing.assert_array_equal(again, array)


def test_output_filter(stub, shop):
    inputs = {"image_bytes": [image(shop)]}
    answer = ask(stub, inputs, outputs=["scores"])
    assert set(answer.outputs) == {"scores"}
    code, text = error_of(stub, inputs, outputs=["nope"])
    assert code == Code.INVALID_ARGUMENT
    assert text.startswith(
        "output tensor alias not found in signature: nope Outputs expected "
        "to be in the set {"
    )
    for name in ("paths", "product_ids", "scores"):
        assert name in text
    code, text = error_of(stub, inputs, outputs=["paths", "scores", "paths"])
    assert code == Code.INVALID_ARGUMENT
    assert text == "duplicate output tensor alias: paths"


@pytest.mark.parametrize(
    "spec,code,text",
    [
        (
            {"name": ""},
            Code.INVALID_ARGUMENT,
            "ModelSpec has no name specified.",
        ),
        (
            {"name": "zzz"},
            Code.NOT_FOUND,
            "Servable not found for request: Latest(zzz)",
        ),
        (
            {"version": 77},
            Code.NOT_FOUND,
            "Servable not found for request: Specific(visual, 77)",
        ),
        (
            {"name": "zzz", "version": 1},
            Code.NOT_FOUND,
            "Servable not found for request: Specific(zzz, 1)",
        ),
        (
            {"version": 0},
            Code.NOT_FOUND,
            "Servable not found for request: Specific(visual, 0)",
        ),
        (
            {"label": "canary"},
            Code.INVALID_ARGUMENT,
            "Unrecognized servable version label: canary",
        ),
        (
            {"signature": "zzz"},
            Code.FAILED_PRECONDITION,
            'Serving signature key "zzz" not found.',
        ),
    ],
)
def test_unknown_models_versions_and_signatures(stub, shop, spec, code, text):
    inputs = {"image_bytes": [image(shop)]}
    assert error_of(stub, inputs, **spec) == (code, text)


@pytest.mark.parametrize(
    "inputs,text",
    [
        ({}, "input size does not match signature: 0!=1"),
        ({"image": [b"x"]}, "image_bytes"),
        (
            {"image_bytes": [b"x"], "more": [1]},
            "input size does not match signature: 2!=1",
        ),
        ({"image_bytes": [1.5]}, "Expects arg[0] to be string but float"),
        ({"image_bytes": [b"no image"]}, "Unknown image file format"),
        ({"image_bytes": [b""]}, "the image has 0 bytes"),
    ],
)
def test_bad_inputs(stub, inputs, text):
    code, details = error_of(stub, inputs)
    assert code == Code.INVALID_ARGUMENT, details
    assert text in details and "\n" not in details


def test_a_scalar_instead_of_a_list_of_images(stub):
    code, details = error_of(stub, {"image_bytes": b"x"})
    assert code == Code.INVALID_ARGUMENT
    # Checked before the graph runs, where either of two ops may fail first.
    assert details == "Input image_bytes must be of shape (None,). Received: ()"


@pytest.mark.parametrize("shape", [[3], [1, 1, 3], []])
@pytest.mark.parametrize("signature", ["search", "search_exact"])
def test_embeddings_of_the_wrong_rank(stub, signature, shape):
    inputs = {"embedding": np.zeros(shape, np.float32)}
    code, details = error_of(stub, inputs, signature)
    assert code == Code.INVALID_ARGUMENT
    shape = tuple(shape) if len(shape) != 1 else "(3,)"
    assert details == (
        f"Input embedding must be of shape (None, 3). Received: {shape}"
    )


@pytest.mark.parametrize("size", [0, 7, 8, 16])
def test_a_tensor_that_contradicts_itself(stub, size):
    tensor = tf.make_tensor_proto(np.zeros([1, 3], np.float32))
    tensor.tensor_content = bytes(size)
    if not size:
        tensor.float_val.extend([1.0] * 4)
    # The text is that of TensorFlow Serving's predict_util.cc.
    want = (Code.INVALID_ARGUMENT, "tensor parsing error: embedding")
    assert error_of(stub, {"embedding": tensor}, "search") == want


@pytest.mark.parametrize(
    "data,text",
    [
        (b"\xff\xd8\xff", "Invalid JPEG data"),
        (b"\x89PNG\r\n\x1a\n", "Invalid PNG"),
        (b"GIF89a", "The GIF has no frame, or is cut short."),
        (b"BM", "a BMP of this layout is not decoded here"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "format: WebP is not decoded here"),
    ],
)
def test_truncated_images_and_other_formats(stub, shop, data, text):
    code, details = error_of(stub, {"image_bytes": [data]})
    assert code == Code.INVALID_ARGUMENT
    assert text in details and "\n" not in details
    ask(stub, {"image_bytes": [image(shop)]})  # The server still answers.


def test_bad_embeddings(stub):
    double = {"embedding": np.zeros([1, 3])}
    code, text = error_of(stub, double, "search")
    assert code == Code.INVALID_ARGUMENT
    assert text == "Expects arg[0] to be float but double is provided"
    wide = {"embedding": np.zeros([1, 4], np.float32)}
    code, text = error_of(stub, wide, "search_exact")
    assert code == Code.INVALID_ARGUMENT
    assert "shape (None, 3). Received: (1, 4)" in text


def test_one_bad_image_is_answered_by_its_status(stub, shop):
    inputs = {"image_bytes": [image(shop), b"no image"]}
    outputs = ask(stub, inputs).outputs
    status = tf.make_ndarray(outputs["status"])
    assert (status[0] == b"").all() and b"Unknown image" in status[1, 0]
    assert tf.make_ndarray(outputs["product_ids"])[1].tolist() == [b""] * 3
    inputs = {"image_bytes": [b"no image", b""]}
    assert error_of(stub, inputs)[0] == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("signature", ["serving_default", "encode"])
def test_a_bad_image_in_a_merged_batch_is_an_error(exported, shop, signature):
    ran = []
    scheduler = batching.BatchScheduler(
        batching.Parameters(max_batch_size=3, batch_timeout_micros=2_000_000),
        lambda rows, *_: ran.append(rows),
    )
    model = loaded_model.LoadedModel(exported["exact"], scheduler)

    def run(data):
        inputs = {"image_bytes": tf.make_tensor_proto([data])}
        try:
            return model.run(signature, inputs)
        except RequestError as error:
            return error

    files = [image(shop), b"RIFF\0\0\0\0WEBPVP8 ", image(shop, 1)]
    with futures.ThreadPoolExecutor(3) as pool:
        first, bad, second = pool.map(run, files)
    assert bad.code == Code.INVALID_ARGUMENT
    assert "WebP is not decoded here" in bad.details
    for answer in (first, second):
        assert not any(answer.get("status", np.zeros([1, 3])).ravel())
        assert answer.keys() & {"scores", "embedding"}
    assert ran == [3]
    model.release()
    scheduler.close()


def test_an_empty_batch(stub):
    nothing = {"image_bytes": np.array([], dtype=object)}
    answer = ask(stub, nothing)
    for name in ("product_ids", "scores", "paths"):
        assert tf.make_ndarray(answer.outputs[name]).shape == (0, 3)
    nothing = {"embedding": np.zeros([0, 3], np.float32)}
    for signature in ("search", "search_exact"):
        answer = ask(stub, nothing, signature)
        assert tf.make_ndarray(answer.outputs["scores"]).shape == (0, 3)


def test_fused_convolutions_take_an_empty_batch(tmp_path):
    # oneDNN fuses a convolution, its batch norm and a ReLU into one op.
    inputs = tf.keras.Input([8, 8, 3])
    x = tf.keras.layers.Conv2D(64, 3, use_bias=False)(inputs)
    x = tf.keras.layers.BatchNormalization()(x)
    x = tf.keras.layers.GlobalAveragePooling2D()(tf.nn.relu(x))
    encoder = tf.keras.Model(inputs, tf.keras.layers.UnitNormalization()(x))
    model = saved_model.ServedModel(
        encoder,
        np.eye(4, 64, dtype=np.float32),
        list("abcd"),
        list("abcd"),
        inputs=InputSpec(image_size=8),
        k=2,
        index="exact",
    )
    model.save(tmp_path / "1")
    loaded = loaded_model.LoadedModel(tmp_path / "1")
    nothing = tf.make_tensor_proto(np.array([], object), tf.string, [0])
    found = loaded.run("serving_default", {"image_bytes": nothing})
    assert found["scores"].shape == (0, 2)
    found = loaded.run("encode", {"image_bytes": nothing})
    assert found["embedding"].shape == (0, 64)
    loaded.release()


def test_an_unknown_type_and_a_size_beyond_all_memory(stub):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "visual"
    request.model_spec.signature_name = "search"
    tensor = request.inputs["embedding"]
    for dtype, sizes, text in (
        (999, [1, 3], "unknown dtype enum (999) is provided"),
        (1, [1 << 50, 3], "tensor parsing error: embedding"),
        (1, [1 << 50, 4], "must be of shape (None, 3)"),
        (1, [-1, 3], "must be of shape (None, 3). Received: (-1, 3)"),
    ):
        tensor.Clear()
        tensor.dtype = dtype
        tensor.float_val.append(1.0)
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=60)
        assert caught.value.code() == Code.INVALID_ARGUMENT
        assert text in caught.value.details()


def test_health_and_status_answer_while_all_threads_are_busy(
    exported, monkeypatch
):
    busy = threading.Event()
    folder = exported["exact"].parent
    running = server.Server(
        server_config.one_model("visual", folder),
        server.Options(port=0, poll_seconds=0),
    )

    def wait(*arguments):
        busy.wait(60)
        raise RequestError(Code.ABORTED, "waited")

    monkeypatch.setattr(prediction.Predictor, "run", wait)
    with grpc.insecure_channel(f"localhost:{running.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "visual"
        waiting = [
            stub.Predict.future(request, timeout=60)
            for _ in range(server.THREADS + 8)
        ]
        check = health_pb2_grpc.HealthStub(channel).Check
        answer = check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "visual"
        ask = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
        assert ask(status, timeout=20).model_version_status[0].version == 1
        assert not any(one.done() for one in waiting)
        busy.set()
        codes = {one.exception().code() for one in waiting}
        assert codes == {Code.ABORTED}
    running.stop()


def test_a_port_must_be_free_on_every_address(exported):
    config = server_config.one_model("visual", exported["exact"].parent)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        # Without this check, gRPC would serve on ::1 alone.
        with pytest.raises(OSError, match=f"Port {port} of 127.0.0.1 is in"):
            server.Server(config, server.Options(port=port))
    with pytest.raises(OSError, match="--host=192.0.2.1, port 0, cannot"):
        server.Server(config, server.Options("192.0.2.1", port=0))
    with pytest.raises(OSError, match="--host must be a name or address"):
        server.Server(config, server.Options("no.such.host.invalid", port=0))


@pytest.mark.parametrize(
    "family,taken,host",
    [
        (socket.AF_INET, "127.0.0.1", "0.0.0.0"),
        (socket.AF_INET, "0.0.0.0", "localhost"),
        (socket.AF_INET6, "::1", "0.0.0.0"),
        (socket.AF_INET6, "::1", "localhost"),
    ],
)
@pytest.mark.parametrize("which", ["port", "rest_port"])
def test_ports_in_use_are_found_before_a_model_loads(
    family, taken, host, which, tmp_path
):
    # Loading would fail: the folder holds no version.
    config = server_config.one_model("visual", tmp_path)
    with socket.socket(family) as other:
        try:
            other.bind((taken, 0))
        except OSError:
            pytest.skip("This machine has no IPv6.")
        other.listen()
        port = other.getsockname()[1]
        options = server.Options(**{"host": host, "port": 0, which: port})
        with pytest.raises(OSError, match=f"Port {port} of .* is in use"):
            server.Server(config, options)
    with pytest.raises(FileNotFoundError, match="holds no version"):
        server.Server(config, options)


def test_an_address_of_ipv6_is_served(exported):
    try:
        ports.check_port("::1", 0)
    except OSError:
        pytest.skip("This machine has no IPv6.")
    running = server.Server(
        server_config.one_model("visual", exported["exact"].parent),
        server.Options(host="::1", port=0, rest_port=0, poll_seconds=0),
    )
    with grpc.insecure_channel(ports.join("::1", running.port)) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert metadata(stub).model_spec.version.value == 1
    running.stop()


def test_grpc_and_rest_need_two_ports(tmp_path):
    config = server_config.one_model("visual", tmp_path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = server.Options(port=port, rest_port=port)
    with pytest.raises(ValueError, match=f"must differ.*Received: {port} for"):
        server.Server(config, options)


def metadata(stub, name="visual", fields=("signature_def",), version=None):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    request.metadata_field.extend(fields)
    return stub.GetModelMetadata(request, timeout=60)


@pytest.mark.parametrize("version", [None, 1])
def test_metadata(stub, version):
    answer = metadata(stub, version=version)
    assert set(answer.metadata) == {"signature_def"}
    table = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(table)
    for name in (
        "serving_default",
        "encode",
        "search",
        "search_exact",
        "encode_and_search_exact",
    ):
        signature = table.signature_def[name]
        assert signature.method_name == "tensorflow/serving/predict"
        assert len(signature.inputs) == 1
        outputs = {"product_ids", "scores", "paths"}
        if name == "encode":
            outputs = {"embedding"}
        elif not name.startswith("search"):
            outputs |= {"status"}
        assert set(signature.outputs) == outputs
    inputs = table.signature_def["serving_default"].inputs
    assert inputs["image_bytes"].dtype == tf.string.as_datatype_enum
    assert answer.model_spec.name == "visual"
    assert answer.model_spec.version.value == 1


@pytest.mark.parametrize(
    "arguments,code,text",
    [
        (
            {"fields": ()},
            Code.INVALID_ARGUMENT,
            "must specify at least one metadata_field",
        ),
        (
            {"fields": ("x",)},
            Code.INVALID_ARGUMENT,
            "Metadata field x is not supported",
        ),
        (
            {"fields": ("signature_def", "x")},
            Code.INVALID_ARGUMENT,
            "Metadata field x is not supported",
        ),
        ({"name": "zzz"}, Code.NOT_FOUND, "Latest(zzz)"),
        ({"version": 9}, Code.NOT_FOUND, "Specific(visual, 9)"),
        ({"name": ""}, Code.INVALID_ARGUMENT, "has no name specified"),
    ],
)
def test_bad_metadata_requests(stub, arguments, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        metadata(stub, **arguments)
    assert caught.value.code() == code and text in caught.value.details()


def test_many_requests_at_once(stub, shop):
    def one(row):
        answer = ask(stub, {"image_bytes": [image(shop, row)]})
        return tf.make_ndarray(answer.outputs["paths"])[0, 0].decode()

    rows = [i % 12 for i in range(60)]
    with futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(one, rows)) == [shop.paths[i] for i in rows]


def test_good_and_bad_requests_at_once_do_not_mix(stub, shop):
    def one(i):
        if i % 3 == 0:
            return error_of(stub, {"image_bytes": [b"no image"]})[0]
        if i % 3 == 1:
            answer = ask(
                stub, {"embedding": shop.embeddings[i % 12][None]}, "search"
            )
        else:
            answer = ask(stub, {"image_bytes": [image(shop, i % 12)]})
        return tf.make_ndarray(answer.outputs["paths"])[0, 0].decode()

    with futures.ThreadPoolExecutor(12) as pool:
        got = list(pool.map(one, range(60)))
    assert got == [
        Code.INVALID_ARGUMENT if i % 3 == 0 else shop.paths[i % 12]
        for i in range(60)
    ]


def test_the_newest_version_is_served(shop, tmp_path):
    shop.export(tmp_path, "exact")
    turned = np.ascontiguousarray(shop.embeddings[::-1])
    shop.export(tmp_path, "exact", embeddings=turned)
    running, port, model = server.start(tmp_path, "visual", 0)
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = ask(stub, {"image_bytes": [image(shop)]})
        assert answer.model_spec.version.value == 2
        paths = tf.make_ndarray(answer.outputs["paths"])
        assert paths[0, 0].decode() == shop.paths[-1]
        # The older version is on disk, but not in memory.
        code, text = error_of(stub, {"image_bytes": [image(shop)]}, version=1)
        assert code == Code.NOT_FOUND and "Specific(visual, 1)" in text
    running.stop(0).wait()
    model.release()


def test_a_port_in_use_and_a_folder_without_versions(exported, tmp_path):
    folder = exported["exact"].parent
    running, port, model = server.start(folder, "visual", 0)
    with pytest.raises(OSError, match=f"Port {port} of .* is in use"):
        server.start(folder, "visual", port)
    running.stop(0).wait()
    model.release()
    with pytest.raises(FileNotFoundError, match="tf-triplet-export"):
        server.start(tmp_path, "visual", 0)


def test_two_versions_in_one_process_use_their_own_catalogs(shop, tmp_path):
    turned = np.ascontiguousarray(shop.embeddings[::-1])
    paths = [shop.export(tmp_path), shop.export(tmp_path, embeddings=turned)]
    models = [loaded_model.LoadedModel(path) for path in paths]
    inputs = {"embedding": tf.make_tensor_proto(shop.embeddings)}
    for _ in range(2):
        for model, paths in zip(models, (shop.paths, shop.paths[::-1])):
            answer = model.run("search", inputs)
            assert [p.decode() for p in answer["paths"][:, 0]] == paths
    models[0].release()
    answer = models[1].run("search", inputs)
    assert [p.decode() for p in answer["paths"][:, 0]] == shop.paths[::-1]
    models[1].release()

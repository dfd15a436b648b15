"""What the client sends, understands and says."""

import io
import socket
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tf_triplet import client
from tf_triplet.serving import server


def test_images_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.png"):
        client.read_image(tmp_path / "gone.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty.png is empty \(0 bytes\)"):
        client.read_image(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match="text.jpg is not an image"):
        client.read_image(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError):
        client.read_image(tmp_path)


def test_webp_is_turned_into_what_a_server_reads(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, [7, 9, 3], np.uint8)
    path = tmp_path / "a.webp"
    Image.fromarray(pixels).save(path, lossless=True)
    data = client.read_image(path)
    assert data.startswith(b"\x89PNG")
    got = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_what_a_server_reads_is_sent_untouched(tmp_path, kind):
    path = tmp_path / "image"  # The bytes tell the format, not the name.
    Image.new("RGB", (5, 4), (10, 200, 30)).save(path, kind)
    assert client.read_image(path) == path.read_bytes()


def test_nobody_there(caplog):
    start = time.monotonic()
    with pytest.raises(
        client.QueryError,
        match=r"No gRPC server answers at localhost:1 within 2 s\. Start one",
    ):
        client.query([b"x"], "localhost:1", timeout_s=2)
    assert 2 <= time.monotonic() - start < 4
    told = "No gRPC server answers at localhost:1 yet. Waiting for up to 2 s."
    assert told in caplog.text
    start = time.monotonic()
    with pytest.raises(client.QueryError, match="without http://. Received"):
        client.query([b"x"], "http://localhost:1")
    assert time.monotonic() - start < 1


def test_a_server_that_is_starting_is_waited_for(exported, shop, caplog):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    image = client.read_image(shop.paths[1])
    with futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.query, [image], f"localhost:{port}")
        time.sleep(2)
        assert not asked.done()
        running, _, model = server.start(exported["exact"].parent, port=port)
        (answer,) = asked.result(20)
    assert answer[0].path == shop.paths[1]
    assert "Waiting for up to 30 s." in caplog.text
    caplog.clear()
    client.query([image], f"localhost:{port}")
    assert not caplog.text
    running.stop(0).wait()
    model.release()


def test_somebody_who_does_not_answer():
    class Sleeper(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            time.sleep(2)

    sleeper = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Sleeper(), sleeper
    )
    port = sleeper.add_insecure_port("localhost:0")
    sleeper.start()
    with pytest.raises(client.QueryError, match="did not answer in time"):
        client.query([b"x"], f"localhost:{port}", timeout_s=0.5)
    sleeper.stop(0).wait()


def test_answers_and_refusals(exported, shop):
    running, port, model = server.start(exported["scann"].parent, port=0)
    address = f"localhost:{port}"
    images = [client.read_image(path) for path in shop.paths[:2]]
    answers = client.query(images, address)
    assert [answer[0].path for answer in answers] == shop.paths[:2]
    assert answers[0][0].product_id == "p0"
    assert answers[0][0].score == pytest.approx(1, abs=1e-5)
    exact = client.query(images, address, signature="encode_and_search_exact")
    for got, want in zip(answers, exact):
        assert [n.path for n in got] == [n.path for n in want]
    assert client.query([], address) == []
    with pytest.raises(client.QueryError, match="INVALID_ARGUMENT"):
        client.query([b"no image"], address)
    message = "Image 2 of 3: .*WebP is not decoded here"
    with pytest.raises(client.ImageError, match=message):
        client.query([images[0], b"RIFF\0\0\0\0WEBPVP8 ", b""], address)
    with pytest.raises(client.QueryError, match=r"NOT_FOUND.*Latest\(zzz\)"):
        client.query(images, address, model="zzz")
    with pytest.raises(client.QueryError, match='"zzz" not found'):
        client.query(images, address, signature="zzz")
    message = "encode of product_search answers no products, but embedding"
    with pytest.raises(client.QueryError, match=message):
        client.query(images, address, signature="encode")
    running.stop(0).wait()
    model.release()


def test_a_part_of_an_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, [7, 9, 3], np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    data = client.read_image(path, [2, 1, 6, 5])
    got = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(got, pixels[1:5, 2:6])
    with pytest.raises(ValueError, match="a.png: The box lies outside of"):
        client.read_image(path, [9, 0, 12, 5])
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match="cut.jpg is not an image"):
        client.read_image(tmp_path / "cut.jpg", [0, 0, 1, 1])


def test_filters_and_columns(shop, tmp_path):
    kinds = np.array(["hats", "bags"] * 6)
    shop.export(
        tmp_path,
        "exact",
        k=9,
        filters={"category": kinds, "domain": np.array(["shop", ""] * 6)},
        columns={"price": np.arange(12) / 2},
    )
    running, port, model = server.start(tmp_path, port=0)
    image, address = client.read_image(shop.paths[1]), f"localhost:{port}"
    (answer,) = client.query([image], address)
    assert answer[0].path == shop.paths[1] and len(answer) == 9
    assert answer[0].columns == {"price": "0.5"}
    for only in ({"only_category": "hats"}, {"only_domain": "shop"}):
        (answer,) = client.query([image], address, **only)
        assert {n.path for n in answer} == set(shop.paths[::2])
    none = {"only_category": "hats", "only_domain": "street"}
    assert client.query([image], address, **none) == [[]]
    unknown = client.find_unknown_filters(image, server=address, **none)
    assert unknown == {"only_domain": "street"}
    # Both are known, but not together.
    none = {"only_category": "bags", "only_domain": "shop"}
    assert client.query([image], address, **none) == [[]]
    assert client.find_unknown_filters(image, server=address, **none) == {}
    assert len(set(answer)) == 6  # A neighbor can be put into a set.
    running.stop(0).wait()
    model.release()


def test_padding_is_left_out(shop, tmp_path):
    random = np.random.default_rng(0)
    data = random.normal(size=[300, 3]).astype(np.float32)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    shop.export(
        tmp_path,
        k=50,
        embeddings=data,
        product_ids=[str(i) for i in range(300)],
        paths=(shop.paths * 25)[:300],
        leaves=60,
        # With one, it may be an empty leaf, and nothing is found.
        leaves_to_search=3,
        reorder=60,
    )
    running, port, model = server.start(tmp_path, port=0)
    image = client.read_image(shop.paths[0])
    (answer,) = client.query([image], f"localhost:{port}")
    assert 0 < len(answer) < 50 and all(n.product_id for n in answer)
    running.stop(0).wait()
    model.release()


def test_images_with_too_many_pixels_are_not_converted(tmp_path):
    Image.new("RGB", (50, 30)).save(tmp_path / "a.webp", lossless=True)
    with pytest.raises(ValueError) as caught:
        client.read_image(tmp_path / "a.webp", max_megapixels=0.001)
    assert "more than the 0.001 million" in str(caught.value)
    assert "or raise max_megapixels" in str(caught.value)
    assert "not an image" not in str(caught.value)
    Image.new("RGB", (50, 30)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="or raise max_megapixels"):
        client.read_image(tmp_path / "a.png", [0, 0, 9, 9], 0.001)
    assert client.read_image(tmp_path / "a.png", [0, 0, 9, 9], 0.002)

"""Which version answers: swaps, broken versions, policies, labels."""

import importlib.util
import shutil
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from tf_triplet.servable import versions, warmup
from tf_triplet.serving import (
    loaded_model,
    loading,
    server,
    server_config,
    version_policy,
    warmup_replay,
)
from tf_triplet.serving.errors import RequestError
from tf_triplet.serving.model_manager import ModelManager

Code = grpc.StatusCode
State = get_model_status_pb2.ModelVersionStatus.State
VECTORS = {"embedding": tf.make_tensor_proto(np.eye(1, 3, dtype=np.float32))}


@pytest.fixture
def models():
    manager = ModelManager()
    yield manager
    manager.release()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A version with one signature, which loads faster than an export."""
    path = tmp_path_factory.mktemp("toy") / "1"
    module = tf.Module()
    module.factor = tf.Variable(2.0)

    def search(embedding):
        return {"scores": module.factor * embedding}

    spec = tf.TensorSpec([None, 3], tf.float32, "embedding")
    signature = tf.function(search).get_concrete_function(spec)
    tf.saved_model.save(module, str(path), {"search": signature})
    return path


@pytest.fixture
def publish(toy, tmp_path):
    """Publishes a copy of a model under a number, broken if asked."""

    def publish(number, broken=False, source=toy):
        target = tmp_path / str(number)
        shutil.copytree(source, target)
        if broken:
            (target / "variables" / "variables.index").write_bytes(b"half")
        return target

    return publish


def states(models, name="visual"):
    return {n: State.Name(s) for n, s, _ in models.statuses(name)}


def error_of(function, *arguments, **more):
    with pytest.raises(RequestError) as caught:
        function(*arguments, **more)
    return caught.value.code, caught.value.details


def lent(models, **spec):
    with models.lease("visual", **spec) as model:
        return model.version


def model_at(path, **fields):
    return {"visual": version_policy.Model(path, **fields)}


def test_a_new_version_takes_over_and_the_old_ends(models, publish, tmp_path):
    publish(1)
    models.configure(model_at(tmp_path))
    assert lent(models) == 1
    publish(2)
    models.poll()
    assert lent(models) == 2
    assert states(models) == {2: "AVAILABLE", 1: "END"}
    assert error_of(lent, models, version=1) == (
        Code.NOT_FOUND,
        "Servable not found for request: Specific(visual, 1)",
    )
    # Without version 2, version 1 is loaded again.
    shutil.rmtree(tmp_path / "2")
    models.poll()
    assert lent(models) == 1
    assert states(models) == {2: "END", 1: "AVAILABLE"}


def test_a_loaded_version_is_not_pruned(models, publish, tmp_path):
    publish(1)
    models.configure(model_at(tmp_path))
    publish(2)
    publish(3, broken=True)
    left = {1: "a program has it loaded"}
    assert versions.prune(tmp_path, keep=1) == ([2], left)
    models.poll()
    # The broken version is not held, and the old one still answers.
    assert lent(models) == 1
    publish(4)
    models.poll()
    assert lent(models) == 4
    assert versions.prune(tmp_path, keep=1) == ([1, 3], {})


def test_a_version_stays_until_its_last_request_ends(models, publish, tmp_path):
    publish(1)
    models.configure(model_at(tmp_path))
    with models.lease("visual") as old:
        publish(2)
        poll = threading.Thread(target=models.poll)
        poll.start()
        deadline = time.monotonic() + 30
        while states(models)[1] != "UNLOADING":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # New requests use version 2, while the running one keeps version 1.
        assert lent(models) == 2
        assert old.run("search", VECTORS)["scores"].shape == (1, 3)
        assert poll.is_alive()
    poll.join(30)
    assert states(models) == {2: "AVAILABLE", 1: "END"}


def test_a_broken_version_is_reported_and_the_old_one_serves(
    models, publish, tmp_path
):
    publish(1)
    models.configure(model_at(tmp_path))
    publish(2, broken=True)
    models.poll()
    assert lent(models) == 1
    (_, state, (code, message)), (_, old, _) = models.statuses("visual")
    assert (state, old) == (State.END, State.AVAILABLE)
    assert code != 0 and "too short" in message
    # It is loaded again when its files change.
    shutil.rmtree(tmp_path / "2")
    publish(2)
    models.poll()
    assert lent(models) == 2


def test_an_empty_folder_unloads_nothing(models, publish, tmp_path):
    publish(1)
    models.configure(model_at(tmp_path))
    shutil.rmtree(tmp_path / "1")
    models.poll()
    assert lent(models) == 1


@pytest.mark.parametrize(
    "fields,served",
    [
        ({}, [4]),
        ({"latest": 2}, [2, 4]),
        ({"latest": 0, "specific": (1, 4, 9)}, [1, 4]),
        ({"latest": 0, "specific": None}, [1, 2, 4]),
    ],
)
def test_policies(fields, served):
    model = version_policy.Model(Path("/models"), **fields)
    assert model.choose([4, 1, 2]) == served


def test_labels(models, publish, tmp_path):
    publish(1)
    publish(2)
    both = {"latest": 0, "specific": None}
    labels = {"stable": 1, "canary": 2}
    models.configure(model_at(tmp_path, **both, labels=labels))
    assert lent(models, label="stable") == 1
    assert lent(models, label="canary") == lent(models) == 2
    wrong = model_at(tmp_path, **both, labels={"canary": 9})
    assert error_of(models.configure, wrong) == (
        Code.FAILED_PRECONDITION,
        "Request to assign label to version 9 of model visual, which is not "
        "currently available for inference",
    )
    # The former labels stay.
    assert lent(models, label="canary") == 2
    assert error_of(lent, models, label="beta") == (
        Code.INVALID_ARGUMENT,
        "Unrecognized servable version label: beta",
    )


def test_a_config_whose_only_version_is_broken(models, publish, tmp_path):
    publish(1, broken=True)
    code, text = error_of(models.configure, model_at(tmp_path))
    assert code == Code.UNKNOWN
    assert text.startswith(
        "1 servable(s) did not become available: {{{name: visual version: 1} "
        "due to error: "
    )


def test_the_same_number_of_another_folder(models, publish, toy, tmp_path):
    publish(1)
    models.configure(model_at(tmp_path))
    other, third = tmp_path / "other", tmp_path / "third"
    shutil.copytree(toy, other / "1")
    (other / "1" / "saved_model.pb").write_bytes(b"half")
    shutil.copytree(toy, third / "1")
    # A version that does not load replaces nothing, and ends the wait.
    for _ in range(2):
        code, text = error_of(models.configure, model_at(other))
        assert code == Code.UNKNOWN and "version: 1} due to error" in text
        with models.lease("visual") as model:
            assert model.path == tmp_path / "1"
    assert states(models) == {1: "AVAILABLE"}
    # A version that loads takes over, and at no moment is there none.
    missed, ended = [], threading.Event()

    def ask():
        while not ended.is_set():
            try:
                with models.lease("visual"):
                    pass
            except RequestError as error:
                missed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    models.configure(model_at(third))
    ended.set()
    asking.join()
    assert not missed
    with models.lease("visual") as model:
        assert model.path == third / "1"
    models.configure(model_at(tmp_path))
    with models.lease("visual") as model:
        assert model.path == tmp_path / "1"


def test_a_policy_that_names_no_version_changes_nothing(
    models, publish, tmp_path
):
    publish(1)
    models.configure(model_at(tmp_path, labels={"stable": 1}))
    absent = model_at(tmp_path, latest=0, specific=(99,))
    code, text = error_of(models.configure, absent)
    assert code == Code.NOT_FOUND
    assert "(99)" in text and text.endswith(" holds 1")
    assert lent(models, label="stable") == 1
    models.poll()
    assert states(models) == {1: "AVAILABLE"}


def test_an_unreadable_version_is_reported(
    models, publish, tmp_path, monkeypatch
):
    publish(1)
    publish(2)
    is_file = Path.is_file

    def closed(path):
        if path.parent.name == "2":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    def load(path, *arguments):
        if path.name == "2":
            return None, (2, "Permission denied")
        return real(path, *arguments)

    real = loading.load
    monkeypatch.setattr(Path, "is_file", closed)
    monkeypatch.setattr(loading, "load", load)
    publish(3)
    config = model_at(tmp_path, latest=3)
    assert error_of(models.configure, config)[0] == Code.UNKNOWN
    assert states(models) == {3: "AVAILABLE", 2: "END", 1: "AVAILABLE"}
    publish(4)
    models.poll()
    assert lent(models) == 4


def test_an_unreadable_folder_does_not_stop_the_others(
    models, publish, tmp_path, monkeypatch, caplog
):
    publish(1)
    both = {
        **{"a": version_policy.Model(tmp_path / "closed")},
        **model_at(tmp_path),
    }
    models.configure(model_at(tmp_path))
    models._models = both
    listed = versions.list_versions

    def list_versions(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(versions, "list_versions", list_versions)
    publish(2)
    models.poll()
    models.poll()
    assert lent(models) == 2
    assert caplog.text.count("The folder of model a cannot be read") == 1


def test_a_missing_folder_is_waited_for(models, tmp_path):
    asked = []

    def waiting():
        asked.append(1)
        return len(asked) < 3

    code, text = error_of(models.configure, model_at(tmp_path / "no"), waiting)
    assert code == Code.DEADLINE_EXCEEDED
    assert text == "There is no version of visual"
    assert len(asked) == 3


def test_a_model_that_left_the_config_is_unloaded(models, publish, tmp_path):
    publish(1)
    models.configure(model_at(tmp_path))
    models.configure({"other": version_policy.Model(tmp_path)})
    assert states(models) == {1: "END"}
    assert error_of(lent, models)[1].endswith("Latest(visual)")


def entry(**fields):
    config = model_server_config_pb2.ModelServerConfig()
    fields = {"name": "a", "base_path": "/models/a", **fields}
    config.model_config_list.config.add(**fields)
    return config


@pytest.mark.parametrize(
    "config,text",
    [
        (entry(name=""), "has no name"),
        (entry(base_path="models/a"), "absolute path or URI; got base_path()="),
        (entry(model_platform="onnx"), "of platform onnx"),
    ],
)
def test_bad_configs(config, text):
    code, details = error_of(version_policy.read, config)
    assert code == Code.INVALID_ARGUMENT and text in details


def test_a_model_is_listed_once():
    config = entry()
    config.MergeFrom(entry())
    code, details = error_of(version_policy.read, config)
    assert "Illegal to list model a multiple times" in details


def record(path, signature, **inputs):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    target = path / warmup.FILE
    target.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(target)) as writer:
        writer.write(log.SerializeToString())


def test_signatures_without_a_warm_up_request_get_one(publish, exported):
    path = publish(1, source=exported["exact"])
    record(path, "search", embedding=np.eye(2, 3, dtype=np.float32))
    model = loaded_model.LoadedModel(path)
    asked = []
    compute = model.compute
    model.compute = lambda name, arrays: (
        asked.append((name, len(next(iter(arrays.values()))))),
        compute(name, arrays),
    )
    assert warmup_replay.warm_up(model) == set(model.signature_defs)
    # The recorded request has two rows, and runs once.
    assert asked[0] == ("search", 2)
    assert sorted(name for name, _ in asked) == sorted(model.signature_defs)
    model.release()


def test_a_version_whose_warm_up_request_fails_is_broken(
    models, publish, tmp_path
):
    path = publish(1)
    record(path, "search", embedding=np.zeros([1, 9], np.float32))
    code, text = error_of(models.configure, model_at(tmp_path))
    assert code == Code.UNKNOWN and "a request to search fails" in text


def config_of(path, **labels):
    config = model_server_config_pb2.ModelServerConfig()
    added = config.model_config_list.config.add(
        name="visual", base_path=str(path)
    )
    added.model_version_policy.all.SetInParent()
    added.version_labels.update(labels)
    return config


def test_a_broken_version_beside_a_good_one_at_the_start(publish, tmp_path):
    publish(1)
    publish(2, broken=True)
    options = server.Options(port=0, poll_seconds=0)
    running = server.Server(config_of(tmp_path, stable=1), options)
    assert lent(running.models, label="stable") == 1
    running.stop()
    message = "label to version 2 .*--allow_version_labels_for_unavailable"
    with pytest.raises(ValueError, match=message):
        server.Server(config_of(tmp_path, canary=2), options)
    options = server.Options(port=0, poll_seconds=0, labels_of_unavailable=True)
    server.Server(config_of(tmp_path, canary=2), options).stop()


def test_reloading_over_grpc(publish, tmp_path):
    publish(1)
    publish(2)
    running = server.Server(
        server_config.one_model("visual", tmp_path),
        server.Options(port=0, poll_seconds=0),
    )
    assert running.models.available("visual") == [2]
    with grpc.insecure_channel(f"localhost:{running.port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)

        def reload(config, timeout=60):
            request = model_management_pb2.ReloadConfigRequest(config=config)
            return stub.HandleReloadConfigRequest(request, timeout=timeout)

        reload(config_of(tmp_path, stable=1, canary=2))
        assert running.models.available("visual") == [1, 2]
        assert lent(running.models, label="stable") == 1
        with pytest.raises(grpc.RpcError) as caught:
            reload(config_of(tmp_path, canary=9))
        assert caught.value.code() == Code.FAILED_PRECONDITION
        # While the folder of a model is missing, the answer waits.
        other = config_of(tmp_path)
        other.model_config_list.config.add(name="b", base_path="/nowhere")
        with pytest.raises(grpc.RpcError) as caught:
            reload(other, timeout=0.5)
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
        # The next reload does not wait for it.
        reload(config_of(tmp_path, stable=2))
        assert lent(running.models, label="stable") == 2
    running.stop()


def test_swaps_under_load(tmp_path):
    path = Path(__file__).parents[2] / "benchmarks" / "swaps.py"
    spec = importlib.util.spec_from_file_location("swaps", path)
    swaps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(swaps)
    shop = swaps.Shop(tmp_path, 50, 4, "scann")
    counts, seen = swaps.swap_under_load(shop, 100, 2, 4, batched=True)
    assert counts["answers"] >= 100
    assert counts["failed"] == counts["mixed"] == 0
    assert len(seen) >= 2

"""Reading the configuration files, and their errors."""

import pytest

from tf_triplet.serving import batching, server_config


def write(folder, text):
    path = folder / "file.config"
    path.write_text(text)
    return path


def test_missing_batching_fields_have_defaults(tmp_path):
    path = write(
        tmp_path,
        "max_batch_size { value: 8 }  # rows\n"
        "enable_large_batch_splitting { value: true }\n"
        "allowed_batch_sizes: 2\nallowed_batch_sizes: 8\n",
    )
    assert server_config.read_batching(path) == batching.Parameters(
        max_batch_size=8,
        allowed_batch_sizes=(2, 8),
        enable_large_batch_splitting=True,
    )


@pytest.mark.parametrize(
    "text,message",
    [
        ("max_batch_size: 8", "cannot be parsed, line:column 1:"),
        ("pad_variable_length_inputs: true", "pad_variable_length_inputs"),
        ("max_batch_size { value: -1 }", "must be positive. Received: -1"),
    ],
)
def test_bad_batching_files(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        server_config.read_batching(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*gone"):
        server_config.read_models(tmp_path / "gone")


@pytest.mark.parametrize(
    "text,path",
    [
        ("", None),
        ("prometheus_config { enable: false path: '/m' }", None),
        (
            "prometheus_config { enable: true }",
            "/monitoring/prometheus/metrics",
        ),
        ("prometheus_config { enable: true path: '/m' }", "/m"),
    ],
)
def test_the_path_of_the_metrics(tmp_path, text, path):
    assert server_config.read_monitoring(write(tmp_path, text)) == path


def test_the_metrics_may_not_hide_the_models(tmp_path):
    text = "prometheus_config { enable: true path: '/v1/models/a' }"
    with pytest.raises(ValueError, match="must begin with / and not with"):
        server_config.read_monitoring(write(tmp_path, text))


@pytest.mark.parametrize(
    "text,message",
    [
        ("server_key: 'key.pem'", "`server_key` must hold the PEM text"),
        ("server_key: 'KEY'", "`server_cert` must hold the PEM text"),
        (
            "server_key: 'KEY' server_cert: 'CERTIFICATE' client_verify: true",
            "`client_verify` needs `custom_ca`",
        ),
    ],
)
def test_bad_tls_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        server_config.read_tls(write(tmp_path, text))


def test_a_tls_file_with_client_certificates(tmp_path):
    text = (
        "server_key: 'KEY' server_cert: 'CERTIFICATE' custom_ca: 'CA' "
        "client_verify: true"
    )
    tls = server_config.read_tls(write(tmp_path, text))
    assert tls == server_config.Tls(b"KEY", b"CERTIFICATE", b"CA", True)

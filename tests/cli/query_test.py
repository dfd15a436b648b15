"""The paths of images on the command line of tf-triplet-query."""

import pytest

from tf_triplet import grpc_channel
from tf_triplet.cli import query

NAMES = ["a.jpg", "a b,c.jpg", "x,y,z.jpg", "x", "y", '"q".jpg', "c.jpg"]


@pytest.mark.parametrize(
    "text,wanted",
    [
        ("a.jpg", ["a.jpg"]),
        ("a b,c.jpg", ["a b,c.jpg"]),
        ("a.jpg,a b,c.jpg", ["a.jpg", "a b,c.jpg"]),
        ("a b,c.jpg,a.jpg", ["a b,c.jpg", "a.jpg"]),
        ("x,y,z.jpg,x,y", ["x,y,z.jpg", "x", "y"]),
        ("a.jpg,gone.jpg,c.jpg", ["a.jpg", "gone.jpg", "c.jpg"]),
        ('"a b,c.jpg",a.jpg', ["a b,c.jpg", "a.jpg"]),
        ('"q".jpg', ['"q".jpg']),
        ('"a.jpg"', ["a.jpg"]),
        ("a.jpg,", ["a.jpg"]),
        ("", []),
    ],
)
def test_a_comma_in_a_file_name_separates_nothing(
    tmp_path, monkeypatch, text, wanted
):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / name).touch()
    assert query.split_paths(text) == wanted


def test_names_of_operations_are_left_out():
    text = (
        "{{function_node __wrapped__DecodeImage_device_/job:localhost}} "
        "Unknown image file format. [[{{node DecodeImage}}]] [Op:DecodeImage]"
    )
    wanted = "Unknown image file format."
    assert grpc_channel.plain_text(text) == wanted

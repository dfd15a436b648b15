"""A request that is answered with a gRPC code and a text."""

from __future__ import annotations

import re

import grpc
import tensorflow as tf

Code = grpc.StatusCode
BY_NUMBER = {code.value[0]: code for code in Code}


class RequestError(Exception):
    """What the client is told."""

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code, self.details = code, details


def from_tensorflow(error: tf.errors.OpError) -> RequestError:
    """The refusal that TensorFlow Serving would make of an op's error."""
    return RequestError(BY_NUMBER[error.error_code], shorten(error.message))


def shorten(message: str) -> str:
    """TensorFlow's message without the places that it was traced at."""
    lines = [line.strip() for line in message.splitlines()]
    noise = (
        r"(File |Graph exec|Detected at|Original stack|\[\[|Node: |"
        r"\d+ root error|\(\d+\) .*Cancelled|\d+ (successful|derived)|$)"
    )
    told = [line for line in lines if not re.match(noise, line)]
    first = (told or lines)[0]
    # The op that spoke, by its name in a function of this graph.
    first = re.sub(r"\{\{(function_)?node [^}]*\}\}\s*", "", first)
    return re.sub(r"^\(\d+\) [A-Z_]+: ", "", first)

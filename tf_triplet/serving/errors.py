"""The error that answers a request: a gRPC status code and a text."""

from __future__ import annotations

import re

import grpc
import tensorflow as tf

Code = grpc.StatusCode
BY_NUMBER = {code.value[0]: code for code in Code}


class RequestError(Exception):
    """An error that is sent to the client.

    Attributes:
        code: The gRPC status code. REST translates it to an HTTP status.
        details: The text that the client reads.
    """

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code, self.details = code, details


def from_tensorflow(error: tf.errors.OpError) -> RequestError:
    """Converts an op's error as TensorFlow Serving converts it."""
    return RequestError(BY_NUMBER[error.error_code], shorten(error.message))


def shorten(message: str) -> str:
    """Returns TensorFlow's message without the trace of where it arose."""
    lines = [line.strip() for line in message.splitlines()]
    trace = (
        r"(File |Graph exec|Detected at|Original stack|\[\[|Node: |"
        r"\d+ root error|\(\d+\) .*Cancelled|\d+ (successful|derived)|$)"
    )
    kept = [line for line in lines if not re.match(trace, line)]
    first = (kept or lines)[0]
    # The name of the failing node means nothing outside this graph.
    first = re.sub(r"\{\{(function_)?node [^}]*\}\}\s*", "", first)
    return re.sub(r"^\(\d+\) [A-Z_]+: ", "", first)

"""Checks that ports are free, before a model is loaded for minutes."""

from __future__ import annotations

import contextlib
import errno
import socket

# gRPC binds these hosts on IPv4 and IPv6 alike, even if the machine knows the
# name on one of them only.
_BOTH = {
    "localhost": ("127.0.0.1", "::1"),
    "0.0.0.0": ("0.0.0.0", "::"),
    "::": ("0.0.0.0", "::"),
}


def check_ports(host: str, port: int, rest_port: int | None) -> None:
    """Checks that a server can bind all its ports.

    Args:
        host: A name or address of this machine, or 0.0.0.0 for all.
        port: The port for gRPC; 0 takes a free one.
        rest_port: The port for REST. `None` serves no REST.

    Raises:
        OSError: Another program has a port on one of the addresses, or the
            host is not this machine.
        ValueError: Both ports are the same.
    """
    if port and port == rest_port:
        raise ValueError(
            "--port and --rest_port must differ, because gRPC and REST cannot "
            f"share a port. Received: {port} for both"
        )
    check_port(host, port)
    if rest_port is not None:
        check_port(host, rest_port)


def check_port(host: str, port: int) -> None:
    """Checks that a port can be bound on every address of a host.

    gRPC needs only one of them. If another program has the port on
    127.0.0.1, gRPC serves `localhost` on ::1 alone, and clients may reach the
    other program.

    Args:
        host: A name or address of this machine, or 0.0.0.0 for all.
        port: The port; 0 for any.

    Raises:
        OSError: Another program has the port, or the host is not this
            machine.
    """
    try:
        found = [
            one
            for name in _BOTH.get(host, (host,))
            for one in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        ]
    except socket.gaierror as error:
        raise OSError(
            f"--host must be a name or address of this machine, or 0.0.0.0 "
            f"for all its addresses. Received: {host!r} ({error.strerror})"
        ) from error
    errors = [_bind_error(*one) for one in found]
    for (*_, address), error in zip(found, errors):
        if error is not None and error.errno == errno.EADDRINUSE:
            raise OSError(
                f"Port {port} of {address[0]} is in use. Pass another port, "
                "or 0 for a free one."
            ) from error
    # Some addresses may fail: not every machine has IPv6.
    if all(errors):
        raise OSError(
            f"--host={host}, port {port}, cannot be bound: "
            f"{errors[0].strerror}. Pass an address of this machine, or "
            "0.0.0.0 for all its addresses."
        ) from errors[0]


def join(host: str, port: int) -> str:
    """Returns `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_error(family, kind, protocol, _, address) -> OSError | None:
    try:
        with contextlib.closing(socket.socket(family, kind, protocol)) as tried:
            # A port whose last connections have just closed can be bound.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        return error
    return None

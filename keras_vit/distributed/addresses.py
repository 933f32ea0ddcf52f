"""Places on a network, "HOST:PORT": what they are, who answers there, which ports are free. No TensorFlow."""

import socket


def is_address(text):
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isdigit() and 0 < int(port) < 65536


def parts(place):
    """(host, port as a number)."""
    host, _, port = place.rpartition(":")
    return host, int(port)


def why_silent(place):
    """None when something answers there, else why not."""
    try:
        socket.create_connection(parts(place), timeout=2).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def bind(listener, port):
    """Bind a socket to that port of this machine. Raises OSError when another process listens there."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not matter
    listener.bind(("", port))

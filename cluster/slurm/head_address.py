"""Prints HOST:PORT for the head of a job's Ray; runs on the node that will be it. Needs no more than Python.

The address is the one that the node's name stands for, if other nodes can reach it: an IPv4 address, since all parts of
Ray take these, and none of 127.*, which Debian's /etc/hosts gives. Otherwise that of the interface which leads out.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

PORT = 6379
# Ray gives 10002 to 19999 to workers, and has further ports of its own below; what the kernel lends begins above.
OTHERS = range(20100, 20200)
# Any address out there: nothing is sent, but the kernel looks up which interface would do it.
OUTSIDE = ("192.0.2.1", "10.255.255.255", "172.31.255.255", "192.168.255.255")


def addresses() -> Iterator[str]:
    """IPv4 addresses of this machine, the best first."""
    with contextlib.suppress(OSError):
        for *_, (host, *_) in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM):
            yield host
    for outside in OUTSIDE:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.connect((outside, 9))
            yield udp.getsockname()[0]


def is_free(host: str, port: int) -> bool:
    """Whether this machine has this address, and nobody listens there."""
    with contextlib.suppress(OSError), socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        return True
    return False


def main() -> None:
    """Prints the address, or says why there is none."""
    host = next((host for host in addresses() if not host.startswith("127.") and is_free(host, 0)), None)
    if host is None:
        sys.exit(f"omatg-ray: {socket.gethostname()} has no IPv4 address by which other nodes could reach it")
    port = next((port for port in (PORT, *OTHERS) if is_free(host, port)), None)
    if port is None:
        sys.exit(f"omatg-ray: on {host} all of the ports {PORT} and {OTHERS[0]} to {OTHERS[-1]} are taken")
    print(f"{host}:{port}")


if __name__ == "__main__":
    main()

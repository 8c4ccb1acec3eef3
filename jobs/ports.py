"""The port of the ranks' store: one that nothing else on the machine is given before they use it."""

import random
import socket
from pathlib import Path

LOWEST = 20_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The ports that Linux gives out by itself, as to every connection that a program opens."""
TRIES = 100


def store_port() -> int:
    """A port that is free now, from below those that the system gives out by itself.

    torchrun lets the system choose and lets go of its choice; until the ranks have loaded their libraries, seconds
    later, any connection may be given the same, and the ranks end with "address already in use".
    """
    try:
        lowest_given = int(RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest_given = 0
    own = range(LOWEST, lowest_given)
    for port in random.SystemRandom().sample(own, min(TRIES, len(own))):
        if _free(port):
            return port
    with socket.create_server(("", 0)) as server:  # no such ports here: as torchrun does
        return server.getsockname()[1]


def _free(port: int) -> bool:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError:
        return False
    return True

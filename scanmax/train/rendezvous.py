"""Where the processes of a run meet, checked before the runtime, which aborts on what cannot be."""

import errno
import socket
import time

from scanmax.errors import UserError

# Signs of life are given every second; the upper bound is far below what the runtime counts.
LEAST_PATIENCE, MOST_PATIENCE = 3.0, 1e6


def check_patience(seconds: float) -> None:
    """Raises UserError for a --lost_after that cannot be."""
    # NaN fails every comparison.
    if not LEAST_PATIENCE <= seconds <= MOST_PATIENCE:
        raise UserError(
            f"--lost_after={seconds:g} must be between {LEAST_PATIENCE:g} and {MOST_PATIENCE:g} "
            "seconds"
        )


def parse_address(coordinator: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, [IPv6]:PORT too.

    Raises:
      UserError: anything else.
    """
    host, _, port = coordinator.rpartition(":")
    plain = host.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
    if not plain or not is_port or (":" in plain and host == plain) or any(map(str.isspace, host)):
        raise UserError(
            f"--coordinator={coordinator}: write HOST:PORT, such as 10.0.0.1:1234, with a port "
            "from 1 to 65535"
        )
    return plain, int(port)


def resolve(host: str, patience: float = 30.0) -> None:
    """Waits until the host has an address; in a cluster that is being set up it may come late.

    Raises:
      UserError: it has none after so many seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() >= deadline:
                raise UserError(f"--coordinator: no address of host {host!r} ({error})") from error
        time.sleep(min(1.0, patience))


def reserve(port: int) -> None:
    """Refuses a port of this machine that cannot be listened on.

    Raises:
      UserError: another program, or another process 0, listens there.
    """
    for family, place in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # Connections that have ended do not count, those who listen do.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((place, port))
        except OSError as error:
            # Any other is of a machine without this family of addresses.
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise UserError(
                    f"--coordinator: port {port} of this machine cannot be used "
                    f"({error.strerror}); is another process 0 running? Take another port"
                ) from error

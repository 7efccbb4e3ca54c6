"""Whether there is a network: asked first, as packages that download retry for minutes."""

import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable

from scanmax.errors import UserError


def check_network(urls: Iterable[str]) -> None:
    """Raises UserError at once where the name of none of the hosts can be looked up."""
    hosts = sorted({urllib.parse.urlsplit(url).hostname or "" for url in urls} - {""})
    # Who stands between may reach what this machine cannot name.
    if not hosts or urllib.request.getproxies():
        return
    for host in hosts:
        try:
            socket.getaddrinfo(host, 443)
            return
        except OSError as error:
            reason = error
    raise UserError(f"offline: {', '.join(hosts[:3])} cannot be reached ({reason})")

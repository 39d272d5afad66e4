"""Downloading images from hosts that were allowed by name: no other host, no private address, nothing large."""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from visionward.serve.api_error import InvalidRequestError

MAX_IMAGE_BYTES = 20 * 2**20
TIMEOUT_S = 20.0
_BLOCK_BYTES = 64 * 1024

# Host and port to addresses.
Resolver = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an address is one that the whole internet reaches: not this machine, nor a network of its own."""
    return ipaddress.ip_address(address).is_global


@dataclass(frozen=True)
class ImageDownloader:
    """Downloads images by HTTPS. Redirects are not followed.

    Attributes:
        hosts: the only hosts to ask, by name.
        resolver: finds their addresses.
        may_connect: whether an address may be connected to.
        context: checks certificates.
        port: to connect to; a URL cannot name another.
        timeout_s: seconds that one download may take.
    """

    hosts: tuple[str, ...] = ()
    resolver: Resolver = resolve
    may_connect: Callable[[str], bool] = is_public
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    port: int = 443
    timeout_s: float = TIMEOUT_S

    def download(self, url: str, param: str) -> bytes:
        """The bytes at a URL.

        Args:
            url: of the image.
            param: where it was in the request, for errors.

        Raises:
            InvalidRequestError: its host is not allowed, or it cannot be downloaded.
        """
        host, target = self._parts(url, param)
        try:
            return self._get(host, target, param)
        except (OSError, http.client.HTTPException) as cause:
            raise _failed(host, "the download failed", param) from cause

    def _parts(self, url: str, param: str) -> tuple[str, str]:
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError as cause:
            raise InvalidRequestError("the URL of an image is malformed.", param, "invalid_image_url") from cause
        if not self.hosts:
            raise InvalidRequestError(
                "an image has a network URL, and this server downloads nothing: send a data URL, or start it with "
                "--allow-image-host.",
                param,
                "image_host_not_allowed",
            )
        if host not in self.hosts:
            raise InvalidRequestError(
                "an image has a URL whose host is not one that this server downloads from.",
                param,
                "image_host_not_allowed",
            )
        if parts.scheme.lower() != "https" or port not in (None, 443) or parts.username is not None:
            raise InvalidRequestError(
                "the URL of an image must begin with https://, with no user name and no port in it.",
                param,
                "invalid_image_url",
            )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or not target.isprintable() or " " in target:
            raise InvalidRequestError("the URL of an image is malformed.", param, "invalid_image_url")
        return host, target

    def _get(self, host: str, target: str, param: str) -> bytes:
        deadline = time.monotonic() + self.timeout_s
        connection = self._connect(host, param)
        try:
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "visionward"})
            response = connection.getresponse()
            if response.status != 200:
                # A redirect is refused too: it could lead anywhere.
                raise _failed(host, f"the status is {response.status}", param)
            body = bytearray()
            # read() would wait for a whole block, and a server that sends byte after byte could take for ever.
            while block := response.read1(_BLOCK_BYTES):
                body += block
                if len(body) > MAX_IMAGE_BYTES:
                    raise _failed(host, f"it is larger than {MAX_IMAGE_BYTES:,} bytes", param)
                if time.monotonic() > deadline:
                    raise _failed(host, f"it took longer than {self.timeout_s:.0f} s", param)
            return bytes(body)
        finally:
            connection.close()

    def _connect(self, host: str, param: str) -> http.client.HTTPSConnection:
        """Connect to the address that was checked: a second look-up could give another."""
        addresses = self.resolver(host, self.port)
        if not addresses or not all(self.may_connect(address) for address in addresses):
            raise _failed(host, "the host has a private address", param)
        connection = http.client.HTTPSConnection(host, self.port, timeout=self.timeout_s, context=self.context)
        plain = socket.create_connection((addresses[0], self.port), timeout=self.timeout_s)
        try:
            connection.sock = self.context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        return connection


def _failed(host: str, why: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(f"an image from {host} cannot be used: {why}.", param, "invalid_image_url")

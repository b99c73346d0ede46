"""Images fetched from public http(s) addresses, and from no others."""

import asyncio
import contextlib
import ipaddress
import socket
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import httpcore

from hf_deepfake.serving.uploads import MAX_BYTES, UploadError

_SECONDS = 10.0
"""For one image with all redirects."""

_REDIRECTS = 3
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses behind which a gateway may find private IPv4 ones (RFC 6052)."""


async def fetch(address: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a public address.

    Each connection, of redirects too, is made to an address that was checked, not to a name that could be resolved
    once more to another one. Proxies of the environment are not used.

    Raises:
        UploadError: If it is not http(s), not public or too large, or does not give it within 10 seconds.
    """
    try:
        with anyio.fail_after(_SECONDS):
            async with httpcore.AsyncConnectionPool(network_backend=_PublicOnly()) as pool:
                for _ in range(_REDIRECTS + 1):
                    found = await _get(pool, address, max_bytes)
                    if isinstance(found, bytes):
                        return found
                    address = urljoin(address, found)
    except TimeoutError as error:
        raise UploadError(422, f"the address did not answer within {_SECONDS:.0f} seconds.") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
        raise UploadError(422, "the address cannot be reached.") from error
    raise UploadError(422, f"the address redirects more than {_REDIRECTS} times.")


async def _get(pool: httpcore.AsyncConnectionPool, address: str, max_bytes: int) -> bytes | str:
    """The content, or where it is to be found instead."""
    parts = _checked(address)
    headers = [("Host", parts), ("User-Agent", "hf-deepfake"), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
    async with pool.stream("GET", address, headers=headers) as response:
        answered = {name.lower(): value for name, value in response.headers}
        if response.status in (301, 302, 303, 307, 308) and b"location" in answered:
            return answered[b"location"].decode("latin-1")
        if response.status != 200:
            raise UploadError(422, f"the address answered with status {response.status}.")
        content = bytearray()
        async for chunk in response.aiter_stream():
            content += chunk
            if len(content) > max_bytes:
                raise UploadError(413, f"the address gives more than {max_bytes:,} bytes.")
        return bytes(content)


def _checked(address: str) -> str:
    """The host of an address, as it is to be named in a request."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        valid = parts.scheme in ("http", "https") and bool(host) and address.isascii() and address.isprintable()
        host = f"[{host}]" if ":" in host else host
        if valid and " " not in address:
            return host if parts.port is None else f"{host}:{parts.port}"
    except ValueError:
        pass
    raise UploadError(422, "no http:// or https:// address.")


class _PublicOnly(httpcore.AnyIOBackend):
    """Connects to hosts all of whose addresses are public."""

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        """As of the base class, once every address of the host was checked."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        numbers = [str(entry[4][0]) for entry in found]
        if not numbers or not all(map(is_public, numbers)):
            raise UploadError(422, "the address is not public.")
        for number in numbers[:-1]:
            with contextlib.suppress(httpcore.ConnectError):
                return await super().connect_tcp(number, port, *args, **kwargs)
        return await super().connect_tcp(numbers[-1], port, *args, **kwargs)


def is_public(number: str) -> bool:
    """Whether an IP address is one of the public internet.

    Example:
        >>> [is_public(number) for number in ("8.8.8.8", "169.254.169.254", "::ffff:10.0.0.1", "2002:7f00:1::")]
        [True, False, False, False]
    """
    try:
        address = ipaddress.ip_address(number)
    except ValueError:  # with the zone of an interface
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour or address.teredo or address in _TRANSLATED:
            return False
        address = address.ipv4_mapped or address
    return address.is_global and not address.is_multicast

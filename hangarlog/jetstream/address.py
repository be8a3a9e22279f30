"""Addresses of stores on NATS: `nats://host:port,host:port/name?replicas=1`."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from hangarlog.errors import StoreOpenError

SCHEMES = ("nats", "tls")
_DEFAULT_PORT = 4222
_name = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_flags = {"yes": True, "no": False}


class Address(msgspec.Struct, frozen=True):
    """The servers of a store, its name, who asks, and the options that the address has.

    `shown` is the address without credentials: only this may be printed.
    """

    servers: list[str]
    name: str
    shown: str
    credentials: dict[str, str]
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Address {self.shown}>"


def is_address(address: object) -> bool:
    """True if text is the address of a store on NATS, and no path."""
    return isinstance(address, str) and address.partition("://")[0] in SCHEMES and "://" in address


def parse(url: str, name: str | None = None) -> Address:
    """Return the parts of an address. `name` is given if the address has none.

    Raises `StoreOpenError`, whose text never has the credentials.
    """
    scheme, _, rest = url.partition("://")
    place, question, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    users, at, hosts = authority.rpartition("@")
    credentials = dict[str, str]()
    shown = f"{scheme}://{hosts}"
    if scheme not in SCHEMES:
        raise StoreOpenError(shown, "the address of a store on NATS begins with nats:// or tls://")
    if "@" in path + query:
        cause = "in a user, a password or a token, write '/', '?' and '@' as %2F, %3F and %40"
        raise StoreOpenError(f"{scheme}://{rest.rpartition('@')[2]}", cause)
    servers = [_server(scheme, host, shown) for host in hosts.split(",")]
    if at:
        user, colon, password = users.rpartition("@")[2].partition(":")
        credentials = {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}
    if name is None:
        name = unquote(path)
    elif slash and path:
        raise StoreOpenError(shown, "give the name once: in the address, or as an argument")
    if not isinstance(name, str) or not _name(name):
        raise StoreOpenError(
            shown,
            f"a store's name has 1 to 64 letters, digits, '_' and '-', as in nats://host:4222/orders, not {name!r}",
        )
    shown = f"{shown}/{name}"
    return Address(servers, name, shown, credentials, _options(query, shown) if question else {})


def _server(scheme: str, host: str, shown: str) -> str:
    try:
        parts = urlsplit(f"{scheme}://{host}")
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        parts, port = urlsplit(""), 0
    if not parts.hostname or port < 1 or parts.path:
        raise StoreOpenError(shown, "a server is HOST or HOST:PORT; several have commas between them")
    hostname = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{hostname}:{port}"


def _options(query: str, shown: str) -> dict[str, Any]:
    """Return the options in an address: what is weaker than usual is there for all to see."""
    found: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        try:
            if key in ("replicas", "timeout"):
                found[key] = int(value)
            elif key in ("durability", "monitor", "reads"):
                found[key] = value.split(",") if key == "monitor" else value
            elif key in ("synced", "untested_server", "accept_loss", "create"):
                found[key] = _flags[value]
            else:
                raise StoreOpenError(shown, f"an address has no option {key!r}")
        except (ValueError, KeyError) as error:
            raise StoreOpenError(shown, f"{key} in the address is {value!r}; flags are yes or no") from error
    return found

"""A store for OpenTelemetry: `observe(path)`, its vital signs; `instrument(store)`, spans and metrics of its calls.

Install `hangarlog[opentelemetry]`. The instruments of vital signs are observable: the SDK asks for them when it
exports, and the store is then read as `hangarlog metrics` reads it, without a lock or a write. The program that
observes a store need not be one that uses it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.integrations.opentelemetry needs opentelemetry-api, which is not installed; "
        "run: pip install 'hangarlog[opentelemetry]'",
        name="opentelemetry",
    ) from error

from hangarlog.errors import HangarlogError
from hangarlog.integrations.opentelemetry_calls import Instrumented, instrument
from hangarlog.watching.durations import SyncTimes
from hangarlog.watching.prometheus import most_behind
from hangarlog.watching.vitals import Vitals, read_vitals

__all__ = ["STORE", "SUBSCRIBER", "Instrumented", "Observed", "instrument", "observe"]

SUBSCRIBER, STORE = "hangarlog.subscriber", "hangarlog.store"
"""The attributes of series: the name of a subscriber, and the path of the store."""

_FRESH_SECONDS = 0.5
"""Vital signs serve all instruments of an export, which the SDK asks one after the other."""
_QUANTILES = (0.5, 0.99)

Values = Iterator[tuple[float | None, dict[str, str]]]
"""Values with their attributes. None stands for what is unknown, and is left out."""


class Observed:
    """A store that is observed until `close`.

    `vitals` are those of the last export, None if the store could not be read. With `files`, all files are listed at
    each export.
    """

    def __init__(self, path: str, files: bool, forget: Callable[[Observed], None]) -> None:
        self.path, self._files, self._forget = path, files, forget
        self.vitals: Vitals | None = None
        self._read_at = float("-inf")
        self._syncs: SyncTimes | None = None
        self.recent_syncs: SyncTimes | None = None
        """The syncs between the last two exports."""

    def refresh(self) -> None:
        """Read the vital signs, unless that was done a moment ago."""
        if monotonic() - self._read_at < _FRESH_SECONDS:
            return
        try:
            self.vitals = read_vitals(self.path, files=self._files)
        except (HangarlogError, OSError):
            self.vitals = None  # It may come back.
        syncs = self.vitals.state.syncs if self.vitals else None
        self.recent_syncs = syncs.since(self._syncs) if syncs and self._syncs else syncs
        self._syncs, self._read_at = syncs, monotonic()

    def close(self) -> None:
        """Stop observing the store; closing twice is fine."""
        self._forget(self)


def observe(
    path: str | os.PathLike[str], *, meter_provider: MeterProvider | None = None, files: bool = False
) -> Observed:
    """Export the vital signs of the store at `path`, from now until `close`.

    `meter_provider` is the global one by default. With `files`, the sizes of all files are exported, too: this takes a
    second for 100,000 streams. A store that cannot be read has only the series `hangarlog.problems`.
    """
    provider = meter_provider or get_meter_provider()
    with _lock:
        if provider not in _instruments:
            _instruments[provider] = _Instruments(provider.get_meter("hangarlog"))
        return _instruments[provider].add(os.path.abspath(path), files)


class _Instruments:
    """The instruments of one provider, which serve all stores that are observed through it."""

    def __init__(self, meter: Meter) -> None:
        self._stores: list[Observed] = []
        self._lock = threading.Lock()
        kinds = {
            "counter": meter.create_observable_counter,
            "level": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for name, kind, unit, text, values in _METRICS:
            kinds[kind](name, callbacks=[self._callback(values)], unit=unit, description=text)

    def add(self, path: str, files: bool) -> Observed:
        """Begin to observe a store."""
        store = Observed(path, files, self._remove)
        with self._lock:
            self._stores.append(store)
        return store

    def _remove(self, store: Observed) -> None:
        with self._lock:
            if store in self._stores:
                self._stores.remove(store)

    def _callback(self, values: Callable[[Observed], Values]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observations(options: CallbackOptions) -> Iterator[Observation]:
            with self._lock:  # One reader at a time: several exporters may ask at once.
                for store in self._stores:
                    store.refresh()
                    for value, attributes in values(store):
                        if value is not None:
                            yield Observation(value, {STORE: _shown(store.path), **attributes})

        return lambda options: list(observations(options))


def _shown(text: str) -> str:
    r"""Return a text that can be exported: in a path that is not UTF-8, `\udcff` stands for the byte 0xFF."""
    return text.encode("utf-8", "backslashreplace").decode()


_instruments: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


# The metrics


def _sign(read: Callable[[Vitals], float | None]) -> Callable[[Observed], Values]:
    def values(store: Observed) -> Values:
        value = read(store.vitals) if store.vitals else None
        yield None if value is None else +value, {}  # A flag becomes a number.

    return values


def _syncs(read: Callable[[SyncTimes], float]) -> Callable[[Observed], Values]:
    return _sign(lambda vitals: read(vitals.state.syncs) if vitals.state.syncs else None)


def _durations(store: Observed) -> Values:
    for fraction in _QUANTILES:
        recent = store.recent_syncs
        yield recent.quantile(fraction) if recent else None, {"quantile": f"{fraction:g}"}


def _problems(store: Observed) -> Values:
    yield len(store.vitals.problems) if store.vitals else 1, {}


def _parts(name: str) -> Callable[[Observed], Values]:
    def values(store: Observed) -> Values:
        files = store.vitals.files if store.vitals else None
        for part, size in files.parts.items() if files else ():
            yield getattr(size, name), {"part": part}

    return values


def _subscribers(name: str) -> Callable[[Observed], Values]:
    def values(store: Observed) -> Values:
        for signs in most_behind(store.vitals.subscribers) if store.vitals else ():
            value = getattr(signs, name)
            yield None if value is None else +value, {SUBSCRIBER: signs.name}

    return values


def _age(vitals: Vitals) -> float | None:
    return None if vitals.last_at is None else max(0.0, vitals.at - vitals.last_at)


_METRICS = (
    ("hangarlog.open", "gauge", "1", "1 if a process has the store open for writing", _sign(lambda v: v.state.is_open)),
    ("hangarlog.events", "counter", "{event}", "Events committed", _sign(lambda v: v.committed)),
    ("hangarlog.unsynced", "gauge", "{event}", "Events that no sync has covered", _sign(lambda v: v.unsynced)),
    ("hangarlog.last_event.age", "gauge", "s", "Time since the last event was recorded", _sign(_age)),
    ("hangarlog.journal.events", "level", "{event}", "Events that the journal has", _sign(lambda v: v.events)),
    (
        *("hangarlog.journal.size", "level", "By", "Size of the journal's segments"),
        _sign(lambda v: v.journal.bytes if v.journal else None),
    ),
    (
        *("hangarlog.journal.written", "counter", "By", "Bytes written to the journal since the machine started"),
        _sign(lambda v: v.state.written_bytes),
    ),
    ("hangarlog.sync.count", "counter", "{sync}", "Syncs since the machine started", _syncs(lambda s: s.count)),
    ("hangarlog.sync.time", "counter", "s", "Time that these syncs took", _syncs(lambda s: s.seconds)),
    ("hangarlog.sync.duration", "gauge", "s", "How long syncs took since the last export", _durations),
    (
        *("hangarlog.sync.failures", "counter", "{sync}", "Syncs that failed since the machine started"),
        _sign(lambda v: v.state.failed_syncs),
    ),
    ("hangarlog.file.size", "level", "By", "Size of the files of a part of the store", _parts("bytes")),
    ("hangarlog.file.count", "level", "{file}", "Files of a part of the store", _parts("files")),
    (
        *("hangarlog.streams", "level", "{stream}", "Streams that have a file"),
        _sign(lambda v: v.files.streams if v.files else None),
    ),
    (
        *("hangarlog.disk.free", "gauge", "By", "What may still be written to the file system"),
        _sign(lambda v: v.space.free if v.space else None),
    ),
    ("hangarlog.subscriber.lag", "gauge", "{event}", "Events after a subscriber's position", _subscribers("lag")),
    (
        *("hangarlog.subscriber.lag.time", "gauge", "s", "Age of the first event after a subscriber's position"),
        _subscribers("lag_seconds"),
    ),
    (
        *("hangarlog.subscriber.owned", "gauge", "1", "1 if a process works for a subscriber"),
        _subscribers("is_owned"),
    ),
    ("hangarlog.problems", "gauge", "{problem}", "What could not be read", _problems),
)

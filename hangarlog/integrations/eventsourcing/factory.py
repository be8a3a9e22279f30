"""The factory that eventsourcing finds by `PERSISTENCE_MODULE`."""

from __future__ import annotations

import os
import re
from typing import Any, TypeVar
from urllib.parse import quote

from eventsourcing.dcb.api import DCBRecorder
from eventsourcing.dcb.persistence import DCBInfrastructureFactory
from eventsourcing.persistence import AggregateRecorder, ApplicationRecorder, InfrastructureFactory, ProcessRecorder
from eventsourcing.utils import Environment, EnvType, resolve_topic

from hangarlog.integrations.eventsourcing.dcb import HangarlogDCBRecorder
from hangarlog.integrations.eventsourcing.payload import errors
from hangarlog.integrations.eventsourcing.recorder import HangarlogRecorder, Store, opened
from hangarlog.integrations.eventsourcing.recorders import (
    HangarlogAggregateRecorder,
    HangarlogApplicationRecorder,
    HangarlogProcessRecorder,
    HangarlogTrackingRecorder,
)
from hangarlog.opening import is_on_servers

_Recorder = TypeVar("_Recorder", bound=HangarlogRecorder)


class HangarlogFactory(
    InfrastructureFactory[HangarlogTrackingRecorder], DCBInfrastructureFactory[HangarlogTrackingRecorder]
):
    """Opens stores below the folder `HANGARLOG_PATH`: `NAME/events`, `NAME/snapshots` and so on, by application.

    It may be an address, such as `nats://host:4222/orders`: the stores there are `orders-NAME-events` and so on.
    `HANGARLOG_DURABILITY` is that of `FileEventStore`: "always" (the default), "relaxed", or seconds; there are no
    seconds on NATS.
    """

    HANGARLOG_PATH = "HANGARLOG_PATH"
    HANGARLOG_DURABILITY = "HANGARLOG_DURABILITY"
    ORIGINATOR_ID_TYPE = "ORIGINATOR_ID_TYPE"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        path = self.env.get(self.HANGARLOG_PATH)
        if not path:
            keys = ", ".join(self.env.create_keys(self.HANGARLOG_PATH))
            raise OSError(f"hangarlog's folder not found in environment with keys: {keys}")
        self._path = path
        durability = self.env.get(self.HANGARLOG_DURABILITY)
        self._options = {"durability": self._durability_of(durability)} if durability else {}
        id_type = (self.env.get(self.ORIGINATOR_ID_TYPE) or "uuid").lower()
        if id_type not in ("uuid", "text"):
            raise OSError(f"Invalid {self.ORIGINATOR_ID_TYPE} '{id_type}', must be 'uuid' or 'text'")
        self._text_ids = id_type == "text"
        self._stores: dict[str, Store] = {}

    def _durability_of(self, text: str) -> Any:
        if text in ("always", "relaxed"):
            return text
        if is_on_servers(self._path):
            raise OSError(f"Invalid {self.HANGARLOG_DURABILITY} '{text}', must be 'always' or 'relaxed' on servers")
        try:
            return float(text)
        except ValueError:
            raise OSError(
                f"Invalid {self.HANGARLOG_DURABILITY} '{text}', must be 'always', 'relaxed' or seconds"
            ) from None

    def _recorder(self, kind: type[_Recorder], purpose: str) -> _Recorder:
        with errors:
            if purpose not in self._stores:
                self._stores[purpose] = opened(self._address(purpose), **self._options)
            return kind(self._stores[purpose], text_ids=self._text_ids)

    def _address(self, purpose: str) -> str:
        if not is_on_servers(self._path):
            return os.path.join(self._path, _folder_name(self.env.name), _folder_name(purpose))
        place, question, options = self._path.partition("?")
        scheme, _, rest = place.partition("://")
        servers, _, name = rest.partition("/")
        names = [*filter(None, [name]), _store_name(self.env.name), _store_name(purpose)]
        return f"{scheme}://{servers}/{'-'.join(names)}{question}{options}"

    def _class(self, key: str, usual: type[_Recorder]) -> type[_Recorder]:
        topic = self.env.get(key)
        found: type[_Recorder] = resolve_topic(topic) if topic else usual
        if not issubclass(found, usual):
            raise TypeError(f"{key} must be a subclass of {usual.__name__}, not {found!r}")
        return found

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """Return a recorder of events, or of what `purpose` names, such as snapshots."""
        return self._recorder(HangarlogAggregateRecorder, purpose)

    def application_recorder(self) -> ApplicationRecorder:
        """Return a recorder of an application's events."""
        kind = self._class(self.APPLICATION_RECORDER_TOPIC, HangarlogApplicationRecorder)
        return self._recorder(kind, "events")

    def tracking_recorder(
        self, tracking_recorder_class: type[HangarlogTrackingRecorder] | None = None
    ) -> HangarlogTrackingRecorder:
        """Return a recorder of what was processed, and of a view with it if its class has one."""
        usual = HangarlogTrackingRecorder
        return self._recorder(tracking_recorder_class or self._class(self.TRACKING_RECORDER_TOPIC, usual), "tracking")

    def process_recorder(self) -> ProcessRecorder:
        """Return a recorder of events and of what was processed."""
        return self._recorder(self._class(self.PROCESS_RECORDER_TOPIC, HangarlogProcessRecorder), "events")

    def dcb_recorder(self) -> DCBRecorder:
        """Return a recorder for dynamic consistency boundaries."""
        return self._recorder(HangarlogDCBRecorder, "dcb")

    def close(self) -> None:
        """Close the stores."""
        for store in self._stores.values():
            store.close()
        super().close()


def _folder_name(name: str) -> str:
    """Return a name as that of a folder: no path, and in lower case, so that case-insensitive systems agree."""
    return quote(name.lower(), safe="").replace(".", "%2E") or "application"


def _store_name(name: str) -> str:
    """Return a name as a part of that of a store on servers: letters, digits and `_`, so that no two are alike."""
    return re.sub(r"[^a-z0-9]", lambda found: "".join(f"_{byte:02x}" for byte in found[0].encode()), name.lower())

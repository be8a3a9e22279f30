"""eventsourcing's recorders on hangarlog: `PERSISTENCE_MODULE=hangarlog.integrations.eventsourcing`.

An aggregate is a stream, `aggregate:ID`. A stored event is a record whose payload has the originator's version and the
state: as JSON if it is JSON, else in base64. A notification's id is the record's position.
"""

from hangarlog.integrations.eventsourcing.dcb import HangarlogDCBRecorder, HangarlogDCBSubscription
from hangarlog.integrations.eventsourcing.factory import HangarlogFactory
from hangarlog.integrations.eventsourcing.recorder import HangarlogRecorder
from hangarlog.integrations.eventsourcing.recorders import (
    HangarlogAggregateRecorder,
    HangarlogApplicationRecorder,
    HangarlogProcessRecorder,
    HangarlogSubscription,
    HangarlogTrackingRecorder,
)

__all__ = [
    "HangarlogAggregateRecorder",
    "HangarlogApplicationRecorder",
    "HangarlogDCBRecorder",
    "HangarlogDCBSubscription",
    "HangarlogFactory",
    "HangarlogProcessRecorder",
    "HangarlogRecorder",
    "HangarlogSubscription",
    "HangarlogTrackingRecorder",
]

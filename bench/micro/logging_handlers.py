"""The handler beside the standard library's own, an import beside a loop: `python -m bench.micro.logging_handlers`.

It prints microseconds of one core: on a busy machine the time on the clock says little.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from time import process_time

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.integrations.logging import HangarlogHandler
from hangarlog.integrations.transcripts import Transcripts, import_transcripts

ROUNDS, RECORDS = 5, 4000


def _file(folder: Path) -> logging.Handler:
    handler = logging.FileHandler(folder / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    return handler


HANDLERS: dict[str, Callable[[Path], logging.Handler]] = {
    "logging.FileHandler": _file,
    "HangarlogHandler": lambda folder: HangarlogHandler(folder / "store"),
    "HangarlogHandler, linger=0.1": lambda folder: HangarlogHandler(folder / "store", linger=0.1),
}


def _logged(handler: logging.Handler, threads: int) -> float:
    """Return the microseconds of a record that so many threads log."""
    logger = logging.getLogger("bench")
    logger.propagate, logger.handlers = False, [handler]
    logger.setLevel(logging.INFO)

    def burst() -> None:
        for number in range(RECORDS // threads):
            logger.info("%s of %d left", "tea", number, extra={"order": number})

    running = [threading.Thread(target=burst) for _ in range(threads)]
    began = process_time()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    handler.close()
    return (process_time() - began) / RECORDS * 1e6


def _lines(folder: Path) -> Path:
    path = folder / "app.jsonl"
    with path.open("w") as file:
        for number in range(RECORDS):
            file.write(json.dumps({"type": "Noted", "number": number, "text": "x" * 400}) + "\n")
    return path


def _imported(folder: Path) -> float:
    path = _lines(folder)
    with FileEventStore.untyped(folder / "store", durability="relaxed") as store:
        began = process_time()
        import_transcripts(store, [str(path)], "jsonl", Transcripts())
        return (process_time() - began) / RECORDS * 1e6


def _looped(folder: Path) -> float:
    path = _lines(folder)
    with FileEventStore.untyped(folder / "store", durability="relaxed") as store:
        began = process_time()
        for number, line in enumerate(path.read_bytes().splitlines()):
            data = json.loads(line)
            event = UntypedEvent(data["type"], data, event_id=f"{path}:{number}")
            store.append("app:main", [event], ANY, idempotent=True)
        return (process_time() - began) / RECORDS * 1e6


def _median(measure: Callable[[Path], float]) -> float:
    found = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="hangarlog-bench-") as folder:
            found.append(measure(Path(folder)))
    return statistics.median(found)


if __name__ == "__main__":
    print("| a record | µs of one core, 1 thread | 8 threads |\n| --- | --- | --- |")
    for name, make in HANDLERS.items():
        one, eight = (
            _median(lambda folder, make=make, threads=threads: _logged(make(folder), threads))  # type: ignore[misc]
            for threads in (1, 8)
        )
        print(f"| {name} | {one:.0f} | {eight:.0f} |")
    print(f"| `hangarlog import --format jsonl` | {_median(_imported):.1f} | |")
    print(f"| a loop of json.loads and idempotent appends | {_median(_looped):.1f} | |")

"""Faults of three servers under writers and a follower: `python tests/jetstream/server_faults.py FAULT=COUNT…`.

It runs in a network namespace of its own, and needs root for that. Each server is in another one, with one line to the
clients and one to the other servers. Writers expect exact versions; what they were told must have one order, as row 8
of docs/reliability.md checks it. A read that most servers confirm must have all that was acknowledged before it. Other
reads may be old, because a server that is cut off goes on answering: it is counted how old.
"""

from __future__ import annotations

import bisect
import contextlib
import faulthandler
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/faults"), str(Path(__file__).parent)]

from campaigns.histories import APPENDED, BEGUN, NEVER, Operation, check, check_the_checker  # noqa: E402
from nats_servers import Cluster, Server, program  # noqa: E402

from hangarlog import AppendUnknownError, ConcurrencyError, EncodedEvent, UnavailableError  # noqa: E402
from hangarlog.jetstream import JetStreamEventStore  # noqa: E402
from hangarlog.jetstream.confirming import is_followed  # noqa: E402
from hangarlog.jetstream.settings import Reads  # noqa: E402

WRITERS, STREAMS = 4, 3
REFUSED = 9
"""The kind of an operation that is said not to be written."""
CLIENTS, ROUTES = "10.77.0", "10.78.0"
_LONG = 60.0
_CONFIG = """
server_name: n%(number)d
listen: "10.77.0.%(number)d:4222"
http: "10.77.0.%(number)d:8222"
jetstream { store_dir: "%(store)s", sync_interval: always }
cluster {
  name: faults, listen: "10.78.0.%(number)d:6222", no_advertise: true
  routes: ["nats://10.78.0.1:6222", "nats://10.78.0.2:6222", "nats://10.78.0.3:6222"]
}
"""


def ip(*arguments: object) -> None:
    subprocess.run(["ip", *map(str, arguments)], check=True)


class NamespacedServer(Server):
    """A server in a network namespace, with an interface on each of two bridges."""

    def __init__(self, folder: Path, number: int) -> None:
        self.name, self.folder, self.number = f"n{number}", folder / f"n{number}", number
        self.folder.mkdir()
        self.store, self.config = self.folder / "store", self.folder / "server.conf"
        self.store.mkdir()  # A disk of its own, which can be full.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "hangarlog", self.store], check=True)
        self.config.write_text(_CONFIG % {"number": number, "store": self.store})
        self.port, self.monitor = 4222, 8222
        self.process = None

    @property
    def host(self) -> str:
        return f"{CLIENTS}.{self.number}"

    def start(self) -> None:
        server = program()
        lines = ["read go", "ip link set lo up"]
        for interface, network in (("c0", CLIENTS), ("f0", ROUTES)):
            # The same hardware address each time: the others remember it.
            lines += [f"ip link set {interface} address 02:00:00:00:{interface}:{self.number:02}"]
            lines += [f"ip addr add {network}.{self.number}/24 dev {interface}", f"ip link set {interface} up"]
        lines.append(f"exec {server} -c {self.config} -l {self.folder}/log")
        self.process = subprocess.Popen(["unshare", "-n", "sh", "-ec", "\n".join(lines)], stdin=subprocess.PIPE)
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.process.pid}/ns/net") == own:
            time.sleep(0.005)
        for interface, bridge in (("c0", "clients"), ("f0", "routes")):
            mine = f"{interface}n{self.number}"
            subprocess.run(["ip", "link", "del", mine], check=False, capture_output=True)
            ip("link", "add", mine, "type", "veth", "peer", "name", interface, "netns", self.process.pid)
            ip("link", "set", mine, "master", bridge, "up")
        assert self.process.stdin
        self.process.stdin.write(b"go\n")
        self.process.stdin.close()

    def cut_off(self) -> None:
        """From the other servers, not from its clients."""
        ip("link", "set", f"f0n{self.number}", "down")

    def join(self) -> None:
        ip("link", "set", f"f0n{self.number}", "up")


class NamespacedCluster(Cluster):
    """Three of them."""

    def __init__(self, folder: Path) -> None:
        self.size, self.servers = 3, [NamespacedServer(folder, number) for number in (1, 2, 3)]
        ip("link", "set", "lo", "up")
        for bridge in ("clients", "routes"):
            ip("link", "add", bridge, "type", "bridge")
            ip("link", "set", bridge, "up")
        ip("addr", "add", f"{CLIENTS}.254/24", "dev", "clients")


class Board:
    """What was acknowledged, and when: the highest positions, in order."""

    def __init__(self) -> None:
        self.positions: list[int] = [0]
        self.times: list[float] = [time.monotonic()]
        self.lock = threading.Lock()

    def note(self, position: int) -> None:
        with self.lock:
            if position > self.positions[-1]:
                self.times.append(time.monotonic())
                self.positions.append(position)

    def since(self, position: int) -> float:
        """When the first event after a position was acknowledged."""
        return self.times[bisect.bisect_right(self.positions, position)]


class Looker(threading.Thread):
    """Looks again and again where the store ends."""

    def __init__(self, store: JetStreamEventStore[Any], board: Board) -> None:
        super().__init__(daemon=True)
        self.store, self.board, self.stopping = store, board, threading.Event()
        self.looks = self.old = self.refused = 0
        self.oldest = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self._look()
        except BaseException as error:
            self.failure = error

    def _look(self) -> None:
        acknowledged, now = self.board.positions[-1], time.monotonic()
        try:
            found = min(self.store.last_position, acknowledged)
        except UnavailableError:
            self.refused += 1
            return
        self.looks += 1
        if found < acknowledged:
            self.old += 1
            self.oldest = max(self.oldest, now - self.board.since(found))


class Watch(threading.Thread):
    """Watches whether most servers have one leader of the events, and one of the bucket.

    `since` is when they last got one.
    """

    def __init__(self, cluster: NamespacedCluster) -> None:
        super().__init__(daemon=True)
        self.cluster, self.since = cluster, 0.0
        names = ("orders", "KV_orders_state")
        self._groups = [cluster.api(f"STREAM.INFO.{name}")["cluster"]["raft_group"] for name in names]

    def run(self) -> None:
        had: set[tuple[str, int, str]] = set()
        while True:
            has = set().union(*map(self._led, self._groups))
            if has - had:
                self.since = time.monotonic()
            had = has
            time.sleep(0.05)

    def _led(self, group: str) -> set[tuple[str, int, str]]:
        """The group, the term and the name of its leader, if it has one."""
        nodes = list(filter(None, (self._node(server, group) for server in self.cluster.servers)))
        leaders = {(node["term"], node["id"]) for node in nodes if node["state"] == "LEADER"}
        sure = [each for each in leaders if sum((node["term"], node.get("leader")) == each for node in nodes) > 1]
        return {(group, *each) for each in sure}

    def _node(self, server: Server, group: str) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
            asking = http.client.HTTPConnection(server.host, server.monitor, timeout=0.5)
            with contextlib.closing(asking):
                asking.request("GET", f"/raftz?acc=$G&group={group}")
                found: dict[str, Any] = json.load(asking.getresponse())["$G"][group]
                return found
        return None


class Writer(threading.Thread):
    """Appends with exact versions, and keeps what it was told."""

    def __init__(self, number: int, store: JetStreamEventStore[Any], board: Board) -> None:
        super().__init__(daemon=True)
        self.number, self.store, self.board = number, store, board
        self.history: list[Operation] = []
        self.acknowledged_at = 0.0
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self.said = ""

    def __str__(self) -> str:
        connection, now = self.store._connection, time.monotonic()
        url, failing = connection.nc.connected_url, connection._failing_since
        at = url.netloc if url else "no server"
        return f"{now - self.acknowledged_at:.1f} s, {at}, {failing}, {connection._last_error}, {self.said}"

    def run(self) -> None:
        try:
            rng, known = random.Random(self.number), [-1] * (STREAMS + WRITERS)
            while not self.stopping.is_set():
                self._append(rng, known)
        except BaseException as error:
            self.failure = error

    def _append(self, rng: random.Random, known: list[int]) -> None:
        number, count = len(self.history), rng.choice((1, 1, 1, 3))
        stream = STREAMS + self.number if number % 2 else rng.randrange(STREAMS)  # Its own, or one that all write to.
        name, expected, told, kind = f"s:{stream}", known[stream], -1, APPENDED
        events = [EncodedEvent("Moved", b"{}", event_id=f"{self.number}-{number}-{part}") for part in range(count)]
        start, end = time.perf_counter_ns(), NEVER
        try:
            result = self.store.append(name, events, expected)
            end, told = time.perf_counter_ns(), int(result)
            self.board.note(result.last_position)
            self.acknowledged_at = time.monotonic()
        except ConcurrencyError as conflict:
            told, kind = conflict.actual, REFUSED
        except AppendUnknownError as error:
            kind, self.said = BEGUN, str(error)
        except UnavailableError as error:
            kind, self.said = REFUSED, str(error)
        if kind == APPENDED or (isinstance(told, int) and told >= 0):
            known[stream] = told
        refused = kind == REFUSED
        told_there = -1 if kind != APPENDED else told
        line = Operation(kind, 0 if refused else start, end, stream, expected, count, told_there)
        self.history.append(line)


class Faults:
    """The faults, each with the servers whole before and after it."""

    def __init__(self, cluster: NamespacedCluster, seed: int) -> None:
        self.cluster, self.rng = cluster, random.Random(seed)

    def leader(self) -> NamespacedServer:
        for _ in range(300):
            try:
                found = self.cluster.api("STREAM.INFO.orders")["cluster"]
            except (KeyError, OSError, TimeoutError):
                found = {}
            if found.get("leader") and is_followed(found):  # Else it may be one that was cut off.
                return next(server for server in self.cluster.servers if server.name == found["leader"])
            time.sleep(0.1)
        raise AssertionError("there is no leader")

    def kill_leader(self) -> Callable[[], None]:
        self.leader().kill()
        return self.cluster.start

    def kill_all(self) -> Callable[[], None]:
        for server in self.cluster.servers:
            server.kill()
        self.cluster.start()
        return lambda: None

    def stop_leader(self) -> Callable[[], None]:
        leader = self.leader()
        leader.signal(signal.SIGSTOP)
        return lambda: (leader.signal(signal.SIGCONT), self.cluster.await_ready())[1]

    def cut_off_leader(self) -> Callable[[], None]:
        leader = self.leader()
        leader.cut_off()
        return lambda: (leader.join(), self.cluster.await_ready())[1]

    def cut_off_one(self) -> Callable[[], None]:
        server = self.rng.choice(self.cluster.servers)
        assert isinstance(server, NamespacedServer)
        server.cut_off()
        return lambda: (server.join(), self.cluster.await_ready())[1]

    def wipe_one(self) -> Callable[[], None]:
        server = self.rng.choice(self.cluster.servers)
        server.kill()
        for path in server.store.iterdir():
            shutil.rmtree(path)
        return self.cluster.start

    def fill_a_disk(self) -> Callable[[], None]:
        """A server whose disk was full begins anew when there is room."""
        server = self.rng.choice(self.cluster.servers)
        ballast = server.store / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

        def empty() -> None:
            ballast.unlink()
            server.kill()
            self.cluster.start()

        return empty

    def flip_bytes(self) -> Callable[[], None]:
        """In the events' files of one server while it is down."""
        server = self.rng.choice(self.cluster.servers)
        server.kill()
        for block in server.store.rglob("orders/msgs/*.blk"):
            text = bytearray(block.read_bytes())
            for _ in range(5):
                text[self.rng.randrange(len(text))] ^= 1 << self.rng.randrange(8)
            block.write_bytes(text)
        return self.cluster.start


def back_after(writers: list[Writer], begun: float) -> float:
    """Wait until every writer was acknowledged something after a fault; return the seconds since it began."""
    now = time.monotonic()
    until = now + _LONG
    for writer in writers:
        while writer.acknowledged_at <= now:
            assert writer.failure is None, writer.failure
            if time.monotonic() > until:
                raise AssertionError(f"writer {writer.number} is not back: {list(map(str, writers))}")
            time.sleep(0.01)
    return max(writer.acknowledged_at for writer in writers) - begun


def opened(cluster: NamespacedCluster, number: int, reads: Reads = "leader") -> JetStreamEventStore[Any]:
    """A store whose first server is another one for each number."""
    servers = [server.address for server in cluster.servers]
    first = number % 3
    address = f"nats://{','.join(servers[first:] + servers[:first])}/orders"
    monitor = [f"http://{server.host}:8222" for server in cluster.servers]
    return JetStreamEventStore.untyped(address, monitor=monitor, timeout=20, reads=reads)


def follow(following: Any, followed: list[str]) -> None:
    """Follow until it is stopped, also after the servers were away for longer than a call waits."""
    while not following.stopped:
        with contextlib.suppress(UnavailableError):
            followed.extend(record.event_id for record in following)


def run(folder: Path, counts: dict[str, int], seed: int) -> dict[str, Any]:
    check_the_checker()
    cluster = NamespacedCluster(folder)
    try:
        cluster.start()
        return run_on(cluster, counts, seed)
    finally:
        cluster.stop()
        for server in cluster.servers:
            subprocess.run(["umount", server.store], check=True)


def run_on(cluster: NamespacedCluster, counts: dict[str, int], seed: int) -> dict[str, Any]:
    stores = [opened(cluster, number) for number in range(WRITERS + 1)]
    board = Board()
    writers = [Writer(number, store, board) for number, store in enumerate(stores[1:])]
    lookers: dict[Reads, list[Looker]] = {"leader": [], "linearizable": []}
    for reads, looking in lookers.items():
        looking += [Looker(opened(cluster, number, reads), board) for number in range(3)]
    followed: list[str] = []
    following = stores[0].subscribe(timeout=_LONG)
    follower, watch = threading.Thread(target=follow, args=(following, followed), daemon=True), Watch(cluster)
    for thread in (*writers, follower, watch, *lookers["leader"], *lookers["linearizable"]):
        thread.start()
    faults, figures = Faults(cluster, seed), dict[str, Any]()
    plan = [name for name, count in counts.items() for _ in range(count)]
    faults.rng.shuffle(plan)
    back_after(writers, time.monotonic())
    for number, name in enumerate(plan, 1):
        begun = time.monotonic()
        print(f"{number}/{len(plan)} {name}: ", end="", flush=True)
        end = getattr(faults, name)()
        seconds = back_after(writers, begun)
        led = max(0.0, watch.since - begun)
        figures.setdefault(name, []).append((round(seconds, 1), round(led, 1)))
        print(f"all writers back after {seconds:.1f} s, a leader after {led:.1f} s", flush=True)
        end()
        back_after(writers, time.monotonic())
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(_LONG)
        assert not writer.is_alive()
        assert writer.failure is None, writer.failure
    for reads, looking in lookers.items():
        count_looks(reads, looking, figures)
    check_all(stores[0], writers, following, follower, followed, figures)
    for store in stores:
        store.close()
    return figures


def count_looks(reads: Reads, lookers: list[Looker], figures: dict[str, Any]) -> None:
    """End them, and say how old what they saw was. What most servers confirm must not be old."""
    for looker in lookers:
        looker.stopping.set()
    for looker in lookers:
        looker.join(_LONG)
        assert not looker.is_alive()
        assert looker.failure is None, looker.failure
        looker.store.close()
    figures[f"{reads} reads"] = sum(looker.looks for looker in lookers)
    figures[f"{reads} reads, refused"] = sum(looker.refused for looker in lookers)
    figures[f"{reads} reads, old"] = old = sum(looker.old for looker in lookers)
    figures[f"{reads} reads, oldest, s"] = round(max(looker.oldest for looker in lookers), 1)
    assert not (old and reads == "linearizable"), figures


def check_all(
    store: JetStreamEventStore[Any],
    writers: list[Writer],
    following: Any,
    follower: threading.Thread,
    followed: list[str],
    figures: dict[str, Any],
) -> None:
    """What was told has one order, every stream is whole, and the follower has seen each event once, in order."""
    lines = [line for writer in writers for line in writer.history]
    acknowledged, until = sum(line.count for line in lines if line.kind == APPENDED), time.monotonic() + _LONG
    while store.last_position < acknowledged and time.monotonic() < until:
        time.sleep(0.01)  # Right after a partition a reader may see an older end: docs/jetstream.md.
    last = store.last_position
    assert last >= acknowledged
    while following.position < last and time.monotonic() < until:
        assert follower.is_alive()
        time.sleep(0.01)
    following.stop()
    follower.join(_LONG)
    ids = [envelope.event_id for block in store.envelopes() for envelope in block]
    assert len(ids) == last
    assert followed == ids
    stored: list[list[tuple[int, int, int]]] = []
    for stream in range(STREAMS + WRITERS):
        events = [envelope.event_id for block in store.envelopes(f"s:{stream}") for envelope in block]
        stored.append([tuple(map(int, each.split("-"))) for each in events])  # type: ignore[misc]
    found, absent = check([writer.history for writer in writers], stored)
    figures["acknowledged"] = acknowledged
    figures["stored"] = last
    figures["refused"] = sum(line.kind == REFUSED for line in lines)
    figures["unknown, found once"], figures["unknown, found absent"] = found, absent


def main(arguments: list[str]) -> None:
    if not os.environ.get("HANGARLOG_IN_NAMESPACE"):
        environment = {**os.environ, "HANGARLOG_IN_NAMESPACE": "1"}
        os.execvpe("unshare", ["unshare", "-n", "-m", sys.executable, __file__, *arguments], environment)
    faulthandler.register(signal.SIGUSR1)  # Where is it? Ask by this signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = int(arguments.pop()) if "--seed" in arguments else 1
    counts = {name: int(count) for name, _, count in (each.partition("=") for each in arguments if "=" in each)}
    with tempfile.TemporaryDirectory(prefix="hangarlog-jetstream-") as folder:
        print(json.dumps(run(Path(folder), counts, seed)))


if __name__ == "__main__":
    main(sys.argv[1:])

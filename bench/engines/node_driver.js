// Runs a workload on node-event-storage: `node node_driver.js '{"task": …, "folder": …, "sizes": …}'` prints figures as JSON.
"use strict";
const EventStore = require(process.env.EVENT_STORAGE);

const run = JSON.parse(process.argv[2]);
const { sizes } = run;
let next = 0;

function event() {
  return {
    provider_id: "math",
    mode: "subprocess",
    tools_count: 3,
    startup_duration_ms: 409.18,
    event_id: `80ca934f-0983-485a-b4cf-${String(process.pid * 1e7 + next++).slice(-12).padStart(12, "0")}`,
    occurred_at: 1795404241.28,
  };
}

const events = (count) => Array.from({ length: count }, event);

function opened() {
  return new Promise((resolve) => {
    const config = {
      storageDirectory: run.folder,
      storageConfig: { syncOnFlush: run.durable, lock: run.reclaim ? EventStore.LOCK_RECLAIM : EventStore.LOCK_THROW },
    };
    const store = new EventStore("bench", config);
    store.on("ready", () => resolve(store));
  });
}

const commit = (store, stream, batch, version) =>
  new Promise((resolve) => store.commit(stream, batch, version, {}, resolve));

const seconds = (begin) => Number(process.hrtime.bigint() - begin) / 1e9;

function latencies(taken) {
  taken.sort((a, b) => a - b);
  const at = (part) => taken[Math.min(taken.length - 1, Math.floor(taken.length * part))] * 1e6;
  return { p50: at(0.5), p99: at(0.99) };
}

async function appends(size, count) {
  const batches = Array.from({ length: count }, () => events(size));
  const store = await opened();
  await commit(store, "provider:math", events(size), 0);
  const taken = [];
  const begin = process.hrtime.bigint();
  for (const [number, batch] of batches.entries()) {
    const before = process.hrtime.bigint();
    await commit(store, "provider:math", batch, size * (number + 1));
    taken.push(seconds(before));
    if (seconds(begin) > run.seconds && number > 0) break;
  }
  const rate = (taken.length * size) / seconds(begin);
  store.close();
  return { rate, ...latencies(taken) };
}

async function read(stream) {
  const begin = process.hrtime.bigint();
  const store = await opened();
  const found = [];
  for (const each of store.getEventStream(stream)) found.push(each);
  const rate = found.length / seconds(begin);
  const expected = sizes.events || sizes.streams * sizes.each;
  if (found.length !== expected) throw new Error(`Error: read ${found.length} events, not ${expected}`);
  store.close();
  return { rate };
}

async function places(choose) {
  const store = await opened();
  const taken = [];
  for (let n = 0; n < sizes.reads; n++) {
    const [stream, revision] = choose();
    const before = process.hrtime.bigint();
    if (store.getEventStream(stream, revision, revision).events.length !== 1) throw new Error("not one event");
    taken.push(seconds(before));
  }
  store.close();
  return latencies(taken.slice(taken.length / 10));
}

const dice = (sides) => Math.floor(Math.random() * sides);

const TASKS = {
  W1: () => appends(1, sizes.events),
  W2: () => appends(1, sizes.events),
  async "W3 relaxed"() {
    const { rate, p50 } = await appends(sizes.batch, sizes.batches);
    return { rate, batch_ms: p50 / 1e3 };
  },
  "W3 durable": () => TASKS["W3 relaxed"](),
  W4: () => read("provider:math"),
  W5: () => read("_all"),
  async W7() {
    const store = await opened();
    const begin = process.hrtime.bigint();
    let streams = 0;
    while (streams < sizes.streams && seconds(begin) < run.seconds) {
      await commit(store, `provider:${streams}`, events(1 + (streams % 5)), 0);
      streams++;
    }
    const rate = streams / seconds(begin);
    store.close();
    return { rate, streams };
  },
  "W10 version": () => places(() => [`provider:${dice(sizes.streams)}`, dice(sizes.each)]),
  "W10 position": () => places(() => ["_all", dice(sizes.streams * sizes.each)]),
  async open() {
    const [first] = events(1);
    const begin = process.hrtime.bigint();
    const store = await opened();
    await commit(store, `provider:${run.number}`, [first], sizes.each);
    const taken = seconds(begin);
    store.close();
    return { seconds: taken };
  },
  async "append until killed"() {
    const store = await opened();
    for (let version = 0; ; version++) {
      await commit(store, `killed:${process.pid}`, events(1), version);
      if (version === 0) console.log("began");
    }
  },
  async "write one stream"() {
    const store = await opened();
    for (let version = 0; version < sizes.events; version += 1000)
      await commit(store, "provider:math", events(Math.min(1000, sizes.events - version)), version);
    store.close();
    return {};
  },
  async "write interleaved"() {
    const store = await opened();
    for (let version = 0; version < sizes.each; version += sizes.block)
      for (let stream = 0; stream < sizes.streams; stream++)
        await commit(store, `provider:${stream}`, events(Math.min(sizes.block, sizes.each - version)), version);
    store.close();
    return {};
  },
};

TASKS[run.task]().then((figures) => console.log(JSON.stringify(figures)));

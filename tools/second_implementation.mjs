// A second implementation of the store's format 1, written from format.md and format-binary.md alone: reader, verifier
// and writer. No dependencies; compressed segments need the program `zstd`. Caches are left out, but for the indexes.
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { crc32 } from 'node:zlib';

export class Refusal extends Error {}
const hex8 = (number) => number.toString(16).padStart(8, '0');
const isInt = (value, low = 0) => Number.isSafeInteger(value) && value >= low;
const isText = (value) => typeof value === 'string';
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// "A line", "Limits", and the writer's "strings with these escapes only": strict JSON, normalised. JSON.parse alone
// would hide repeated keys and take 1.0 for an integer: `real` stands for numbers with a point or an exponent.
const TOKEN = /("(?:[^"\\]+|\\.)*")([ \t\n\r]*:)?|[{[\]}]|-?\d[\d.eE+-]*|[ \t\n\r]+/g;
export function normalise(bytes, { lenient = false, real = '"real"' } = {}) {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  const fail = (why) => { throw new SyntaxError(why); };
  const keys = [];
  JSON.parse(text);
  return text.replace(TOKEN, (token, string, colon) => {
    if (string) {
      const value = JSON.parse(string);
      if (!value.isWellFormed()) fail('half of a surrogate pair');
      if (colon && keys.at(-1).has(value) && !lenient) fail(`the key ${string} twice`);
      if (colon) keys.at(-1).add(value);
      return JSON.stringify(value) + (colon ? ':' : '');
    }
    if (/[{[]/.test(token) && keys.push(new Set()) > (lenient ? 1001 : 129)) fail('nested too deep');
    if (/[\]}]/.test(token)) keys.pop();
    if (!/\d/.test(token)) return token.trim();
    if (/[.eE]/.test(token)) return Number.isFinite(Number(token)) ? real ?? token : fail('a number beyond a float');
    return token.length <= 4300 + token.startsWith('-') ? token : fail('an integer of more than 4,300 digits');
  });
}

// "JSON files", "With a checksum", and "A line": an object, or null for one that is not whole.
const withCrc = (body) => `${body},"crc":"${hex8(crc32(body))}"}`;
const parseObject = (bytes, options) => {
  try {
    const value = JSON.parse(normalise(bytes, options));
    return isObject(value) ? value : null;
  } catch { return null; }
};
function parseChecked(bytes, options) {
  const body = bytes.subarray(0, Math.max(0, bytes.length - 18));
  const tail = bytes.subarray(body.length).toString('latin1');
  return tail === `,"crc":"${hex8(crc32(body))}"}` ? parseObject(bytes, options) : null;
}
const parseFile = (bytes) => parseChecked(bytes.at(-1) === 10 ? bytes.subarray(0, -1) : bytes);

// "A line": what a line must be. An erased line ("Snapshots and hidden events") gets the key `erased`.
const isTime = (text) => isText(text) && /^\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z$/.test(text)
  && !text.startsWith('0000') && new Date(Date.parse(`${text.slice(0, 10)}T00:00Z`) || 0).toISOString()
    .startsWith(text.slice(0, 10));
export function parseLine(bytes, options) {
  if (bytes.length < 64 || bytes.length >= 2 ** 28 || bytes.at(-19) !== 0x7d) return null;
  if (bytes.toString('latin1', 0, 12) !== '{"position":') return null;
  const event = parseChecked(bytes, options);
  if (!event || !isInt(event.position, 1) || !isInt(event.stream_version) || !isTime(event.recorded_at)) return null;
  const { stream_id: id, event_type: type, event_id: eventId, metadata, batch_end: end, cursor, data } = event;
  if (![id, type, eventId].every(isText) || !isObject(data) || !isInt(end ?? 0) || end === null) return null;
  if (cursor !== undefined && !(isText(cursor?.name) && isInt(cursor.position))) return null;
  if (metadata === undefined || isObject(metadata)) return event;
  const tabs = /"metadata":(\t*)null/.exec(bytes)?.[1];
  const { position, stream_version: version, recorded_at: time } = event;
  const written = JSON.stringify({ position, stream_id: id, stream_version: version, event_type: '', event_id: eventId,
    recorded_at: time, metadata: null, batch_end: end, cursor: tabs ? cursor : undefined, data: {} }).slice(0, -1);
  return metadata === null && withCrc(written.replace('"metadata":null', `"metadata":${tabs}null`)) === bytes.toString()
    ? { ...event, erased: true } : null;
}
export function* splitLines(bytes) {  // "Split files at \n only."
  for (let offset = 0, end; offset < bytes.length; offset = end) {
    end = bytes.indexOf(10, offset) + 1 || bytes.length;
    const ended = bytes[end - 1] === 10;
    yield { offset, end, ended, bytes: bytes.subarray(offset, ended ? end - 1 : end) };
  }
}
export function isTorn({ bytes, ended }) {  // "The end of a log": a part of a torn tail that is no whole record
  const text = bytes.toString('latin1', 0, 12);
  return bytes.includes(0) || bytes.every((byte) => (byte >= 9 && byte <= 13) || byte === 32)
    || (!ended && '{"position":'.startsWith(text));
}

// "Stream ids".
export function isStreamId(id) {
  const colon = id.indexOf(':');
  return id.isWellFormed() && Buffer.byteLength(id) <= 1024 && !/[\0-\x1f\x7f-\x9f]/.test(id)
    && !/^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$/.test(id)
    && !/^([$/\\]|[A-Za-z]:[/\\])/.test(id) && !/(^|[/\\:])\.\.?([/\\:]|$)/.test(id)
    && colon !== 0 && colon !== id.length - 1;
}
const escape = (byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
export const idPath = (id) => id.split(/(?<=^[^:]*):/).map((part) => {
  const name = [...Buffer.from(part)].map((byte) => (/[a-z0-9_-]/.test(String.fromCharCode(byte))
    ? String.fromCharCode(byte) : escape(byte))).join('')
    .replace(/^(con|prn|aux|nul|com\d|lpt\d)$/, (device) => escape(device.charCodeAt(0)) + device.slice(1));
  return name.length <= 200 ? name
    : `${name.slice(0, 120).replace(/%.?$/, '')}~${createHash('sha256').update(part).digest('hex')}`;
}).join('/');

// "Files", "Segments": a file of the store; null if there is none. A symbolic link is never followed.
function load(file, limit = Infinity) {
  const status = fs.lstatSync(file, { throwIfNoEntry: false });
  if (status && (!status.isFile() || status.size > limit)) throw new Refusal(`${file}: no file, or a file too long`);
  return status ? fs.readFileSync(file) : null;
}
const list = (folder) => (fs.existsSync(folder) ? fs.readdirSync(folder, { withFileTypes: true }) : []);
export function segmentName(file) {
  const [, log, digits] = /^(.+)\.(\d{20})\.jsonl(?:\.zst)?$/s.exec(file) ?? [];
  return digits && BigInt(digits) < 2n ** 53n ? { log, first: Number(digits) } : null;
}

// "hangarlog.json", "retained.json", "checkpoint.json", "Snapshots and hidden events", "Cursors": null for damage.
export function parseConfig(bytes) {
  const value = bytes.length <= 65536 ? parseObject(bytes) : null;
  if (isInt(value?.format, 2)) throw new Refusal('hangarlog.json: a later format: upgrade');
  return value?.format === 1 && isText(value.store_id) && /^[A-Za-z0-9-]{1,64}$/.test(value.store_id)
    && isText(value.created_at) && isInt(value.segment_bytes, 1) && value.segment_bytes <= 2 ** 31
    && [undefined, true, false].includes(value.archive) && /^06[046][04]$/.test(value.mode ?? '0600') ? value : null;
}
export function parseRetained(bytes, storeId) {
  const value = bytes.length <= 65536 ? parseFile(bytes) : null;
  if (isInt(value?.retained, 2)) throw new Refusal('retained.json: a later format: upgrade');
  return value?.retained === 1 && value.store_id === storeId && isInt(value.first_position, 1) ? value : null;
}
export function parseCheckpoint(bytes, storeId) {
  const value = bytes.length <= 65536 ? parseFile(bytes) : null;
  if (!isText(value?.store) || !isText(value.line_crc)) return null;
  if (!['position', 'first', 'end', 'mark'].every((key) => value[key] >= 0 && value[key] % 1 === 0)) return null;
  return { position: value.store === storeId && (value.format ?? 1) === 1 ? value.position : 0 };
}
export function parseSnapshot(bytes) {
  const one = (part) => {
    let end = part.length;
    while ([9, 10, 13, 32].includes(part[end - 1])) end -= 1;
    const value = { version: -1, compacted_through: -1, deleted_through: -1, number: 0, state: null,
      ...parseChecked(part.subarray(0, end)) };
    return isText(value.stream_id) && ['version', 'compacted_through', 'deleted_through'].every((key) =>
      isInt(value[key], -1)) && isInt(value.number) && (value.version < 0 || isObject(value.state)) ? value : null;
  };
  const half = bytes.length && bytes.length % 8192 === 0 ? bytes.length / 2 : 0;
  const halves = [bytes.subarray(0, half), bytes.subarray(half)].map(one).filter(Boolean);
  return halves.sort((a, b) => b.number - a.number)[0] ?? one(bytes);
}
export function parseCursors(bytes, committed, crcAt = () => undefined) {
  const [cursors, problems] = [{}, []];
  for (let at = 0; at < bytes.length; at += 1024) {
    const lines = [bytes.subarray(at, at + 512), bytes.subarray(at + 512, at + 1024)]
      .filter((line) => !/^[\0 ]*\n?$/.test(line.toString('latin1')))
      .map((line) => parseChecked(Buffer.from(line.toString('latin1').replace(/ *\n$/, ''), 'latin1')));
    const whole = lines.filter((line) => line && isText(line.cursor) && isTime(line.moved_at) && isInt(line.position)
      && ['move', 'tip', 'created', 'appended'].every((key) => isInt(line[key] ?? 0)));
    const [name] = whole.map((line) => line.cursor);
    if (whole.length < lines.length && lines.length === 2) problems.push(`a damaged line at ${at}`);
    if (whole.some((line) => line.cursor !== name) || name in cursors) problems.push(`two cursors, or ${name} twice`);
    const counts = whole.filter((line) => (line.appended ?? 0) <= committed).sort((a, b) => b.move - a.move)[0];
    if (!counts) continue;
    cursors[name] = Math.min(counts.position, committed);
    const crc = counts.tip ? crcAt(counts.tip) : '';
    if (counts.tip_crc === 'unknown' || (crc !== undefined && crc !== (counts.tip_crc ?? ''))) {
      problems.push(`${name}: another record at its tip`);
    }
  }
  return { cursors, problems };
}

// format-binary.md, "The commit ring": its whole frames, and the lines behind the journal's end that they join.
export function ringFrames(ring) {
  const [frames, size] = [[], Math.min(ring.length, 2 ** 20)];
  for (let block = 0; block * 4096 < size;) {
    const [at, start] = [block * 4096, ring.indexOf(10, block * 4096) + 1];
    const header = ring.subarray(at, Math.max(at, start - 1));
    const frame = header[0] === 0x1e && header.length <= 512 ? parseObject(header.subarray(1)) : null;
    const end = frame && isInt(frame.length) && frame.length < size ? start + frame.length : Infinity;
    block += 1;
    if (!(end <= size && ['generation', 'first', 'last'].every((key) => isInt(frame[key])))) continue;
    const crc = hex8(crc32(ring.subarray(start, end), crc32(header.subarray(0, -18))));
    if (header.toString('latin1', header.length - 18) !== `,"crc":"${crc}"}`) continue;
    if (frame.ring > 1) throw new Refusal('ring: a later format: upgrade');
    const lines = [...splitLines(ring.subarray(start, end))];
    frames.push({ ...frame, block: block - 1, next: Math.ceil(end / 4096), lines });
    block = frames.at(-1).next;
  }
  return frames;
}
function joinRing(frames, last, lastCrc) {
  const [joined, crcs] = [new Map(), new Map([[last, lastCrc]])];
  for (const frame of frames) {
    const before = crcs.get(frame.first - 1);
    if (before && frame.after && before !== frame.after) continue;
    frame.lines.forEach(({ bytes }, i) => {
      const event = parseLine(bytes);
      if (event?.position !== frame.first + i) return;
      crcs.set(event.position, event.crc);
      if (event.position > last) joined.set(event.position, { bytes, event, file: 'ring' });
    });
  }
  return joined;
}

// format-binary.md, "Compressed segments". A damaged frame becomes as many lines that are no records.
const unzstd = (input) => {
  const { status, stdout, error } = spawnSync('zstd', ['-dcq'], { input, maxBuffer: 2 ** 30 });
  if (error) throw new Refusal(`a compressed segment was not looked into: ${error.message}`);
  return { whole: status === 0, text: stdout };
};
export function unpack(packed, first, report) {
  const count = packed.length < 57 ? -1 : packed.readUInt32LE(packed.length - 9) - 1;
  const [q, p] = [packed.length - 25 - 8 * count, packed.length - 53 - 12 * count];
  const u32 = (at) => packed.readUInt32LE(at);
  const frames = count < 1 || p < 0 ? [] : Array.from({ length: count }, (_, i) =>
    ({ size: u32(q + 8 + 8 * i), length: u32(q + 12 + 8 * i), lines: u32(p + 24 + 4 * i) }));
  if (!frames.length || frames.reduce((sum, { size }) => sum + size, 0) !== p || u32(p) !== 0x184d2a57
    || u32(p + 4) !== 20 + 4 * count || packed.toString('latin1', p + 8, p + 16) !== 'HLFRAMES'
    || packed.readBigUInt64LE(p + 16) !== BigInt(first) || u32(q) !== 0x184d2a5e || u32(q + 4) !== 8 * count + 17
    || u32(q + 8 + 8 * count) !== 28 + 4 * count || u32(q + 12 + 8 * count) !== 0 || packed[packed.length - 5] !== 0
    || u32(packed.length - 4) !== 0x8f92eab1 || frames.some(({ length, lines }) => !lines || lines > length / 64)
    || u32(q - 4) !== crc32(packed.subarray(q + 8, q + 8 + 8 * count), crc32(packed.subarray(p + 8, q - 4)))) {
    report('its tables are damaged, missing, or do not agree with the frames');
    return unzstd(packed).text;
  }
  let at = 0;
  return Buffer.concat(frames.map(({ size, length, lines }, i) => {
    const { whole, text } = unzstd(packed.subarray(at, at += size));
    if (whole && text.length === length && text.at(-1) === 10 && [...splitLines(text)].length === lines) return text;
    report(`frame ${i} is damaged`);
    return Buffer.from('?\n'.repeat(lines));
  }));
}

// format-binary.md, "The index sidecar": the ends that a reader may use; null for damage.
export function indexEnds(index, text, first) {
  const magic = index.toString('latin1', 0, 8);
  if (index.length < 16 || index.every((byte) => byte === 0) || /^HLINDEX[^2]/.test(magic)) return [];
  if (magic !== 'HLINDEX2' || index.readBigUInt64LE(8) !== BigInt(first)) return null;
  const [lines, ends] = [[...splitLines(text)], []];
  for (let i = 0, start = 0, usable = 0; ; i += 1) {
    if (24 + 8 * i > index.length) return ends.slice(0, usable);
    const [end, crc] = [index.readUInt32LE(16 + 8 * i), index.readUInt32LE(20 + 8 * i)];
    if (lines[i]?.end !== end || (crc && crc32(text.subarray(start, end)) !== crc)) return null;
    ends.push(end);
    if (crc) [start, usable] = [end, i + 1];
  }
}

// "Segments", and "Opening", 3 and 5: the lines of a log. `from`: the first number that is not hidden or dropped.
function readLog(folder, name, key, from, report, options) {
  const active = load(`${folder}/${name}.jsonl`);
  const numberOf = (text) => parseLine(splitLines(text).next().value?.bytes ?? Buffer.alloc(0), options)?.[key];
  const first = active ? numberOf(active) : undefined;
  const names = list(folder).map((entry) => entry.name).filter((file) => segmentName(file)?.log === name);
  const sealed = [...new Map(names.sort().reverse().map((file) => [segmentName(file).first, file]))];
  const kept = sealed.some(([number]) => number === from) || key === 'position' ? from : 0;
  const lines = [];
  const add = (file, text, number, isSealed) => {
    const index = load(`${folder}/${file.replace(/\.jsonl.*/, '.index')}`);
    if (index && number !== undefined && !indexEnds(index, text, number)) report(file, 'its index is damaged');
    for (const line of splitLines(text)) {
      lines.push({ ...line, file, sealed: isSealed, event: line.ended ? parseLine(line.bytes, options) : null });
    }
  };
  for (const [number, file] of sealed.sort(([a], [b]) => a - b).filter(([at]) => at >= kept)) {
    const bytes = load(`${folder}/${file}`);
    const text = file.endsWith('.zst') ? unpack(bytes, number, (what) => report(file, what)) : bytes;
    if (number < (first ?? Infinity)) add(file, text, number, true);
    else if (key === 'position' && numberOf(text) !== undefined && !text.equals(active)) report(file, 'not below it');
  }
  if (active) add(`${name}.jsonl`, active, first, false);
  return { lines, active };
}

// "What is committed": goes through the journal's lines. `settled`: the checkpoint's position.
function walk(lines, first, settled, ring) {
  const out = { events: [], missing: [], problems: [], committed: first - 1, crc: '', last: null };
  let [last, open, room, since] = [first - 1, 0, 0, []];
  const accept = (line) => {
    const { position, batch_end: end } = line.event;
    if (position > open) open = 0;
    const wrong = (end && end < position && 'a batch_end below it') || (open && end !== open && 'another batch_end');
    since.push({ line, counts: true, what: wrong });
    [last, room, open] = [position, 0, end > position ? end : 0];
    if (open) return;
    out.problems.push(...since.filter(({ what }) => what));
    out.events.push(...since.filter(({ counts }) => counts).map((one) => one.line));
    out.missing.push(...since.filter(({ gap }) => gap).map(({ gap }) => gap));
    [since, out.committed, out.crc, out.last] = [[], last, line.event.crc, line];
  };
  for (const line of lines) {
    const position = line.event?.position;
    const gap = Array.from({ length: Math.min(1e7, Math.max(0, position - last - 1)) || 0 }, (_, i) => last + 1 + i);
    const follows = gap.length <= room || position <= Math.max(last, settled) + 1 || gap.every((at) => ring.has(at));
    if (!line.event) {
      since.push({ line, what: 'no record' });
      room += 1 + Math.floor(line.bytes.length / 64);
    } else if (position <= last || !follows) since.push({ line, what: `position ${position} does not connect` });
    else {
      for (const at of gap) {
        if (ring.has(at)) accept(ring.get(at));
        else since.push({ line, gap: at, what: `position ${at} is missing` });
      }
      accept(line);
    }
  }
  const tail = since;  // "The end of a log"
  since = since.filter(({ counts }) => counts);
  while (ring.has(last + 1)) accept(ring.get(last + 1));
  const bad = tail.filter(({ line, counts }) => !(line.event ? counts || line.event.position <= out.committed
    : !line.sealed && isTorn(line)));
  out.needsRecovery = bad.length > 0 || ring.size > 0 || out.committed < settled;
  out.problems.push(...bad);
  const say = (file, what) => out.problems.push({ line: { file, offset: 'its end' }, what });
  if ([...ring.keys()].some((at) => at > last)) say('ring', 'it does not connect');
  if (out.committed < settled) say('journal.jsonl', `it ends before the checkpoint's position ${settled}`);
  return out;
}

// "Opening". format-binary.md, "Locks": Node cannot ask F_OFD_GETLK, but Linux lists all locks in /proc/locks.
export function openStore(folder, options) {
  const damage = [];
  const report = (file, what) => damage.push(`${file}: ${what}`);
  const look = (file, parse) => {
    const bytes = load(`${folder}/${file}`);
    const value = bytes && parse(bytes);
    if (bytes && !value) report(file, 'damaged');
    return value;
  };
  const lock = new RegExp(`OFDLCK.*:${fs.statSync(folder, { throwIfNoEntry: false })?.ino} `);
  const inUse = lock.test(fs.readFileSync('/proc/locks', 'latin1'));
  const config = look('hangarlog.json', parseConfig);
  if (!config) throw new Refusal(`hangarlog.json: ${damage.length ? 'damaged' : 'missing: this is no store'}`);
  const retained = look('retained.json', (bytes) => parseRetained(bytes, config.store_id));
  if (damage.length) throw new Refusal('retained.json: damaged, or of another store');
  const first = retained?.first_position ?? 1;
  const settled = look('checkpoint.json', (bytes) => parseCheckpoint(bytes, config.store_id))?.position ?? 0;
  const { lines, active } = readLog(folder, 'journal', 'position', first, report, options);
  if (!active) throw new Refusal('journal.jsonl: missing');
  const ringSize = load(`${folder}/ring`)?.length;
  const ours = ringFrames(load(`${folder}/ring`) ?? Buffer.alloc(0)).filter((frame) => frame.store === config.store_id);
  const generation = Math.max(...ours.map((frame) => frame.generation));
  const frames = ours.filter((frame) => frame.generation === generation);
  let journal = walk(lines, first, settled, new Map());
  const joined = joinRing([...frames].sort((a, b) => a.first - b.first), journal.committed, journal.crc);
  if (joined.size) journal = walk(lines, first, settled, joined);
  for (const { line, what } of journal.problems) report(`${line.file} at ${line.offset}`, what);
  return { folder, config, settled, inUse, journal, ringSize, frames, damage, report, look, options };
}
function openStream(store, base) {
  const at = base.lastIndexOf('/') + 1;
  const snapshot = store.look(`snapshots/${base}.json`, parseSnapshot);
  const hidden = snapshot?.compacted_through ?? -1;
  const report = (file, what) => store.report(`streams/${base.slice(0, at)}${file}`, what);
  const folder = `${store.folder}/streams/${base.slice(0, at)}`;
  const log = readLog(folder, base.slice(at), 'stream_version', hidden + 1, report, store.options);
  return { ...log, base, hidden, snapshot, report };
}
function* streams(store) {  // "Its path": a file whose name no id leads to is a stranger's
  const folders = list(`${store.folder}/streams`).filter((entry) => entry.isDirectory()).map(({ name }) => `${name}/`);
  for (const sub of ['', ...folders]) {
    const names = list(`${store.folder}/streams/${sub}`).map(({ name }) =>
      /^([^.]+)(\.\d{20})?\.jsonl(\.zst)?$/.exec(name)?.[1]);
    for (const name of new Set(names.filter(Boolean))) {
      const stream = openStream(store, sub + name);
      const ids = stream.lines.filter(({ event }) => event).map(({ event }) => event.stream_id);
      try {
        if (!stream.base.includes('~')) ids.unshift(decodeURIComponent(stream.base.replace('/', ':')));
      } catch { continue; }
      const id = ids.find((one) => idPath(one) === stream.base);
      if (id !== undefined) yield { ...stream, id };
    }
  }
}

// "A reader must": every event in the order of the journal; the stream's copy for a damaged or missing one.
export function* read(store) {
  const events = new Map(store.journal.missing.map((position) => [position, null]));
  for (const stream of events.size ? streams(store) : []) {
    for (const line of stream.lines) {
      if (line.event?.stream_id === stream.id && events.has(line.event.position)) events.set(line.event.position, line);
    }
  }
  for (const line of store.journal.events) events.set(line.event.position, line);
  for (const [position, line] of [...events].sort(([a], [b]) => a - b)) {
    if (!line) throw new Refusal(`position ${position} is lost: neither copy is whole`);
    if (!line.event.erased) yield line.bytes;
  }
}

// "A verifier must": the rows "journal" (of single streams) and "streams".
function verifyStream(store, { id, lines, hidden, base, report }, records, byPosition) {
  const { journal, settled } = store;
  let expected = null;
  for (const { file, offset, event } of records) {
    const say = (what) => store.report(`${file} at ${offset}`, what);
    const { stream_version: version, position, erased } = event;
    if (expected === null && !isStreamId(id.replace(/^\$/, 'x'))) say('no stream id');
    if (erased && version > hidden) say('an erased line that is not hidden');
    const wrong = expected === null ? version > hidden + 1 : version !== expected;
    if (wrong && !(position > journal.missing[0])) say(`version ${version} instead of ${expected ?? hidden + 1}`);
    expected = version + 1;
  }
  let [last, bad] = [-1, []];
  for (const line of lines) {
    const { event, file, offset } = line;
    const say = (what) => report(`${file} at ${offset}`, what);
    if (!event) bad.push(() => say('no record'));
    else if (event.position <= journal.committed || event.erased) {
      const other = byPosition.get(event.position);
      bad.splice(0).forEach((tell) => tell());
      if (event.stream_id !== id) say('a record of another stream');
      if (event.erased && event.stream_version > hidden) say('an erased line that is not hidden');
      const differs = other && !event.erased && !other.event.erased && !other.bytes.equals(line.bytes);
      if (differs) say('it differs from the journal');
      if (last >= 0 && event.stream_version !== last + 1) say(`version ${event.stream_version} after ${last}`);
      last = event.stream_version;
    }
    if (!event && !line.sealed && isTorn(line)) bad.at(-1).torn = true;
  }
  bad.filter((tell) => !tell.torn).forEach((tell) => tell());
  const due = records.findLast(({ event }) => event.position <= settled)?.event.stream_version ?? -1;
  if (due > last) report(`${base.replace(/.*\//, '')}.jsonl`, `it ends before version ${due}`);
  return Math.max(last, (expected ?? 0) - 1);
}
export function verify(folder) {
  const store = openStore(folder);
  const { journal, report, settled, look, frames, config } = store;
  const [byPosition, byId, ends] = [new Map(), new Map(), new Map()];
  for (const line of journal.events) {
    byPosition.set(line.event.position, line);
    byId.set(line.event.stream_id, [...byId.get(line.event.stream_id) ?? [], line]);
  }
  const logs = new Map([...streams(store)].map((stream) => [stream.id, stream]));
  for (const id of byId.keys()) if (!logs.has(id)) logs.set(id, { ...openStream(store, idPath(id)), id });
  for (const [id, stream] of logs) ends.set(stream.base, verifyStream(store, stream, byId.get(id) ?? [], byPosition));
  for (const entry of list(`${folder}/snapshots`)) {
    const inside = entry.isDirectory() ? list(`${folder}/snapshots/${entry.name}`) : [];
    for (const file of [entry.name, ...inside.map(({ name }) => `${entry.name}/${name}`)]) {
      const base = /^([^.]+)\.json$/.exec(file)?.[1];
      const snapshot = base && look(`snapshots/${file}`, parseSnapshot);
      if (!snapshot) continue;
      const [end, say] = [ends.get(base) ?? -1, (what) => report(`snapshots/${file}`, what)];
      if (idPath(snapshot.stream_id) !== base) say('the file of another stream');
      if (snapshot.deleted_through >= 0 && !fs.existsSync(`${folder}/deleted/${base}`)) say('no file in deleted/');
      const beyond = snapshot.compacted_through > end && !config.archive && (end >= 0 || snapshot.saved_at);
      if (beyond) say("compacted_through is beyond the stream's last version");
    }
  }
  if (settled > journal.committed) report('checkpoint.json', 'beyond the committed position');
  if (![undefined, 2 ** 20].includes(store.ringSize)) report('ring', 'another size than 1 MiB');
  for (const [i, frame] of frames.entries()) {
    if (i && frames[i - 1].next !== frame.block) report('ring', `block ${frames[i - 1].next} begins no frame`);
    for (const [place, { bytes }] of frame.lines.entries()) {
      const other = byPosition.get(frame.first + place);
      if (other && !other.event.erased && !other.bytes.equals(bytes)) report('ring', `${frame.first + place} differs`);
    }
  }
  const crcAt = (tip) => byPosition.get(tip)?.event.crc;
  const { problems = [] } = look('cursors.jsonl', (bytes) => parseCursors(bytes, journal.committed, crcAt)) ?? {};
  for (const what of problems) report('cursors.jsonl', what);
  for (const { name } of list(`${folder}/projections`)) {
    const known = /^[^.]+(\.latest(-2)?|\.rebuilding)?\.json$/.test(name);
    const value = known && look(`projections/${name}`, parseFile);
    if (value?.position > journal.committed) report(`projections/${name}`, 'beyond the committed position');
  }
  return [...new Set(store.damage)];
}

// "A writer must", "To a closed store". It refuses whatever is not sure, before it changes anything.
export function append(folder, id, type, json) {
  const refuse = (what) => { throw new Refusal(what); };
  const store = openStore(folder);
  const { config, journal } = store;
  if (store.inUse) refuse('a process takes part in the store');
  if (config.archive) refuse('an archive takes no appends');
  if (!isStreamId(id)) refuse(`${JSON.stringify(id)} is no stream id`);
  if (journal.needsRecovery) refuse('the journal or the ring needs a recovery: open the store once with hangarlog');
  let data;
  try { data = normalise(Buffer.from(json), { real: null }); } catch (e) { refuse(`the payload: ${e.message}`); }
  const stream = openStream(store, idPath(id));
  const records = journal.events.filter(({ event }) => event.stream_id === id);
  if (store.damage.some((what) => what.startsWith('snapshots/'))) refuse('the snapshot file is damaged');
  if (stream.snapshot?.tombstone) refuse('the stream was deleted for good');
  const good = stream.lines.findLastIndex(({ event }) =>
    event?.stream_id === id && (event.erased || event.position <= journal.committed));
  const damaged = stream.lines.slice(good + 1).some((line) => !line.event && (line.sealed || !isTorn(line)));
  if (damaged) refuse("the end of the stream's file is damaged: open the store once with hangarlog");
  const inStream = Math.max(stream.lines[good]?.event.stream_version ?? -1, stream.hidden);
  const version = Math.max(records.at(-1)?.event.stream_version ?? -1, inStream) + 1;
  const uuid = Buffer.concat([Buffer.from(Date.now().toString(16).padStart(12, '0'), 'hex'), randomBytes(10)]);
  [uuid[6], uuid[8]] = [(uuid[6] & 15) | 0x70, (uuid[8] & 63) | 0x80];
  const position = journal.committed + 1;
  const envelope = JSON.stringify({ position, stream_id: id, stream_version: version, event_type: type,
    event_id: uuid.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-'),
    recorded_at: `${new Date().toISOString().slice(0, -1)}000Z` });
  const line = Buffer.from(`${withCrc(`${envelope.slice(0, -1)},"data":${data}`)}\n`);
  if (!parseLine(line.subarray(0, -1))) refuse('no record: the payload must be an object, within the limits');
  const endOf = (one, file) => (one?.file === file.replace(/.*\//, '') ? one.end : 0);
  const [journalFile, streamFile] = ['journal.jsonl', `streams/${stream.base}.jsonl`];
  const [end, streamEnd] = [endOf(journal.last, journalFile), endOf(stream.lines[good], streamFile)];
  if (Math.max(end, streamEnd) >= config.segment_bytes) refuse('a segment is full, and has to be rolled first');
  const mode = parseInt(config.mode ?? '0600', 8);
  const write = (file, at, lines) => {
    fs.mkdirSync(`${folder}/${file}`.replace(/[^/]*$/, ''), { recursive: true, mode: mode | ((mode & 0o444) >> 2) });
    const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants;
    const handle = fs.openSync(`${folder}/${file}`, O_RDWR | O_CREAT | O_NOFOLLOW, mode);
    fs.ftruncateSync(handle, at);
    fs.fsyncSync(handle);
    fs.writeSync(handle, Buffer.concat(lines), 0, undefined, at);
    fs.fsyncSync(handle);
    fs.closeSync(handle);
  };
  const lacking = records.filter(({ event }) => !event.erased && event.stream_version > inStream);
  write(journalFile, end, [line]);
  write(streamFile, streamEnd, [...lacking.flatMap(({ bytes }) => [bytes, Buffer.from('\n')]), line]);
  return { position, version };
}

function main([command, folder, ...rest]) {
  if ({ read: 0, verify: 0, append: 3 }[command] !== rest.length || folder === undefined) {
    console.error('usage: store.mjs read STORE | verify STORE | append STORE STREAM_ID TYPE JSON_DATA');
    return 2;
  }
  try {
    const damage = command === 'verify' ? verify(folder) : [];
    for (const line of damage) console.log(line);
    if (command === 'append') console.log(Object.values(append(folder, ...rest)).join(' '));
    if (command === 'read') {
      const store = openStore(folder, { lenient: true });
      for (const bytes of read(store)) fs.writeSync(1, Buffer.concat([bytes, Buffer.from('\n')]));
      for (const what of store.damage) console.error(what);
    }
    return damage.length ? 1 : 0;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    console[command === 'verify' ? 'log' : 'error'](error.message);
    return 1;
  }
}
if (process.argv[1] === import.meta.filename) process.exitCode = main(process.argv.slice(2));

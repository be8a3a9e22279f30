// A second implementation of the store's format 1: reader, verifier and writer. It was made from docs/format.md and
// docs/format-binary.md, by somebody who had not seen hangarlog's source; the quoted titles are theirs. It shows that
// the pages are enough. It leaves out the caches, and what it takes to write beside others. It needs Node 18 and, for
// compressed segments, the program `zstd`.
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';

class Refusal extends Error {}
const refuse = (what) => { throw new Refusal(what); };
const isInt = (value, low = 0) => Number.isSafeInteger(value) && value >= low;
const isText = (value) => typeof value === 'string';
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const isOptional = (value) => isInt(value ?? 0) && value !== null;
const hasAll = (keys, test, value, ...more) => keys.split(' ').every((key) => test(value[key], ...more));

const CRCS = Int32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit += 1) byte = (byte >>> 1) ^ (byte & 1 ? 0xedb88320 : 0);
  return byte;
});
const crc32 = (bytes, start = 0) => ~bytes.reduce((crc, byte) => CRCS[(crc ^ byte) & 255] ^ (crc >>> 8), ~start) >>> 0;
const hex8 = (number) => number.toString(16).padStart(8, '0');

// "A line", "Limits", and the writer's strings: strict JSON, normalised. JSON.parse alone would hide repeated keys, and
// take 1.0 for an integer: `real` stands for numbers with a point or an exponent.
const TOKEN = /("(?:[^"\\]+|\\.)*")([ \t\n\r]*:)?|[{[\]}]|-?\d[\d.eE+-]*|[ \t\n\r]+/g;
export function normalise(bytes, real = '"real"', strict = true) {
  const text = new TextDecoder('utf-8', { fatal: strict, ignoreBOM: true }).decode(bytes);
  const keys = [];
  const forbid = (is, what) => is && strict && refuse(what);
  JSON.parse(text);
  return text.replace(TOKEN, (token, string, colon) => {
    if (string) {
      const value = JSON.parse(string);
      forbid(/\p{Surrogate}/u.test(value) || (colon && keys.at(-1).has(value)), `${string}: half a pair, or twice`);
      if (colon) keys.at(-1).add(value);
      return JSON.stringify(value) + (colon ? ':' : '');
    }
    forbid(/[{[]/.test(token) && keys.push(new Set()) > 129, 'nested too deep');
    if (/[\]}]/.test(token)) keys.pop();
    if (!/\d/.test(token)) return token.trim();
    forbid(/[.eE]/.test(token) ? !Number.isFinite(Number(token)) : /\d{4301}/.test(token), 'a number beyond a limit');
    return /[.eE]/.test(token) ? real ?? token : token;
  });
}
function parseObject(bytes, strict) {
  try {
    const value = JSON.parse(normalise(bytes, undefined, strict));
    return isObject(value) ? value : null;
  } catch { return null; }
}
const withCrc = (body) => `${body},"crc":"${hex8(crc32(Buffer.from(body)))}"}`;
function parseChecked(bytes, strict) {  // "JSON files", "With a checksum"
  const body = bytes.subarray(0, Math.max(0, bytes.length - 18));
  return bytes.toString('latin1', body.length) === `,"crc":"${hex8(crc32(body))}"}` ? parseObject(bytes, strict) : null;
}
const parseFile = (bytes) => parseChecked(bytes.at(-1) === 10 ? bytes.subarray(0, -1) : bytes);

// "What a line must be", and "Erased lines", which get the key `erased`. Not strict: "A line that keeps its place".
function isTime(text) {
  const date = new Date(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/.test(text) ? `${text.slice(0, 23)}Z` : NaN);
  return !Number.isNaN(date.getTime()) && date.toISOString().startsWith(text.slice(0, 23)) && !text.startsWith('0000');
}
export function parseLine(bytes, strict = true) {
  if (bytes.length < 64 || bytes.length >= 2 ** 28 || bytes.toString('latin1', 0, 12) !== '{"position":') return null;
  const event = bytes.at(-19) === 0x7d ? parseChecked(bytes, strict) : null;
  if (!event || !isInt(event.position, 1) || !isInt(event.stream_version) || !isOptional(event.batch_end)) return null;
  const { position, stream_id, stream_version, event_id, recorded_at, metadata, batch_end, cursor } = event;
  if (!hasAll('stream_id event_type event_id recorded_at', isText, event) || !isObject(event.data)) return null;
  if (!strict) return event;
  if (!isTime(recorded_at) || !(cursor === undefined || (isText(cursor?.name) && isInt(cursor.position)))) return null;
  if (metadata === undefined || isObject(metadata)) return event;
  const tabs = /"metadata":(\t*)null/.exec(bytes.toString())?.[1];
  const written = JSON.stringify({ position, stream_id, stream_version, event_type: '', event_id, recorded_at,
    metadata: null, batch_end, cursor: tabs ? cursor : undefined, data: {} }).slice(0, -1);
  const line = withCrc(written.replace('"metadata":null', `"metadata":${tabs}null`));
  return metadata === null && bytes.equals(Buffer.from(line)) ? { ...event, erased: true, tabs } : null;
}
function* splitLines(text) {  // "Split files at \n only."
  for (let start = 0, end; start < text.length; start = end) {
    end = text.indexOf(10, start) + 1 || text.length;
    const ended = text[end - 1] === 10;
    yield { end, ended, bytes: text.subarray(start, ended ? end - 1 : end) };
  }
}
export function isTorn({ bytes, ended }) {  // "The end of a log": what is no whole record
  const text = bytes.toString('latin1');
  return !/[^\t-\r ]/.test(text) || text.includes('\0') || (!ended && '{"position":'.startsWith(text.slice(0, 12)));
}

// "Stream ids", "Its path".
export function isStreamId(id) {
  return !/\p{Surrogate}/u.test(id) && Buffer.byteLength(id) <= 1024 && !/[\0-\x1f\x7f-\x9f]/.test(id)
    && /[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/.test(id)
    && !/^([$/\\]|[A-Za-z]:[/\\])|(^|[/\\:])\.\.?([/\\:]|$)|^:|^[^:]*:$/.test(id);
}
const percent = (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
function pathPart(part) {
  const name = Buffer.from(part).toString('latin1').replace(/[^a-z0-9_-]/g, percent)
    .replace(/^(?=(con|prn|aux|nul|com\d|lpt\d)$)./, percent);
  if (name.length <= 200) return name;
  return `${name.slice(0, 120).replace(/%.?$/, '')}~${createHash('sha256').update(part).digest('hex')}`;
}
export const pathOf = (id) => id.split(/(?<=^[^:]*):/).map(pathPart).join('/');
function isOurs(path) {  // "A file whose name no id leads to is a stranger's."
  try {
    const id = decodeURIComponent(path.replace('/', ':'));
    return path.includes('~') || (isStreamId(id) && pathOf(id) === path);
  } catch { return false; }
}

// "Files", "Segments". A symbolic link is not followed.
function load(file, limit = Infinity) {
  const status = fs.lstatSync(file, { throwIfNoEntry: false });
  if (status && !status.isFile()) refuse(`${file}: no file`);
  return status && (status.size <= limit ? fs.readFileSync(file) : Buffer.alloc(0));
}
const list = (folder) => (fs.existsSync(folder) ? fs.readdirSync(folder, { withFileTypes: true }) : []);
function pathsIn(folder, ending) {  // the paths, without the ending, of the files in a folder and in its folders
  return list(folder).flatMap((entry) => (entry.isDirectory()
    ? list(`${folder}/${entry.name}`).map(({ name }) => `${entry.name}/${name}`) : [entry.name]))
    .filter((name) => ending.test(name)).map((name) => name.replace(ending, '')).filter((path) => !path.includes('.'));
}
export function segmentName(file) {
  const [, log, digits] = /^(.+)\.(\d{20})\.jsonl(?:\.zst)?$/s.exec(file) ?? [];
  return digits && BigInt(digits) < 2n ** 53n ? { log, first: Number(digits) } : null;
}
// The lines of a log. `foreign`: a sealed segment is not below the active one. `from`: see "Opening", 3 and 5.
function readLogOnce(folder, name, key, report, getFrom) {
  const active = load(`${folder}/${name}.jsonl`);  // before the list: see "Reading while others write"
  const numberOf = (text) => parseLine(text.subarray(0, Math.max(0, text.indexOf(10))))?.[key];
  const first = (active && numberOf(active)) ?? Infinity;
  const files = list(folder).map((entry) => entry.name).filter((file) => segmentName(file)?.log === name);
  const sealed = [...new Map(files.sort().reverse().map((file) => [segmentName(file).first, file]))];
  const from = getFrom();  // after the list: see "retained.json"
  const least = key === 'position' || sealed.some(([number]) => number === from) ? from : 0;
  const log = { active, lines: [], foreign: false };
  const add = (text, isSealed) => {
    for (const line of splitLines(text)) {
      const event = line.ended ? parseLine(line.bytes) : null;
      const counted = event ?? (line.ended ? parseLine(line.bytes, false) : null);
      log.lines.push({ ...line, isSealed, event, counted });
    }
  };
  for (const [number, file] of sealed.sort(([a], [b]) => a - b).filter(([number]) => number >= least)) {
    const bytes = load(`${folder}/${file}`) ?? refuse(`${file}: it went away meanwhile`);
    const text = file.endsWith('.zst') ? unpack(bytes, number, (what) => report(file, what)) : bytes;
    if (number < first && active) add(text, true);
    else log.foreign ||= numberOf(text) !== undefined && !text.equals(active ?? Buffer.alloc(0));
    if (!active) add(text, true);
  }
  add(active ?? Buffer.alloc(0), false);
  return log;
}
function readLog(...log) {  // again if the active segment may have been sealed after it was read
  let found = readLogOnce(...log);
  for (let tries = 0; found.foreign && tries < 9; tries += 1) found = readLogOnce(...log);
  return found;
}
// format-binary.md, "Compressed segments": the tables are right if the bytes are those that the numbers in them give.
const ints = (...numbers) => Buffer.from(Uint32Array.from(numbers).buffer);
function unpack(packed, first, report) {
  const unzstd = (input) => {
    const { status, stdout, error } = spawnSync('zstd', ['-dcq'], { input, maxBuffer: 2 ** 30 });
    if (error) refuse(`zstd cannot be run: ${error.message}`);
    return { whole: status === 0, text: stdout };
  };
  const n = packed.length < 57 ? 0 : packed.readUInt32LE(packed.length - 9) - 1;
  const [q, p] = [packed.length - 25 - 8 * n, packed.length - 53 - 12 * n];
  const numbers = (at, count) => Array.from({ length: count }, (_, i) => packed.readUInt32LE(at + 4 * i));
  const [lines, pairs] = n > 0 && p > 0 ? [numbers(p + 24, n), numbers(q + 8, 2 * n)] : [[], []];
  const [sizes, lengths] = [0, 1].map((odd) => pairs.filter((_, i) => i % 2 === odd));
  const body = Buffer.concat([Buffer.from('HLFRAMES'), ints(first % 2 ** 32, first / 2 ** 32, ...lines)]);
  const tables = Buffer.concat([ints(0x184d2a57, 20 + 4 * n), body, ints(crc32(ints(...pairs), crc32(body)), 0x184d2a5e,
    8 * n + 17, ...pairs, 28 + 4 * n, 0, n + 1), Buffer.alloc(1), ints(0x8f92eab1)]);
  if (!lines.length || !packed.subarray(p).equals(tables) || sizes.reduce((a, b) => a + b) !== p
    || lines.some((count, i) => !count || count > lengths[i] / 64)) {
    report('its tables are damaged');
    const { whole, text } = unzstd(packed);
    return whole ? text : Buffer.concat([text, Buffer.from('?\n')]);
  }
  return Buffer.concat(sizes.map((size, i) => {
    const at = sizes.slice(0, i).reduce((a, b) => a + b, 0);
    const { whole, text } = unzstd(packed.subarray(at, at + size));
    const right = whole && text.length === lengths[i] && text.at(-1) === 10;
    if (right && [...splitLines(text)].length === lines[i]) return text;
    report(`frame ${i} is damaged`);
    return Buffer.from('?\n'.repeat(lines[i]));
  }));
}

// "hangarlog.json", "retained.json", "checkpoint.json", "Snapshots and hidden events", "Cursors": null for damage.
export function parseConfig(bytes) {
  const value = parseObject(bytes);
  return value?.format === 1 && isText(value.store_id) && /^[A-Za-z0-9-]{1,64}$/.test(value.store_id)
    && isText(value.created_at) && isInt(value.segment_bytes, 1) && value.segment_bytes <= 2 ** 31
    && [undefined, true, false].includes(value.archive) && /^06[046][04]$/.test(value.mode ?? '0600') ? value : null;
}
export function parseRetained(bytes, storeId) {
  const value = parseFile(bytes);
  return value?.retained === 1 && value.store_id === storeId && isInt(value.first_position, 1) ? value : null;
}
export function parseCheckpoint(bytes, storeId) {
  const found = parseFile(bytes);
  const value = { position: 0, first: 0, end: 0, mark: 0, store: '', line_crc: '', format: 1, ...found };
  if (!found || !hasAll('position first end mark', (number) => Number.isInteger(number) && number >= 0, value)) return null;
  return hasAll('store line_crc', isText, value) && Number.isInteger(value.format)
    ? { position: value.store === storeId && value.format === 1 ? value.position : 0 } : null;
}
export function parseSnapshot(bytes) {
  const one = (part) => {
    const value = parseChecked(part.subarray(0, part.toString('latin1').replace(/[\t\n\r ]+$/, '').length));
    const all = { version: -1, compacted_through: -1, deleted_through: -1, number: 0, state: null, ...value };
    return isText(all.stream_id) && hasAll('version compacted_through deleted_through', isInt, all, -1)
      && isInt(all.number) && (all.version < 0 || isObject(all.state)) ? all : null;
  };
  const half = bytes.length % 8192 === 0 ? bytes.length / 2 : 0;
  const halves = [bytes.subarray(0, half), bytes.subarray(half)].map(one).filter(Boolean);
  return halves.sort((a, b) => b.number - a.number)[0] ?? one(bytes);
}
export function parseCursors(bytes, committed, crcAt = () => undefined) {
  const [cursors, problems] = [{}, []];
  for (let at = 0; at < bytes.length; at += 1024) {
    const texts = [0, 512].map((half) => bytes.toString('latin1', at + half, at + half + 512)
      .replace(/[\0\n ]*$/, ''));
    const whole = texts.map((text) => parseChecked(Buffer.from(text, 'latin1'))).filter((line) =>
      line && hasAll('cursor moved_at', isText, line) && isText(line.tip_crc ?? '') && hasAll('position move', isInt, line)
      && hasAll('tip created appended', isOptional, line));
    const [name] = whole.map((line) => line.cursor);
    const written = texts.filter(Boolean).length;
    if (written === 2 && whole.length < 2) problems.push(`a damaged line at ${at}`);
    if (whole.some((line) => line.cursor !== name) || name in cursors) problems.push(`two cursors, or ${name} twice`);
    const counts = whole.filter((line) => (line.appended ?? 0) <= committed).sort((a, b) => b.move - a.move)[0];
    if (!counts) continue;
    cursors[name] = Math.min(counts.position, committed);
    const crc = counts.tip ? crcAt(counts.tip) : '';
    const other = counts.tip_crc === 'unknown' || (crc !== undefined && crc !== (counts.tip_crc ?? ''));
    if (other) problems.push(`${name}: another record at its tip`);
  }
  return { cursors, problems };
}

// format-binary.md, "The commit ring": its whole frames, and "Joining".
export function ringFrames(ring) {
  const [frames, size] = [[], Math.min(ring.length, 2 ** 20)];
  for (let block = 0; block * 4096 < size; block += 1) {
    const start = ring.indexOf(10, block * 4096) + 1;
    const header = ring.subarray(block * 4096, Math.max(block * 4096, start - 1));
    const frame = header[0] === 0x1e && header.length <= 511 ? parseObject(header.subarray(1)) : null;
    if (!frame || !hasAll('generation first last length', isInt, frame) || start + frame.length > size) continue;
    const text = ring.subarray(start, start + frame.length);
    if (frame.crc !== hex8(crc32(text, crc32(header.subarray(0, -18))))) continue;
    if (frame.ring > 1) refuse('ring: a later format: upgrade');
    frames.push({ ...frame, block, next: Math.ceil((start + frame.length) / 4096), lines: [...splitLines(text)] });
    block = frames.at(-1).next - 1;
  }
  return frames;
}
function joinRing(frames, last, lastCrc) {
  const [joined, skipped] = [new Map(), new Set()];
  for (const { first, after, lines } of [...frames].sort((a, b) => a.first - b.first)) {
    const before = joined.get(first - 1)?.event.crc ?? (first === last + 1 ? lastCrc : '');
    if (skipped.has(after) || (before && after && before !== after)) {
      for (const { bytes } of lines) skipped.add(parseLine(bytes)?.crc);
      continue;
    }
    for (const [i, line] of lines.entries()) {
      const event = parseLine(line.bytes);
      if (event?.position === first + i && event.position > last) joined.set(event.position, { ...line, event });
    }
  }
  return joined;
}

// "What is committed": behind position `known`, by the journal's lines in order (`stored`), and with the ring.
const endsBatch = ({ position, batch_end: end }) => !end || end === position;
function findEnd(lines, known, frames) {
  let [inOrder, reached, latest, highest, room, cause, crc] = [known, known, known, 0, 0, '', ''];
  let [batch, behind] = [new Map(), new Map()];
  for (const line of lines) {
    const { bytes, ended, isSealed, counted } = line;
    const position = counted?.position;
    highest = Math.max(highest, position ?? 0);
    if (!counted) {
      room += 1 + (ended ? Math.floor(bytes.length / 64) : 0);
      if (!isTorn({ bytes, ended: ended || isSealed })) cause ||= 'damage at its end';
    } else if (position <= inOrder) [room, cause, crc] = [0, '', position === inOrder ? counted.crc : crc];
    else {
      const follows = position > reached && position <= reached + 1 + (cause ? room : 0);
      (follows ? batch : behind).set(position, counted);
      if (follows) reached = position;
      if (follows && endsBatch(counted)) [inOrder, room, cause, crc, batch] = [position, 0, '', counted.crc, new Map()];
      else if (position < latest) cause ||= 'records out of order';
      latest = Math.max(latest, position);
    }
  }
  const joined = joinRing(frames, inOrder, crc);
  const others = new Map([...[...joined].map(([at, line]) => [at, line.event]), ...batch, ...behind]);
  let [committed, last] = [inOrder, inOrder];
  while (others.has(last + 1)) if (endsBatch(others.get(last += 1))) committed = last;
  if (Math.max(...others.keys()) > last) cause ||= 'records that do not connect';
  return { stored: inOrder, committed, cause, highest, ring: new Map([...joined].filter(([at]) => at <= committed)) };
}

// "Opening". format-binary.md, "Locks": Node cannot ask F_OFD_GETLK, but Linux lists all locks in /proc/locks.
export function openStore(folder) {
  const damage = [];
  const report = (file, what) => damage.push(`${file}: ${what}`);
  const look = (file, parse, limit = 65536) => {
    const bytes = load(`${folder}/${file}`, limit);
    const value = bytes && parse(bytes);
    if (bytes && !value) report(file, 'damaged');
    return value;
  };
  const config = look('hangarlog.json', parseConfig);
  if (!config) refuse('hangarlog.json: missing, damaged, or of a later format');
  const checkpoint = look('checkpoint.json', (bytes) => parseCheckpoint(bytes, config.store_id))?.position ?? 0;
  const ring = load(`${folder}/ring`);
  let begins = 1;
  const log = readLog(folder, 'journal', 'position', report, () => {
    const retained = look('retained.json', (bytes) => parseRetained(bytes, config.store_id));
    if (retained === null) refuse('retained.json: damaged, or of another store');
    return begins = retained?.first_position ?? 1;
  });
  const ours = ringFrames(ring ?? Buffer.alloc(0)).filter((frame) => frame.store === config.store_id);
  const frames = ours.filter((frame) => frame.generation === Math.max(...ours.map((each) => each.generation)));
  const start = Math.max(checkpoint, begins - 1);
  let end = findEnd(log.lines, start, frames);
  if (end.highest < start && checkpoint >= begins) {
    end = { ...findEnd(log.lines, begins - 1, frames), cause: `it ends before the checkpoint's position ${start}` };
  }
  const records = new Map();
  for (const line of log.lines) if (line.event?.position <= end.stored) {
    const path = pathOf(line.event.stream_id);
    records.set(path, [...records.get(path) ?? [], line]);
  }
  const snapshots = new Map();
  for (const path of pathsIn(`${folder}/snapshots`, /\.json$/)) {
    snapshots.set(path, look(`snapshots/${path}.json`, parseSnapshot, 2 ** 27));
  }
  return { folder, config, checkpoint, begins, ring, frames, records, snapshots, damage, report, look, ...log, end };
}
const hidden = (store, path) => store.snapshots.get(path)?.compacted_through ?? -1;
function openStream(store, path) {
  const [folder, name] = [`${store.folder}/streams/${path}`.replace(/\/[^/]*$/, ''), path.replace(/.*\//, '')];
  const report = (file, what) => store.report(`streams/${path}: ${file}`, what);
  return readLog(folder, name, 'stream_version', report, () => hidden(store, path) + 1);
}
const streamPaths = (store) => new Set([...store.records.keys(),
  ...pathsIn(`${store.folder}/streams`, /(\.\d{20})?\.jsonl(\.zst)?$/).filter(isOurs)]);

// "A reader must": every event in the order of the journal; the stream's copy for a damaged or missing one.
export function* read(store) {
  const found = new Map(store.end.ring);
  for (const line of store.lines) if (line.event) found.set(line.event.position, line);
  let copies = null;
  for (let position = store.begins; position <= store.end.committed; position += 1) {
    if (!found.has(position)) {
      copies ??= new Map([...streamPaths(store)].flatMap((path) => openStream(store, path).lines.filter(({ event }) =>
        event && pathOf(event.stream_id) === path).map((line) => [line.event.position, line])));
    }
    const line = found.get(position) ?? copies.get(position);
    if (!line) refuse(`position ${position} is lost: neither copy is whole`);
    if (!line.event.erased) yield line.bytes;
  }
}

// "A verifier must", one function for each row.
function verifyJournal(store, report) {
  const { begins, end: { stored, cause } } = store;
  let [last, damaged, lost, open] = [begins - 1, 0, false, 0];
  const versions = new Map();
  if (!store.active) report('it is missing');
  if (store.foreign) report('a sealed segment is not below the active one');
  if (cause) report(cause);
  for (const { event } of store.lines) {
    if (last >= stored) break;
    const path = event && pathOf(event.stream_id);
    const right = event && event.position > last && event.position <= stored
      && !(event.erased && event.stream_version > hidden(store, path));
    if (!right) {
      damaged += 1;
      report(`${event ? `position ${event.position}` : 'a damaged line'} after position ${last}`);
      continue;
    }
    const { position, stream_version: version, batch_end: end = 0 } = event;
    const say = (what) => report(`position ${position}: ${what}`);
    if (position - last - 1 > damaged) say('those before it are missing');
    if (position > last + 1) [lost, open] = [true, 0];
    if ((open && end !== open) || (end && end < position)) say('its batch_end');
    if (!versions.has(path) && !isStreamId(event.stream_id.replace(/^\$/, ''))) say('no stream id');
    const before = versions.get(path) ?? -1;
    if (version <= before || (version > (versions.get(path) ?? hidden(store, path)) + 1 && !lost)) say('its version');
    versions.set(path, Math.max(version, before));
    [last, damaged, open] = [position, 0, end > position ? end : 0];
  }
  if (stored - last > damaged || open > stored) report('it ends too early');
}
function verifyStream(store, path, report) {
  const [{ active, lines, foreign }, ours] = [openStream(store, path), store.records.get(path) ?? []];
  const through = hidden(store, path);
  const whole = ours.filter(({ event }) => !event.erased);
  const known = new Map(whole.map(({ event }) => [event.stream_version, event.crc]));
  const due = Math.max(-1, ...ours.filter(({ event }) => event.position <= store.checkpoint)
    .map(({ event }) => event.stream_version));
  let [last, highest, damaged, tail] = [through, -1, 0, []];
  for (const line of lines) {
    const { event } = line;
    const version = event?.stream_version;
    if (!event || (event.erased && version > through)) {
      damaged += 1;
      tail.push(!line.isSealed && isTorn(line));
      continue;
    }
    const isOther = pathOf(event.stream_id) !== path;
    if (!isOther) highest = Math.max(highest, version);
    if (event.position <= store.end.stored) {
      if (tail.length) report('a damaged line');
      tail = [];
      if (isOther) {
        damaged += 1;
        report('a record of another stream');
        continue;
      }
      if (version <= through) continue;
      if (version <= last || version - last - 1 > damaged) report(`version ${version} after ${last}`);
      if (known.get(version) !== event.crc) report(`version ${version} differs from the journal's`);
      [last, damaged] = [Math.max(version, last), 0];
    }
  }
  if (tail.length && (highest < due || !tail.every(Boolean))) report('damage at its end');
  if (highest < due || (due >= 0 && !active)) report(`it ends before version ${due}`);
  if (foreign && (active || !ours.length)) report('a sealed segment without an active one, or not below it');
  return Math.max(highest, ...ours.map(({ event }) => event.stream_version));
}
function verifyOthers(store, ends, crcs) {
  const { folder, config, look, report, ring, frames, end: { stored, committed } } = store;
  for (const [path, snapshot] of store.snapshots) {
    if (!snapshot) continue;
    const [last, say] = [ends.get(path) ?? -1, (what) => report(`snapshots/${path}.json`, what)];
    if (pathOf(snapshot.stream_id) !== path) say('the file of another stream');
    if (snapshot.deleted_through >= 0 && !fs.existsSync(`${folder}/deleted/${path}`)) say('no file in deleted/');
    const begun = last >= 0 || snapshot.version >= 0 || snapshot.saved_at;
    if (snapshot.compacted_through > last && begun && !config.archive) say('it hides more than there is');
  }
  if (store.checkpoint > stored) report('checkpoint.json', 'beyond the committed position');
  if (ring && ring.length !== 2 ** 20) report('ring', 'another size than 1 MiB');
  for (const [i, { first, block, lines }] of frames.entries()) {
    if (i && frames[i - 1].next !== block) report('ring', `block ${frames[i - 1].next} begins no frame`);
    for (const [place, { bytes }] of lines.entries()) {
      const crc = crcs.get(first + place);
      if (crc && crc !== parseLine(bytes)?.crc) report('ring', `position ${first + place} differs`);
    }
  }
  const cursors = look('cursors.jsonl', (bytes) => parseCursors(bytes, stored, (tip) => crcs.get(tip)), 2 ** 24);
  for (const what of cursors?.problems ?? []) report('cursors.jsonl', what);
  for (const path of pathsIn(`${folder}/projections`, /\.json$/)) {
    const value = look(`projections/${path}.json`, parseFile, 2 ** 30);
    const right = isText(value?.projection) && pathPart(value.projection) === path && value.position <= committed
      && hasAll('generation position', isInt, value) && hasAll('event_id saved_at', isText, value)
      && Number.isInteger(value.version) && 'state' in value;
    if (value && !right) report(`projections/${path}.json`, 'of another projection, or beyond the committed position');
  }
}
export function verify(folder) {
  const store = openStore(folder);
  verifyJournal(store, (what) => store.report('journal', what));
  const ends = new Map();
  for (const path of streamPaths(store)) {
    ends.set(path, verifyStream(store, path, (what) => store.report(`streams/${path}.jsonl`, what)));
  }
  const whole = store.lines.filter(({ event }) => event && !event.erased && event.position <= store.end.stored);
  verifyOthers(store, ends, new Map(whole.map(({ event }) => [event.position, event.crc])));
  return [...new Set(store.damage)];
}

function uuid7() {
  const hex = Date.now().toString(16).padStart(12, '0') + randomBytes(10).toString('hex');
  return hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})/, '$1-$2-7$3-a$4-');
}
// "A writer must", "To a closed store". It refuses whatever is not sure, before it changes anything.
export function append(folder, id, type, json) {
  const store = openStore(folder);
  const { config, end: { committed, cause, ring } } = store;
  const lock = new RegExp(`OFDLCK.*:${fs.statSync(folder).ino} `);
  if (lock.test(fs.readFileSync('/proc/locks', 'latin1'))) refuse('a process takes part in the store');
  if (config.archive) refuse('an archive takes no appends');
  if (!isStreamId(id)) refuse(`${JSON.stringify(id)} is no stream id`);
  const state = load(`${folder}/state`);
  const claims = state?.length === 4096 && state.readBigUInt64LE(0) === 0x3545544154534c48n
    ? [state.readBigUInt64LE(24), state.readBigUInt64LE(96)] : [];
  const ahead = [...streamPaths(store)].some((path) =>
    openStream(store, path).lines.some(({ event }) => event?.position > committed));
  if (cause || ring.size || !store.active || ahead || claims.some((position) => position > committed)) {
    refuse('it needs a recovery: open the store once with hangarlog');
  }
  if (!type) refuse('the type is empty');
  const path = pathOf(id);
  const { lines } = openStream(store, path);
  if (store.snapshots.get(path) === null) refuse('the snapshot file is damaged');
  if (store.snapshots.get(path)?.tombstone) refuse('the stream was deleted for good');
  const lastOf = (log) => log.findLastIndex(({ event }) => event?.position <= committed);
  const [inJournal, inStream] = [lastOf(store.lines), lastOf(lines)];
  const damaged = lines.slice(inStream + 1).some((line) => !line.event && (line.isSealed || !isTorn(line)));
  if (damaged) refuse("the end of the stream's file is damaged: open the store once with hangarlog");
  const ours = store.records.get(path) ?? [];
  const known = Math.max(lines[inStream]?.event.stream_version ?? -1, hidden(store, path));
  const envelope = JSON.stringify({ position: committed + 1, stream_id: id,
    stream_version: Math.max(ours.at(-1)?.event.stream_version ?? -1, known) + 1, event_type: type,
    event_id: uuid7(), recorded_at: `${new Date().toISOString().slice(0, -1)}000Z` });
  const line = Buffer.from(withCrc(`${envelope.slice(0, -1)},"data":${normalise(Buffer.from(json), null)}`));
  const event = parseLine(line) ?? refuse('the payload must be an object, within the limits');
  const endOf = (one) => (one && !one.isSealed ? one.end : 0);
  const ends = { 'journal.jsonl': endOf(store.lines[inJournal]), [`streams/${path}.jsonl`]: endOf(lines[inStream]) };
  if (Math.max(...Object.values(ends)) >= config.segment_bytes) refuse('a segment is full: it must be rolled first');
  const lacking = ours.filter((one) => !one.event.erased && one.event.stream_version > known).map(({ bytes }) => bytes);
  const mode = parseInt(config.mode ?? '0600', 8);
  for (const [file, end] of Object.entries(ends)) {
    fs.mkdirSync(`${folder}/${file}`.replace(/\/[^/]*$/, ''), { recursive: true, mode: mode | ((mode & 0o444) >> 2) });
    const handle = fs.openSync(`${folder}/${file}`, fs.constants.O_RDWR | fs.constants.O_CREAT, mode);
    const added = file === 'journal.jsonl' ? [line] : [...lacking, line];
    fs.ftruncateSync(handle, end);
    fs.fsyncSync(handle);
    fs.writeSync(handle, Buffer.concat(added.map((each) => Buffer.concat([each, Buffer.from('\n')]))), 0, null, end);
    fs.fsyncSync(handle);
    fs.closeSync(handle);
  }
  return `${event.position} ${event.stream_version}`;
}

export function run([command, folder, ...rest], out, err) {  // the exit code
  if ({ read: 0, verify: 0, append: 3 }[command] !== rest.length || folder === undefined) {
    err('usage: second_implementation.mjs read STORE | verify STORE | append STORE STREAM_ID TYPE JSON');
    return 2;
  }
  try {
    if (command === 'append') out(append(folder, ...rest));
    if (command === 'read') for (const line of read(openStore(folder))) out(line);
    const damage = command === 'verify' ? verify(folder) : [];
    damage.forEach(out);
    return damage.length ? 1 : 0;
  } catch (error) {
    (command === 'verify' ? out : err)(error.message);
    return 1;
  }
}
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const to = (number) => (text) => fs.writeSync(number, Buffer.concat([Buffer.from(text), Buffer.from('\n')]));
  process.exitCode = run(process.argv.slice(2), to(1), to(2));
}

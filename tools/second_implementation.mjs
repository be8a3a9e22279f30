// A second implementation of the store's format 1: reader, verifier and writer. It was made from docs/format.md and
// docs/format-binary.md alone, by somebody who had not seen hangarlog's source; the quoted titles are theirs. It leaves
// out the caches, and writing beside others. It needs Node 20.15 and, for compressed segments, the program `zstd`.
// To run it: node tools/second_implementation.mjs verify STORE
import { spawnSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import fs from 'node:fs';
import { basename, dirname } from 'node:path';
import { crc32 } from 'node:zlib';

const refuse = (what) => { throw new Error(what); };
const latin1 = (bytes) => bytes.toString('latin1');
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const like = (pattern) => (value) => typeof value === 'string' && pattern.test(value);
const int = (low, high = 2 ** 53 - 1) => (value) => Number.isInteger(value) && value >= low && value <= high;
// The kinds of values in the pages' tables of keys. A table here is a text: `key:kind`, with `?` if it may be absent.
const KINDS = { text: like(/^/), object: isObject, any: () => true, flag: (value) => typeof value === 'boolean',
  one: int(1, 1), count: int(0), position: int(1), version: int(-1), long: int(0, 2 ** 63), size: int(1, 2 ** 31),
  id: like(/^[A-Za-z0-9-]{1,64}$/), mode: like(/^06[046][04]$/), move: (its) => fit(its, 'name:text position:count'),
  time: (text) => like(/^(?!0000)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)(text)
    && new Date(`${text.slice(0, 23)}Z`).toJSON() === `${text.slice(0, 23)}Z` };
const fit = (value, table, isRight = () => true) => (isObject(value) && table.split(' ').every((each) => {
  const [key, kind, optional] = each.split(/[:?]/);
  return (optional === '' && value[key] === undefined) || KINDS[kind](value[key]);
}) && isRight(value) ? value : null);

// "A line", "Limits", "JSON files": an object, or null. JSON.parse takes repeated keys, halves of surrogate pairs, and
// 1.0 for an integer: so a number with a point or an exponent becomes a text here.
const TOKEN = /("(?:[^"\\]+|\\.)*")(\s*:)?|([{[])|([\]}])|-?\d[\d.eE+-]*/g;
function parseJson(bytes, strict = true, levels = Infinity) {
  const scopes = [];
  const checked = (token, string, colon, open, close) => {
    const [text, isReal] = [string ? JSON.parse(string) : '', /^-?\d+[.eE]/.test(token)];
    if (open) scopes.push(new Set()); else if (close) scopes.pop();
    const isStrict = scopes.length <= levels && !(colon && scopes.at(-1).has(text))
      && (isReal ? Number.isFinite(Number(token)) : !/^-?\d{4301}/.test(token));
    if (!text.isWellFormed() || (strict && !isStrict)) refuse(token);
    if (colon) scopes.at(-1).add(text);
    return isReal ? '"real"' : token;
  };
  try {
    const text = new TextDecoder('utf-8', { fatal: strict, ignoreBOM: true }).decode(bytes);
    return isObject(JSON.parse(text)) ? JSON.parse(text.replace(TOKEN, checked)) : null;
  } catch { return null; }
}
const signature = (body, more = '') => `,"crc":"${crc32(more, crc32(body)).toString(16).padStart(8, '0')}"}`;
const isSigned = (bytes, more) => latin1(bytes.subarray(-18)) === signature(bytes.subarray(0, -18), more);
const parseChecked = (bytes, ...how) => (isSigned(bytes) ? parseJson(bytes, ...how) : null);  // "With a checksum"
const trimmed = (bytes, end) => bytes.subarray(0, latin1(bytes).search(end));
const parseFile = (bytes, strict) => parseChecked(trimmed(bytes, /\n?$/), strict);

// "What a line must be"; if it isn't strict, "A line that keeps its place". "Erased lines" get the key `erased`.
const LINE = 'position:position stream_id:text stream_version:count event_type:text event_id:text recorded_at:text '
  + 'metadata:any batch_end:count? cursor:any data:object crc:text';
const ORDER = ['name', ...LINE.match(/\w+(?=:)/g)];  // of the keys of a line, and of the cursor in it
export function parseLine(bytes, strict = true) {
  if (bytes.length < 64 || bytes.length >= 2 ** 28 || !/^{"position":.*}.{17}}$/s.test(latin1(bytes))) return null;
  const event = fit(parseChecked(bytes, strict, 129), LINE);
  if (!event || !strict) return event;
  const { metadata = {}, cursor } = event;
  if (!fit({ ...event, metadata: metadata ?? {} }, 'recorded_at:time metadata:object cursor:move?')) return null;
  if (metadata !== null) return event;
  const tabs = /"metadata":(\t*)null/.exec(latin1(bytes))?.[1];
  const bare = JSON.stringify({ ...event, event_type: '', cursor: tabs ? cursor : undefined, data: {} }, ORDER);
  const isErased = bytes.equals(Buffer.from(bare.replace('"metadata":null', `"metadata":${tabs}null`)));
  return isErased ? { ...event, erased: true } : null;
}
// "Split files at \n only." A line has the keys of its event, if it counts; `whole`: it is a record, or erased.
function* linesOf(text, sealed = false) {
  for (let start = 0, end; start < text.length; start = end) {
    end = text.indexOf(10, start) + 1 || text.length;
    const ended = text[end - 1] === 10;
    const bytes = text.subarray(start, ended ? end - 1 : end);
    const event = ended ? parseLine(bytes) : null;
    const counted = event ?? (ended ? parseLine(bytes, false) : null);
    const path = counted && pathOf(counted.stream_id);
    yield { ...counted, bytes, end, ended, sealed, path, whole: event !== null, erased: event?.erased === true };
  }
}
const isTorn = ({ bytes, ended, sealed }) => !sealed && (!/[^\t-\r ]/.test(latin1(bytes)) || bytes.includes(0)
  || (!ended && '{"position":'.startsWith(latin1(bytes.subarray(0, 12)))));  // "The end of a log"

// "Stream ids", "Its path".
export const isStreamId = (id) => id.isWellFormed() && Buffer.byteLength(id) <= 1024 && !/[\0-\x1f\x7f-\x9f]/.test(id)
  && /[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/.test(id)
  && !/^([$/\\]|[A-Za-z]:[/\\])|(^|[/\\:])\.\.?([/\\:]|$)|^:|^[^:]*:$/.test(id);
const percent = (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
function pathPart(part) {
  const name = latin1(Buffer.from(part)).replace(/[^a-z0-9_-]/g, percent)
    .replace(/^(?=(con|prn|aux|nul|com\d|lpt\d)$)./, percent);
  if (name.length <= 200) return name;
  return `${name.slice(0, 120).replace(/%.?$/, '')}~${createHash('sha256').update(part).digest('hex')}`;
}
export const pathOf = (id) => id.split(/(?<=^[^:]*):/).map(pathPart).join('/');
const idOf = (path) => Buffer.from(unescape(path.replace('/', ':')), 'latin1').toString();
const isOurs = (path) => path.includes('~') || (isStreamId(idOf(path)) && pathOf(idOf(path)) === path);

// "Files", "Segments". A symbolic link is not followed.
function isThere(path, kind) {
  const status = fs.lstatSync(path, { throwIfNoEntry: false });
  return status && (status[kind]() || refuse(`${path}: not what must be there`));
}
const load = (file) => (isThere(file, 'isFile') ? fs.readFileSync(file) : undefined);
const list = (folder, recursive) => (isThere(folder, 'isDirectory') ? fs.readdirSync(folder, { recursive }) : []);
const pathsIn = (folder, ending) => list(folder, true).filter((path) => ending.test(path) && path.split('/').length < 3)
  .map((path) => path.replace(ending, ''));
export function segmentName(file) {
  const [, log, digits] = /^(.+)\.(\d{20})\.jsonl(?:\.zst)?$/s.exec(file) ?? [];
  return Number(digits) < 2 ** 53 ? { log, first: Number(digits) } : null;
}
// format-binary.md, "Compressed segments": the tables are right if the bytes are those that the numbers in them give.
const ints = (...numbers) => Buffer.from(Uint32Array.from(numbers).buffer);
function unpack(packed, first, report) {
  const n = packed.length < 57 ? 0 : packed.readUInt32LE(packed.length - 9) - 1;
  const p = packed.length - 53 - 12 * n;
  const words = (at, count) => Array.from({ length: p > 0 ? count : 0 }, (_, i) => packed.readUInt32LE(at + 4 * i));
  const [counts, pairs] = [words(p + 24, n), words(p + 36 + 4 * n, 2 * n)];
  const body = Buffer.concat([Buffer.from('HLFRAMES'), ints(first % 2 ** 32, first / 2 ** 32, ...counts)]);
  const tables = Buffer.concat([ints(0x184d2a57, 20 + 4 * n), body, ints(crc32(ints(...pairs), crc32(body)), 0x184d2a5e,
    8 * n + 17, ...pairs, 28 + 4 * n, 0, n + 1), Buffer.alloc(1), ints(0x8f92eab1)]);
  let at = 0;
  let frames = counts.map((count, i) => (
    { count, size: pairs[2 * i + 1], input: packed.subarray(at, at += pairs[2 * i]) }));
  if (at !== p || !packed.subarray(p).equals(tables) || frames.some(({ count, size }) => !count || count > size / 64)) {
    report('its tables are damaged');
    frames = [{ count: 1, input: packed }];
  }
  return Buffer.concat(frames.flatMap(({ count, size, input }) => {
    const { status, stdout, error } = spawnSync('zstd', ['-dcq'], { input, maxBuffer: 2 ** 32 });
    const lines = latin1(stdout ?? refuse(`zstd cannot be run: ${error.message}`)).split('\n');
    const isSame = stdout.length === size && lines.length === count + 1 && lines.at(-1) === '';
    if (status === 0 && (isSame || size === undefined)) return stdout;
    report('a damaged frame');
    return [size ? Buffer.alloc(0) : stdout, Buffer.from('?\n'.repeat(count))];
  }));
}

// "hangarlog.json", "retained.json", "checkpoint.json", "Snapshots and hidden events", "Cursors": null for damage.
export const parseConfig = (bytes) => fit(parseJson(bytes),
  'format:one store_id:id created_at:text segment_bytes:size mode:mode? archive:flag?');
export const parseRetained = (bytes, storeId) => fit(parseFile(bytes),
  'retained:one store_id:id first_position:position', (value) => value.store_id === storeId);
export function parseCheckpoint(bytes, storeId) {
  const table = 'position:long? first:long? end:long? mark:long? line_crc:text? store:text? format:long?';
  const value = fit(parseFile(bytes, false), table);
  return value && { position: value.store === storeId && (value.format ?? 1) === 1 ? value.position ?? 0 : 0 };
}
export function parseSnapshot(bytes) {
  const absent = { version: -1, compacted_through: -1, deleted_through: -1, number: 0 };
  const one = (part) => fit({ ...absent, ...parseChecked(trimmed(part, /(?<![ \n])[ \n]*$/)) },
    'stream_id:text version:version compacted_through:version deleted_through:version number:count',
    ({ version, state }) => version < 0 || isObject(state));
  const half = bytes.length / 2;
  const halves = half % 4096 ? [] : [bytes.subarray(0, half), bytes.subarray(half)].map(one).filter(Boolean);
  return halves.sort((a, b) => b.number - a.number)[0] ?? one(bytes);
}
export function parseCursors(bytes, committed, crcAt = () => undefined) {
  const [cursors, problems] = [Object.create(null), []];
  for (let at = 0; at < bytes.length; at += 1024) {
    const texts = [at, at + 512].map((start) => trimmed(bytes.subarray(start, start + 512), /[\0\n ]*$/));
    const lines = texts.map((text) => fit(parseChecked(text, false), 'cursor:text position:count moved_at:text '
      + 'move:count tip:count? created:count? appended:count?')).filter(Boolean).sort((a, b) => b.move - a.move);
    if (texts.every((text) => text.length) && lines.length < 2) problems.push(`a damaged line at ${at}`);
    const isTwice = lines.some(({ cursor }) => cursor !== lines[0].cursor || cursor in cursors);
    if (isTwice) problems.push(`two cursors, or one that comes twice, at ${at}`);
    const { cursor, position, tip = 0, tip_crc: crc = '' } = lines.find((line) => !(line.appended > committed)) ?? {};
    const isOther = crc === 'unknown' || crc !== (tip ? crcAt(tip) ?? crc : '');
    if (tip <= committed && isOther) problems.push(`another record is the tip at ${at}`);
    if (cursor !== undefined) cursors[cursor] = Math.min(position, committed);
  }
  return { cursors, problems };
}

// format-binary.md, "The commit ring": its whole frames.
export function ringFrames(ring) {
  const [frames, size] = [[], Math.min(ring.length, 2 ** 20)];
  for (let block = 0; block * 4096 < size; block = Math.max(block + 1, frames.at(-1)?.next ?? 0)) {
    const start = ring.indexOf(10, block * 4096) + 1;
    const header = ring.subarray(block * 4096, start && start - 1);
    const frame = header[0] === 0x1e && header.length < 512
      ? fit(parseJson(header.subarray(1)), 'generation:count first:position last:position length:count') : null;
    const text = ring.subarray(start, Math.min(start + frame?.length, size));
    if (text.length !== frame?.length || !isSigned(header, text)) continue;
    if (frame.ring > 1) refuse('ring: a later format: upgrade');
    frames.push({ ...frame, block, next: Math.ceil((start + text.length) / 4096), lines: [...linesOf(text)] });
  }
  return frames;
}
// "What is committed", by the journal's lines in order (`stored`), and with those of the ring.
const endsBatch = ({ position, batch_end: end }) => !end || end === position;
function findEnd(lines, known, frames) {
  let [stored, reached, latest, room, cause, batch] = [known, known, known, 0, '', new Map()];
  const [behind, joined] = [new Map(), new Map()];
  for (const line of lines) {
    const { position } = line;
    if (!position) {
      room += 1 + (line.ended ? Math.floor(line.bytes.length / 64) : 0);
      if (!isTorn(line)) cause ||= 'damage at its end';
    } else if (position <= stored) [room, cause] = [0, ''];
    else {
      const follows = position > reached && position <= reached + 1 + (cause ? room : 0);
      (follows ? batch : behind).set(position, line);
      if (follows && endsBatch(line)) [stored, room, cause, batch] = [position, 0, '', new Map()];
      else if (position < latest) cause ||= 'records out of order';
      [reached, latest] = [follows ? position : reached, Math.max(latest, position)];
    }
  }
  const skipped = new Set();
  const crc = lines.findLast(({ position }) => position === stored)?.crc;
  for (const { first, after, lines: more } of frames.toSorted((a, b) => a.first - b.first)) {  // "Joining"
    const before = joined.get(first - 1)?.crc ?? (first === stored + 1 ? crc : '');
    const isOther = after && (skipped.has(after) || (before && before !== after));
    if (isOther) more.forEach((line) => skipped.add(line.crc));
    const fits = ({ whole, position }, i) => !isOther && whole && position === first + i && position > stored;
    more.filter(fits).forEach((line) => joined.set(line.position, line));
  }
  const others = new Map([...behind, ...batch, ...joined]);
  let [committed, last] = [stored, stored];
  while (others.has(last + 1)) if (endsBatch(others.get(last += 1))) committed = last;
  if ([...others.keys()].some((position) => position > last)) cause ||= 'records that do not connect';
  return { stored, committed, cause, others };
}

// "Opening", then what can be done with the store.
export function openStore(root) {
  const damage = new Set();
  const report = (file, ...problems) => problems.forEach((what) => what && damage.add(`${file}: ${what}`));
  function look(file, parse, limit = 65536) {  // undefined: no file, null: a damaged one
    const bytes = load(`${root}/${file}`);
    const value = bytes && (bytes.length <= limit ? parse(bytes) : null);
    report(file, value === null && 'damaged');
    return value;
  }
  // The lines of a log. `foreign`: a sealed segment is not below the active one. `getFrom`: see "Opening", 3 and 5.
  function readLog(path, key, getFrom, tries = 9) {
    const [folder, name, active] = [dirname(`${root}/${path}`), basename(path), load(`${root}/${path}.jsonl`)];
    const files = list(folder).filter((file) => segmentName(file)?.log === name).sort().reverse();  // after `active`
    const segments = new Map(files.map((file) => [segmentName(file).first, file]));  // of two, the plain one
    const from = getFrom();  // after the list: see "retained.json"
    const least = key === 'position' || segments.has(from) ? from : 0;
    const sealed = [...segments].reverse().filter(([number]) => number >= least).map(([number, file]) => {
      const bytes = load(`${folder}/${file}`) ?? refuse(`${file}: it went away meanwhile`);
      const text = file.endsWith('.zst') ? unpack(bytes, number, (what) => report(`${path}: ${file}`, what)) : bytes;
      const lines = [...linesOf(text, true)];
      report(path, lines[0]?.whole && lines[0][key] !== number && `${file} begins with ${lines[0][key]}`);
      return { number, text, lines };
    });
    const last = active ? [...linesOf(active)] : [];
    const below = sealed.filter(({ number }) => !last[0]?.whole || number < last[0][key]);
    const rest = sealed.slice(active ? below.length : 0);
    const foreign = rest.some(({ text, lines }) => lines[0]?.whole && !active?.equals(text));
    if (foreign && tries) return readLog(path, key, getFrom, tries - 1);  // was one sealed just now?
    return { active, from, foreign, lines: below.flatMap(({ lines }) => lines).concat(last) };
  }
  const config = look('hangarlog.json', parseConfig) ?? refuse('hangarlog.json: missing, damaged, or a later format');
  const checkpoint = look('checkpoint.json', (bytes) => parseCheckpoint(bytes, config.store_id))?.position ?? 0;
  const { active, foreign, lines, from: begins } = readLog('journal', 'position', () => {
    const retained = look('retained.json', (bytes) => parseRetained(bytes, config.store_id));
    return retained === null ? refuse('retained.json: damaged, or of another store') : retained?.first_position ?? 1;
  });
  const ring = load(`${root}/ring`);
  const ours = ringFrames(ring ?? Buffer.alloc(0)).filter(({ store }) => store === config.store_id);
  const frames = ours.filter(({ generation }) => ours.every((other) => other.generation <= generation));
  const isShort = checkpoint >= begins && !lines.some(({ position }) => position >= checkpoint);
  const { stored, committed, others, ...end } = findEnd(lines, Math.max(begins - 1, isShort ? 0 : checkpoint), frames);
  const cause = isShort ? `it ends before the checkpoint's position ${checkpoint}` : end.cause;
  const stop = lines.findIndex(({ position }) => position === stored) + 1 || lines.length;
  const journal = stored < begins ? [] : lines.slice(0, stop);  // what a verifier checks
  const [found, records] = [new Map(others), new Map()];  // lines by position; those of each stream
  const recordsOf = (path) => records.get(path) ?? records.set(path, []).get(path);
  for (const line of journal.filter(({ whole }) => whole)) {
    found.set(line.position, line);
    recordsOf(line.path).push(line);
  }
  const snapshots = new Map(pathsIn(`${root}/snapshots`, /\.json$/).map((path) =>
    [path, look(`snapshots/${path}.json`, parseSnapshot, 2 ** 27)]));
  const hidden = (path) => snapshots.get(path)?.compacted_through ?? -1;
  const isRight = (line) => line.whole && !(line.erased && line.stream_version > hidden(line.path));
  const stream = (path) => readLog(`streams/${path}`, 'stream_version', () => hidden(path) + 1);
  const streamPaths = () => [...new Set([...records.keys(),
    ...pathsIn(`${root}/streams`, /(\.\d{20})?\.jsonl(\.zst)?$/).filter(isOurs)])];

  function* read() {  // "A reader must": the journal's order; the stream's copy for a damaged or missing event
    let copies;
    for (let position = begins; position <= committed; position += 1) {
      if (!found.get(position)?.whole) {
        copies ??= new Map(streamPaths().flatMap((path) => stream(path).lines.filter((copy) =>
          copy.whole && copy.path === path).map((copy) => [copy.position, copy])));
        found.set(position, copies.get(position) ?? refuse(`position ${position} is lost: neither copy is whole`));
      }
      if (!found.get(position).erased) yield found.get(position).bytes;
    }
  }

  // "A verifier must".
  function verifyJournal() {
    let [last, batch] = [begins - 1, 0];
    report('journal', !active && 'it is missing', foreign && 'a sealed segment is not below the active one', cause);
    journal.forEach((line, i) => report('journal', !isRight(line) && `line ${i + 1} is damaged`));
    for (const { position, batch_end: end = 0 } of journal.filter(isRight)) {
      report('journal', position !== last + 1 && `position ${position} after ${last}`,
        (batch ? end !== batch : end && end < position) && `position ${position}: its batch_end`);
      [last, batch] = [Math.max(last, position), end > position ? end : 0];
    }
    report('journal', (last !== stored || batch) && 'it ends too early');
  }
  function verifyStream(path) {
    const [log, own, through, snapshot] = [stream(path), recordsOf(path), hidden(path), snapshots.get(path)];
    const upTo = (some, position) => some.filter((line) => isRight(line) && line.position <= position);
    const shown = (some) => some.filter((line) => line.stream_version > through);
    const lastOf = (some) => some.at(-1)?.stream_version ?? -1;
    const [copies, known, due] = [upTo(log.lines, stored), shown(own), lastOf(upTo(own, checkpoint))];
    const end = log.lines.lastIndexOf(copies.at(-1));
    const other = shown(copies).find((line, i) => line.crc !== known[i]?.crc);
    const isGap = ({ stream_version: version }, i) =>
      (i ? version !== own[i - 1].stream_version + 1 : version > through + 1);
    log.lines.forEach((line, i) => report(`streams/${path}.jsonl`,
      !isRight(line) && (i < end || !isTorn(line)) && `line ${i + 1} is damaged`));
    report(`streams/${path}.jsonl`, own.some(isGap) && 'the journal lacks one of its versions, or has it twice',
      own.length && !isStreamId(own[0].stream_id.replace(/^\$/, '')) && 'no stream id',
      copies.some((line) => line.path !== path) && 'a record of another stream',
      other && `version ${other.stream_version} is not what the journal has next`,
      (lastOf(copies) < due || (due >= 0 && !log.active)) && `it ends before version ${due}`,
      log.foreign && (log.active || !own.length) && 'a sealed segment is not below the active one');
    const last = Math.max(lastOf(own), lastOf(log.lines.filter((line) => line.whole && line.path === path)));
    report(`snapshots/${path}.json`, snapshot && pathOf(snapshot.stream_id) !== path && 'of another stream',
      snapshot?.deleted_through >= 0 && !fs.existsSync(`${root}/deleted/${path}`) && 'no file in deleted/',
      through > last && !config.archive && (last >= 0 || snapshot.saved_at) && 'it hides more than there is');
  }
  function* verify() {
    verifyJournal();
    new Set([...streamPaths(), ...snapshots.keys()]).forEach(verifyStream);
    const shown = journal.filter(({ whole, erased }) => whole && !erased);
    const crcs = new Map(shown.map(({ position, crc }) => [position, crc]));
    report('checkpoint.json', checkpoint > stored && 'beyond the committed position');
    report('ring', ring && ring.length !== 2 ** 20 && 'another size than 1 MiB');
    frames.forEach(({ first, block, lines: more }, i) => report('ring',
      i && frames[i - 1].next !== block && `block ${frames[i - 1].next} begins no frame`,
      more.some(({ crc }, at) => (crcs.get(first + at) ?? crc) !== crc) && `block ${block} differs from the journal`));
    const cursors = look('cursors.jsonl', (bytes) => parseCursors(bytes, stored, (tip) => crcs.get(tip)), 2 ** 24);
    report('cursors.jsonl', ...cursors?.problems ?? []);
    for (const path of pathsIn(`${root}/projections`, /(?<=^[^.]*)\.json$/)) {
      look(`projections/${path}.json`, (bytes) => fit(parseFile(bytes, false), 'projection:text position:count',
        (value) => pathPart(value.projection) === path && value.position <= committed && 'state' in value), 2 ** 30);
    }
    yield* damage;
    if (damage.size) refuse(`${damage.size} reports of damage`);
  }
  // "A writer must", "To a closed store". It refuses whatever is not sure, before it changes anything.
  function* append(id, type, json) {
    const path = pathOf(id);
    const [own, { lines: copies }, snapshot] = [recordsOf(path), stream(path), snapshots.get(path)];
    const state = load(`${root}/state`);  // format-binary.md, "The shared state"
    const claims = state?.length === 4096 && state.readBigUInt64LE(0) === 0x3545544154534c48n ? [24, 96] : [];
    const isBeyond = ({ whole, position }) => whole && position > committed;
    const isBehind = claims.some((word) => state.readBigUInt64LE(word) > committed)
      || streamPaths().some((each) => stream(each).lines.some(isBeyond));
    const last = copies.findLastIndex((line) => line.whole && !isBeyond(line));
    const tips = [lines.find(({ position }) => position === committed), copies[last]];
    const ends = tips.map((line) => (line && !line.sealed ? line.end : 0));
    const isLocked = new RegExp(`OFDLCK.*:${fs.statSync(root).ino} `);  // format-binary.md, "Locks"
    const obstacles = {
      'a process takes part in the store': isLocked.test(fs.readFileSync('/proc/locks', 'latin1')),
      'it needs a recovery: open the store once with hangarlog':
        cause || committed > stored || isBehind || !active || (!tips[0] && committed >= begins),
      'an archive takes no appends': config.archive, 'it is no stream id': !isStreamId(id), 'the type is empty': !type,
      'the snapshot file is damaged': snapshot === null, 'the stream was deleted for good': snapshot?.tombstone,
      "the stream's file ends in damage, or has another's records: open the store once with hangarlog":
        copies.some((line, i) => (line.whole ? line.path !== path : i > last && !isTorn(line))),
      'a segment is full: it must be rolled first': Math.max(...ends) >= config.segment_bytes,
    };
    for (const [what, is] of Object.entries(obstacles)) if (is) refuse(what);
    JSON.parse(json);
    const known = Math.max(tips[1]?.stream_version ?? -1, hidden(path));
    const version = Math.max(own.at(-1)?.stream_version ?? -1, known) + 1;
    const envelope = JSON.stringify({ position: committed + 1, stream_id: id, stream_version: version, event_type: type,
      event_id: randomUUID(), recorded_at: new Date().toISOString().replace('Z', '000Z') }).slice(0, -1);
    const body = Buffer.from(`${envelope},"data":${json.replace(/("(?:[^"\\]|\\.)*")|\s+/g, '$1')}`);
    const line = Buffer.concat([body, Buffer.from(signature(body))]);
    if (!parseLine(line)) refuse('the payload must be an object, within the limits');
    const lacking = own.filter((one) => !one.erased && one.stream_version > known).map(({ bytes }) => bytes);
    const mode = parseInt(config.mode ?? '0600', 8);
    process.umask(0);  // "The umask takes nothing off."
    [`${root}/journal.jsonl`, `${root}/streams/${path}.jsonl`].forEach((file, i) => {
      const added = (i ? [...lacking, line] : [line]).flatMap((each) => [each, Buffer.from('\n')]);
      fs.mkdirSync(dirname(file), { recursive: true, mode: mode | ((mode & 0o444) >> 2) });
      fs.appendFileSync(file, '', { mode });
      fs.truncateSync(file, ends[i]);
      for (const part of [Buffer.alloc(0), Buffer.concat(added)]) fs.appendFileSync(file, part, { flush: true });
    });
    yield `${committed + 1} ${version}`;
  }
  return { read, verify, append };
}

export function run([command, folder, ...rest], out, err) {  // the exit code
  if (folder === undefined || { read: 0, verify: 0, append: 3 }[command] !== rest.length) {
    err('usage: second_implementation.mjs read STORE | verify STORE | append STORE STREAM_ID TYPE JSON');
    return 2;
  }
  try {
    for (const line of openStore(folder)[command](...rest)) out(line);
    return 0;
  } catch (error) {
    (command === 'verify' ? out : err)(error.message);
    return 1;
  }
}
if (process.argv[1] === import.meta.filename) {
  const to = (number) => (text) => fs.writeSync(number, Buffer.concat([Buffer.from(text), Buffer.from('\n')]));
  process.exitCode = run(process.argv.slice(2), to(1), to(2));
}

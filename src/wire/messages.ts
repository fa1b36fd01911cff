/**
 * Control messages: JSON in UTF-8, one in a control frame, in order. What arrives is checked field by field; unknown fields are
 * ignored, so that a later minor change can add some.
 */
import { type ErrorCode, MigrationError, type Phase } from '../errors.ts';
import type { ByteRange } from '../interfaces/content.ts';
import type { DiskDescription, VmDescription } from '../interfaces/hypervisor.ts';
import type { MemoryRegion } from '../interfaces/memory.ts';
import type { AuditMode, DiskMode, DiskSeed, HandoverMode, MemoryMode } from '../interfaces/migration.ts';
import {
  auditUnitBytesMax,
  auditUnitsMax,
  controlBytesMax,
  deviceStateBytesMax,
  reasonLengthMax,
  streamsMax,
} from './limits.ts';

/** Where a stream ended: what the destination must have applied. */
export interface StreamEnd {
  readonly stream: number;
  /** The last number, which is also the count: numbers have no gaps. */
  readonly last: number;
  readonly digest: string;
}

/** How long parts of something took, in ms, by their names: at most 16 of 32 characters each. Missing is none. */
export type Durations = Readonly<Record<string, number>>;

/** Every control message, with who sends it. */
export type Message =
  /** Source, first: what is to come. `highest` is the highest epoch that the source's register knows. */
  | {
      readonly type: 'prepare';
      readonly vm: VmDescription;
      readonly disks: Readonly<Record<string, DiskMode>>;
      /** `compare`: the destination is to say what is on the disks that are copied. */
      readonly seed: DiskSeed;
      /** `none`: disks alone. */
      readonly memory: MemoryMode;
      /** `one-flight`: FINAL will be GO as well. */
      readonly handover: HandoverMode;
      /** Whether `audit` comes with each FINAL. */
      readonly audit: AuditMode;
      readonly highest: number;
      readonly digestKey: number;
      readonly decideMsMax: number;
      readonly silenceMsMax: number;
      readonly outageMsMax: number;
      /** Codecs that content may be compressed with, those to be preferred first. Missing: none. */
      readonly codecs?: readonly string[];
    }
  /** Source, instead of `prepare`: it measures the link. What comes on the memory's stream is thrown away; `bye` ends it. */
  | { readonly type: 'probe' }
  /** Destination: ready to take it, as attempt `epoch`; with `codec`, one of those that were offered, compressed too. */
  | {
      readonly type: 'prepared';
      readonly epoch: number;
      readonly backend: string;
      readonly codec?: string;
    }
  /** Source, for information: a phase begins. */
  | { readonly type: 'phase'; readonly phase: Phase }
  /** Source: make durable what has arrived so far. Answered by `flushed`. */
  | { readonly type: 'flush'; readonly token: number }
  | {
      readonly type: 'flushed';
      readonly token: number;
      readonly durationMs: number;
      /** What a claim takes at the destination, in ms, where that is known. */
      readonly claimMs?: number;
    }
  /**
   * Source, its guest stunned for the `attempt`th time: nothing more will be sent, unless it retreats; where each stream ends, and whether
   * the guest ran. With `given` it is GO as well, for the attempt of that epoch: no READY is wanted, and there is no retreat any more.
   */
  | {
      readonly type: 'final';
      readonly attempt: number;
      readonly streams: readonly StreamEnd[];
      readonly stateBytes: number;
      /** What of the disks was not sent, for the destination's report. */
      readonly unchangedBytes: number;
      readonly run: boolean;
      readonly given?: number;
    }
  /**
   * Source, guest stunned, everything sent, unless `prepare` said `off`: what units of memory and disks are here. `part` 1 and up, `last` ends it; `of` units that there
   * are in all; the list of some, and a digest of each: see audit-list.ts.
   */
  | {
      readonly type: 'audit';
      readonly attempt: number;
      readonly part: number;
      readonly last: boolean;
      readonly of: number;
      readonly units: string;
      readonly digests: string;
    }
  /** Destination: has compared that part: so many units, their bytes, those of them that were drawn from all; and the list of those that differ. */
  | {
      readonly type: 'audited';
      readonly attempt: number;
      readonly part: number;
      readonly units: number;
      readonly bytes: number;
      readonly drawn: number;
      readonly differing: string;
    }
  /** Destination: all of it is applied, checked, flushed and loaded, and how long each took from FINAL's arrival on. */
  | { readonly type: 'ready'; readonly attempt: number; readonly durations?: Durations }
  /** Destination: it is not, but another attempt may do better. */
  | {
      readonly type: 'notReady';
      readonly attempt: number;
      readonly code: ErrorCode;
      readonly reason: string;
    }
  /** Source: its guest runs on, and more will follow. The device state up to number `stateLast` is of no use. */
  | {
      readonly type: 'retreat';
      readonly attempt: number;
      readonly stateLast: number;
      readonly code: ErrorCode;
      readonly reason: string;
    }
  /** Source, instead of GO: this is all that it wanted to know. */
  | { readonly type: 'rehearsed' }
  /** Source, instead of GO: the disks that came alone are the destination's. Answered by `handedOver`. */
  | { readonly type: 'copied' }
  | { readonly type: 'handedOver' }
  /** Source: the VM is given; decide. */
  | { readonly type: 'go'; readonly epoch: number }
  /** Destination: decided, once and for all; and how long the claim, hooks and the start took, from GO's arrival on. */
  | {
      readonly type: 'decided';
      readonly value: 'owner' | 'declined';
      readonly reason: string;
      readonly durations?: Durations;
    }
  /** Source: the decision has arrived; the migration is over. */
  | { readonly type: 'bye' }
  /** Source, before commit: it is off; the guest stays. */
  | { readonly type: 'abort'; readonly code: ErrorCode; readonly reason: string }
  /** Destination, before it was given the VM: it is off. */
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly reason: string }
  /** On a question connection: who owns? */
  | { readonly type: 'ask'; readonly vmId: string; readonly epoch: number }
  | { readonly type: 'answer'; readonly value: 'owner' | 'declined' | 'pending' };

export type MessageType = Message['type'];
export type MessageOf<T extends MessageType> = Extract<Message, { readonly type: T }>;

/** Cuts a reason that is too long. Throws `incompatible` if the message is too long for the peer: only a VM's description can be. */
export function encodeMessage(message: Message): Uint8Array {
  const fits =
    'reason' in message ? { ...message, reason: message.reason.slice(0, reasonLengthMax) } : message;
  const bytes = new TextEncoder().encode(JSON.stringify(fits));
  if (bytes.byteLength > controlBytesMax) {
    throw new MigrationError(
      'incompatible',
      `a message of type ${message.type} takes ${bytes.byteLength} bytes, the protocol ${controlBytesMax} at most`,
    );
  }
  return bytes;
}

/** Throws `protocol` for anything that is not a message, field by field. */
export function decodeMessage(bytes: Uint8Array): Message {
  if (bytes.byteLength > controlBytesMax) throw bad('message', 'too long');
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw bad('message', 'not JSON');
  }
  const fields = new Fields(value, 'message');
  const type = fields.string('type') as MessageType;
  const read = Object.hasOwn(readers, type) ? readers[type] : undefined;
  if (read === undefined) throw bad('type', 'unknown');
  return read(fields) as Message;
}

function bad(path: string, what: string): MigrationError {
  return new MigrationError('protocol', `a control message is malformed: ${path} is ${what}`);
}

/** Reads the fields of one JSON object, or says which is wrong. */
class Fields {
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #path: string;

  constructor(value: unknown, path: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(path, 'not an object');
    this.#object = value as Record<string, unknown>;
    this.#path = path;
  }

  #get(name: string): unknown {
    return Object.hasOwn(this.#object, name) ? this.#object[name] : undefined;
  }

  #bad(name: string, what: string): MigrationError {
    return bad(`${this.#path}.${name}`, what);
  }

  has(name: string): boolean {
    return this.#get(name) !== undefined;
  }

  string(name: string, lengthMax = 4096): string {
    const value = this.#get(name);
    if (typeof value !== 'string' || value.length > lengthMax)
      throw this.#bad(name, 'not a string of that length');
    return value;
  }

  identifier(name: string): string {
    const value = this.string(name, 255);
    if (value.length === 0) throw this.#bad(name, 'empty');
    return value;
  }

  integer(name: string, min: number, max: number = Number.MAX_SAFE_INTEGER): number {
    const value = this.#get(name);
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
      throw this.#bad(name, 'not an integer in range');
    }
    return value;
  }

  milliseconds(name: string, max = Number.MAX_SAFE_INTEGER): number {
    const value = this.#get(name);
    if (typeof value !== 'number' || !(value >= 0 && value <= max)) throw this.#bad(name, 'not a duration');
    return value;
  }

  boolean(name: string): boolean {
    const value = this.#get(name);
    if (typeof value !== 'boolean') throw this.#bad(name, 'not a boolean');
    return value;
  }

  oneOf<T extends string>(name: string, allowed: readonly T[]): T {
    const value = this.#get(name);
    const found = allowed.find((item) => item === value);
    if (found === undefined) throw this.#bad(name, 'not an allowed value');
    return found;
  }

  object(name: string): Fields {
    return new Fields(this.#get(name), `${this.#path}.${name}`);
  }

  list<T>(name: string, lengthMax: number, read: (fields: Fields) => T): readonly T[] {
    const value = this.#get(name);
    if (!Array.isArray(value) || value.length > lengthMax) throw this.#bad(name, 'not a list of that length');
    return value.map((item, index) => read(new Fields(item, `${this.#path}.${name}[${index}]`)));
  }

  strings(name: string, lengthMax: number, stringLengthMax: number): readonly string[] {
    const value = this.#get(name);
    const isString = (item: unknown) => typeof item === 'string' && item.length <= stringLengthMax;
    if (!Array.isArray(value) || value.length > lengthMax || !value.every(isString)) {
      throw this.#bad(name, 'not a list of such strings');
    }
    return value;
  }

  durations(name: string): { readonly durations?: Durations } {
    if (!this.has(name)) return {};
    const inner = this.object(name);
    const names = Object.keys(inner.#object);
    if (names.length > durationsMax || names.some(({ length }) => length > durationNameLengthMax))
      throw this.#bad(name, 'too long');
    const read = names.map((part) => [part, inner.milliseconds(part, durationMsMax)]);
    return { durations: Object.fromEntries(read) };
  }

  record<T extends string>(name: string, allowed: readonly T[]): Readonly<Record<string, T>> {
    const inner = this.object(name);
    const keys = Object.keys(inner.#object);
    return Object.fromEntries(keys.map((key) => [key, inner.oneOf(key, allowed)]));
  }
}

/** Codecs that a source offers. */
const codecsMax = 16;
const codecNameLengthMax = 32;

/** See {@link Durations}. */
const durationsMax = 16;
const durationNameLengthMax = 32;
const durationMsMax = 1e9;

/** The longest that a policy allows for a decision: an hour ... */
const decideMsMax = 3_600_000;
/** ... for silence, and for an outage. */
const silenceMsMax = 600_000;
const outageMsMax = 86_400_000;

/** Characters of a list of an audit, in base64: of 2048 units in as many groups as there can be, or of their digests. */
const auditListLengthMax = 65_536;

/** What a source can say it begins: before these there is no channel, or no VM; and what is over it does not say here. */
const phases: readonly Phase[] = ['copyDisks', 'copyMemory', 'stun', 'verify', 'handover', 'release'];

function powerOfTwo(value: number, path: string): number {
  if (!Number.isInteger(Math.log2(value))) throw bad(path, 'not a power of two');
  return value;
}

function readRegion(fields: Fields): MemoryRegion {
  const pageBytes = powerOfTwo(fields.integer('pageBytes', 512, 1 << 30), 'pageBytes');
  const sizeBytes = fields.integer('sizeBytes', 1);
  if (sizeBytes % pageBytes !== 0) throw bad('sizeBytes', 'not a multiple of the page size');
  return { name: fields.identifier('name'), sizeBytes, pageBytes };
}

function readDisk(fields: Fields): DiskDescription {
  return {
    id: fields.identifier('id'),
    sizeBytes: fields.integer('sizeBytes', 0),
    blockBytes: powerOfTwo(fields.integer('blockBytes', 1, 1 << 26), 'blockBytes'),
    readOnly: fields.boolean('readOnly'),
    ...(fields.has('allocatedBytes') ? { allocatedBytes: fields.integer('allocatedBytes', 0) } : {}),
  };
}

function readVm(fields: Fields): VmDescription {
  return {
    vmId: fields.identifier('vmId'),
    name: fields.string('name'),
    machine: fields.string('machine'),
    cpus: fields.integer('cpus', 1, 1 << 20),
    memory: fields.list('memory', 4096, readRegion),
    disks: fields.list('disks', streamsMax - 2, readDisk),
    deviceStateFormat: fields.string('deviceStateFormat'),
  };
}

function readStreamEnd(fields: Fields): StreamEnd {
  return {
    stream: fields.integer('stream', 0, streamsMax - 1),
    last: fields.integer('last', 0),
    digest: fields.string('digest', 16),
  };
}

/** The most that a policy allows. */
const attemptsMax = 100;

function readAttempt(fields: Fields): number {
  return fields.integer('attempt', 1, attemptsMax);
}

function readFailure(fields: Fields): { readonly code: ErrorCode; readonly reason: string } {
  return {
    code: fields.string('code', 64) as ErrorCode,
    reason: fields.string('reason', reasonLengthMax),
  };
}

const readers: { readonly [T in MessageType]: (fields: Fields) => MessageOf<T> } = {
  prepare: (f) => ({
    type: 'prepare',
    vm: readVm(f.object('vm')),
    disks: f.record('disks', ['copy', 'shared', 'leave']),
    seed: f.oneOf('seed', ['none', 'compare']),
    memory: f.oneOf('memory', ['copy', 'none']),
    handover: f.oneOf('handover', ['confirmed', 'one-flight']),
    audit: f.oneOf('audit', ['off', 'sample', 'full']),
    highest: f.integer('highest', 0),
    digestKey: f.integer('digestKey', 0, 0xffff_ffff),
    decideMsMax: f.milliseconds('decideMsMax', decideMsMax),
    silenceMsMax: f.integer('silenceMsMax', 1000, silenceMsMax),
    outageMsMax: f.integer('outageMsMax', 0, outageMsMax),
    ...(f.has('codecs') ? { codecs: f.strings('codecs', codecsMax, codecNameLengthMax) } : {}),
  }),
  prepared: (f) => ({
    type: 'prepared',
    epoch: f.integer('epoch', 1),
    backend: f.string('backend'),
    ...(f.has('codec') ? { codec: f.string('codec', codecNameLengthMax) } : {}),
  }),
  probe: () => ({ type: 'probe' }),
  phase: (f) => ({ type: 'phase', phase: f.oneOf('phase', phases) }),
  flush: (f) => ({ type: 'flush', token: f.integer('token', 0) }),
  flushed: (f) => ({
    type: 'flushed',
    token: f.integer('token', 0),
    durationMs: f.milliseconds('durationMs'),
    ...(f.has('claimMs') ? { claimMs: f.milliseconds('claimMs') } : {}),
  }),
  final: (f) => ({
    type: 'final',
    attempt: readAttempt(f),
    streams: f.list('streams', streamsMax, readStreamEnd),
    stateBytes: f.integer('stateBytes', 0, deviceStateBytesMax),
    unchangedBytes: f.integer('unchangedBytes', 0),
    run: f.boolean('run'),
    ...(f.has('given') ? { given: f.integer('given', 1) } : {}),
  }),
  ready: (f) => ({ type: 'ready', attempt: readAttempt(f), ...f.durations('durations') }),
  audit: (f) => ({
    type: 'audit',
    attempt: readAttempt(f),
    part: f.integer('part', 1),
    last: f.boolean('last'),
    of: f.integer('of', 0),
    units: f.string('units', auditListLengthMax),
    digests: f.string('digests', auditListLengthMax),
  }),
  audited: (f) => ({
    type: 'audited',
    attempt: readAttempt(f),
    part: f.integer('part', 1),
    units: f.integer('units', 0, auditUnitsMax),
    bytes: f.integer('bytes', 0, auditUnitsMax * auditUnitBytesMax),
    drawn: f.integer('drawn', 0, auditUnitsMax),
    differing: f.string('differing', auditListLengthMax),
  }),
  notReady: (f) => ({ type: 'notReady', attempt: readAttempt(f), ...readFailure(f) }),
  retreat: (f) => ({
    type: 'retreat',
    attempt: readAttempt(f),
    stateLast: f.integer('stateLast', 0),
    ...readFailure(f),
  }),
  rehearsed: () => ({ type: 'rehearsed' }),
  copied: () => ({ type: 'copied' }),
  handedOver: () => ({ type: 'handedOver' }),
  go: (f) => ({ type: 'go', epoch: f.integer('epoch', 1) }),
  decided: (f) => ({
    type: 'decided',
    value: f.oneOf('value', ['owner', 'declined']),
    reason: f.string('reason', reasonLengthMax),
    ...f.durations('durations'),
  }),
  bye: () => ({ type: 'bye' }),
  abort: (f) => ({ type: 'abort', ...readFailure(f) }),
  failed: (f) => ({ type: 'failed', ...readFailure(f) }),
  ask: (f) => ({ type: 'ask', vmId: f.identifier('vmId'), epoch: f.integer('epoch', 1) }),
  answer: (f) => ({ type: 'answer', value: f.oneOf('value', ['owner', 'declined', 'pending']) }),
};

/**
 * The streams of a channel: device state, memory, then the disks that are copied, in the description's order. Each has the number of its disk also
 * the other way, from destination to source: what the destination says of that disk, if it is to.
 */
export const stateStream = 0;
export const memoryStream = 1;
export const firstDiskStream = 2;

/** Whether a range lies within a space of `sizeBytes`. */
export function fits(range: ByteRange, sizeBytes: number): boolean {
  return range.length <= sizeBytes && range.offset <= sizeBytes - range.length;
}

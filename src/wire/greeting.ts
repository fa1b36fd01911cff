/**
 * The first bytes on every connection, before any frame. The end that dialled speaks first; the other answers once.
 *
 * ```
 * greeting (40 bytes)                            answer (32 bytes)
 *  0  8  "LONGHAUL"                               0  8  "LONGHAUL"
 *  8  2  lowest version spoken                    8  2  version chosen, 0 if none
 * 10  2  highest version spoken                  10  1  status: 0 welcome, 1 version, 2 refused
 * 12  1  purpose: 1 control, 2 data, 3 question  11  1  0
 * 13  1  0                                       12 16  session, repeated
 * 14  2  lane (data: 1, 2, ...; else 0)          28  4  CRC-32C of bytes 0 to 27
 * 16 16  session: chosen by the source, random
 * 32  4  0
 * 36  4  CRC-32C of bytes 0 to 35
 * ```
 */
import { MigrationError } from '../errors.ts';
import { crc32c } from '../util/checksum.ts';
import { connectionsMax } from './limits.ts';

/** The lowest and highest protocol version that this code speaks. */
export const versionMin = 1;
export const versionMax = 1;

export const greetingBytes = 40;
export const answerBytes = 32;
export const sessionBytes = 16;

const magic = new TextEncoder().encode('LONGHAUL');

/** What a connection is for. */
export type Purpose = 'control' | 'data' | 'question';

const purposes: readonly Purpose[] = ['control', 'data', 'question'];

/** The greeting of a dialled connection. */
export interface Greeting {
  readonly versionMin: number;
  readonly versionMax: number;
  readonly purpose: Purpose;
  readonly lane: number;
  readonly session: Uint8Array;
}

/** The answer to a greeting. */
export interface Answer {
  readonly version: number;
  readonly status: 'welcome' | 'version' | 'refused';
  readonly session: Uint8Array;
}

const statuses: readonly Answer['status'][] = ['welcome', 'version', 'refused'];

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function checkFrame(bytes: Uint8Array, length: number): DataView {
  if (bytes.byteLength !== length || !magic.every((byte, index) => bytes[index] === byte)) {
    throw new MigrationError('protocol', 'the peer does not speak this protocol');
  }
  const view = viewOf(bytes);
  if (view.getUint32(length - 4) !== crc32c(bytes.subarray(0, length - 4))) {
    throw new MigrationError('protocol', 'the greeting is damaged');
  }
  return view;
}

export function encodeGreeting(greeting: Greeting): Uint8Array {
  const bytes = new Uint8Array(greetingBytes);
  const view = viewOf(bytes);
  bytes.set(magic);
  view.setUint16(8, greeting.versionMin);
  view.setUint16(10, greeting.versionMax);
  view.setUint8(12, purposes.indexOf(greeting.purpose) + 1);
  view.setUint16(14, greeting.lane);
  bytes.set(greeting.session, 16);
  view.setUint32(36, crc32c(bytes.subarray(0, 36)));
  return bytes;
}

/** Throws `protocol` for anything that is not a greeting. */
export function decodeGreeting(bytes: Uint8Array): Greeting {
  const view = checkFrame(bytes, greetingBytes);
  const purpose = purposes[view.getUint8(12) - 1];
  const lane = view.getUint16(14);
  const laneFits = purpose === 'data' ? lane >= 1 && lane <= connectionsMax : lane === 0;
  if (purpose === undefined || !laneFits) throw new MigrationError('protocol', 'the greeting makes no sense');
  return {
    versionMin: view.getUint16(8),
    versionMax: view.getUint16(10),
    purpose,
    lane,
    session: bytes.slice(16, 16 + sessionBytes),
  };
}

export function encodeAnswer(answer: Answer): Uint8Array {
  const bytes = new Uint8Array(answerBytes);
  const view = viewOf(bytes);
  bytes.set(magic);
  view.setUint16(8, answer.version);
  view.setUint8(10, statuses.indexOf(answer.status));
  bytes.set(answer.session, 12);
  view.setUint32(28, crc32c(bytes.subarray(0, 28)));
  return bytes;
}

/** Throws `protocol` for anything that is not an answer. */
export function decodeAnswer(bytes: Uint8Array): Answer {
  const view = checkFrame(bytes, answerBytes);
  const status = statuses[view.getUint8(10)];
  if (status === undefined) throw new MigrationError('protocol', 'the answer makes no sense');
  return { version: view.getUint16(8), status, session: bytes.slice(12, 12 + sessionBytes) };
}

/** The highest version that both ends speak, or undefined. */
export function chooseVersion(peer: Pick<Greeting, 'versionMin' | 'versionMax'>): number | undefined {
  const version = Math.min(peer.versionMax, versionMax);
  return version >= Math.max(peer.versionMin, versionMin) ? version : undefined;
}

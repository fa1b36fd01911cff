/**
 * The first bytes on every connection, before any frame. The end that dialled speaks first; the other answers once.
 *
 * ```
 * greeting (40 bytes, and the VM's id)           answer (32 bytes)
 *  0  8  "LONGHAUL"                               0  8  "LONGHAUL"
 *  8  2  lowest version spoken                    8  2  version chosen, 0 if none
 * 10  2  highest version spoken                  10  1  status: 0 welcome, 1 version, 2 refused
 * 12  1  purpose: 1 control, 2 data, 3 question  11  1  0
 * 13  1  0                                       12 16  session, repeated
 * 14  2  lane (data: 1, 2, ...; else 0)          28  4  CRC-32C of bytes 0 to 27
 * 16 16  session: chosen by the source, random
 * 32  2  n: length of the VM's id, 0 to 765
 * 34  2  0
 * 36  4  CRC-32C of bytes 0 to 35
 * 40  n  the VM's id, UTF-8
 *     4  its CRC-32C; absent where n is 0
 * ```
 *
 * The first 40 bytes are the same in every version: with them it is known whether the rest can be read.
 */
import { MigrationError } from '../errors.ts';
import { crc32c } from '../util/checksum.ts';
import { vmIdBytesMax } from './limits.ts';

/** The lowest and highest protocol version that this code speaks. */
export const versionMin = 1;
export const versionMax = 1;

/** The part that is the same in every version. */
export const greetingHeadBytes = 40;
export const answerBytes = 32;
export const sessionBytes = 16;

const magic = new TextEncoder().encode('LONGHAUL');

/** What a connection is for. */
export type Purpose = 'control' | 'data' | 'question';

const purposes: readonly Purpose[] = ['control', 'data', 'question'];

/** The part of a greeting that is the same in every version. */
export interface GreetingHead {
  readonly versionMin: number;
  readonly versionMax: number;
  readonly purpose: Purpose;
  readonly lane: number;
  readonly session: Uint8Array;
}

/** The greeting of a dialled connection. */
export interface Greeting extends GreetingHead {
  /** Which VM the connection is for. Empty: it does not say. */
  readonly vmId: string;
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

/** Throws `invalid-argument` if the VM's id is too long. */
export function encodeGreeting(greeting: Greeting): Uint8Array {
  const vmId = new TextEncoder().encode(greeting.vmId);
  if (vmId.byteLength > vmIdBytesMax) {
    throw new MigrationError('invalid-argument', `a vmId has ${vmIdBytesMax} bytes of UTF-8 at most`);
  }
  const bytes = new Uint8Array(greetingHeadBytes + tailBytes(vmId.byteLength));
  const view = viewOf(bytes);
  bytes.set(magic);
  view.setUint16(8, greeting.versionMin);
  view.setUint16(10, greeting.versionMax);
  view.setUint8(12, purposes.indexOf(greeting.purpose) + 1);
  view.setUint16(14, greeting.lane);
  bytes.set(greeting.session, 16);
  view.setUint16(32, vmId.byteLength);
  view.setUint32(36, crc32c(bytes.subarray(0, 36)));
  if (vmId.byteLength > 0) {
    bytes.set(vmId, greetingHeadBytes);
    view.setUint32(bytes.byteLength - 4, crc32c(vmId));
  }
  return bytes;
}

function tailBytes(vmIdBytes: number): number {
  return vmIdBytes === 0 ? 0 : vmIdBytes + 4;
}

/** The first {@link greetingHeadBytes} of a greeting, and how many more there are. Throws `protocol` for anything else. */
export function decodeGreetingHead(bytes: Uint8Array): GreetingHead & { readonly tailBytes: number } {
  const view = checkFrame(bytes, greetingHeadBytes);
  const purpose = purposes[view.getUint8(12) - 1];
  const lane = view.getUint16(14);
  const laneFits = (purpose === 'data') === lane > 0;
  const vmIdBytes = view.getUint16(32);
  if (purpose === undefined || !laneFits || vmIdBytes > vmIdBytesMax) {
    throw new MigrationError('protocol', 'the greeting makes no sense');
  }
  return {
    versionMin: view.getUint16(8),
    versionMax: view.getUint16(10),
    purpose,
    lane,
    session: bytes.slice(16, 16 + sessionBytes),
    tailBytes: tailBytes(vmIdBytes),
  };
}

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** The VM's id, from what follows the head. Throws `protocol` if it is damaged. */
export function decodeGreetingTail(bytes: Uint8Array): string {
  if (bytes.byteLength === 0) return '';
  const vmId = bytes.subarray(0, -4);
  if (viewOf(bytes).getUint32(vmId.byteLength) !== crc32c(vmId)) {
    throw new MigrationError('protocol', 'the greeting is damaged');
  }
  return decoder.decode(vmId);
}

/** A VM's id as the other end has it from a greeting, which knows no lone surrogates. */
export function asGreeted(vmId: string): string {
  return decoder.decode(new TextEncoder().encode(vmId));
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

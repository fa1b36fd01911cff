/**
 * The first bytes on every connection, before any frame. The end that dialled greets; the other challenges it and proves itself; the
 * first proves itself in turn, and is let in or not. How the proofs are made: `channel/handshake.ts`.
 *
 * ```
 * greeting (76 bytes, and the VM's id)           answer (32 bytes)
 *  0  8  "LONGHAUL"                               0  8  "LONGHAUL"
 *  8  2  lowest version spoken                    8  2  version chosen, 0 if none
 * 10  2  highest version spoken                  10  1  status: 0 welcome, 1 version, 2 refused, 3 challenge
 * 12  1  purpose: 1 control, 2 data,             11  1  0
 *        3 question, 4 resume                    12 16  session, repeated
 * 13  1  0                                       28  4  CRC-32C of bytes 0 to 27
 * 14  2  lane (data: 1, 2, ...; else 0)
 * 16 16  session: chosen by the source, random   challenge (72 bytes, after an answer with status 3)
 * 32  2  n: length of the VM's id, 0 to 765       0 32  nonce, of this connection alone
 * 34  2  0                                       32  2  lowest version spoken
 * 36  4  CRC-32C of bytes 0 to 35                34  2  highest version spoken
 * 40 32  nonce, of this connection alone         36 32  proof
 * 72  n  the VM's id, UTF-8                      68  4  CRC-32C of bytes 0 to 67
 *     4  CRC-32C of what follows byte 39
 * ```
 *
 * The first 40 bytes of the greeting, and the answer, are the same in every version: with them it is known whether the rest can be read.
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
/** Random, from each end, for each connection: what was said on another one is worth nothing on this one. */
export const nonceBytes = 32;
/** HMAC-SHA-256. */
export const proofBytes = 32;
/** What follows an answer with the status `challenge`; and how much of it the proof within it covers. */
export const challengeBytes = 72;
export const challengeProvenBytes = 36;

const magic = new TextEncoder().encode('LONGHAUL');

/** What a connection is for. `resume`: a further control connection of a session that is there. */
export type Purpose = 'control' | 'data' | 'question' | 'resume';

const purposes: readonly Purpose[] = ['control', 'data', 'question', 'resume'];

/** The protocol versions that an end speaks: whole numbers, both included. */
export interface VersionRange {
  readonly versionMin: number;
  readonly versionMax: number;
}

/** What this code speaks. */
export const versions: VersionRange = { versionMin, versionMax };

/** The part of a greeting that is the same in every version. */
export interface GreetingHead extends VersionRange {
  readonly purpose: Purpose;
  readonly lane: number;
  readonly session: Uint8Array;
}

/** The greeting of a dialled connection. */
export interface Greeting extends GreetingHead {
  readonly nonce: Uint8Array;
  /** Which VM the connection is for. Empty: it does not say. */
  readonly vmId: string;
}

/** The answer to a greeting, and to a proof. */
export interface Answer {
  readonly version: number;
  readonly status: 'welcome' | 'version' | 'refused' | 'challenge';
  readonly session: Uint8Array;
}

const statuses: readonly Answer['status'][] = ['welcome', 'version', 'refused', 'challenge'];

/** What follows the answer `challenge`. */
export interface Challenge extends VersionRange {
  readonly nonce: Uint8Array;
  /** That the acceptor has the secret: over all that was said before. */
  readonly proof: Uint8Array;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function damaged(): MigrationError {
  return new MigrationError('protocol', 'the greeting is damaged');
}

/** Ends in the checksum of all before. */
function checkSum(bytes: Uint8Array): DataView {
  const view = viewOf(bytes);
  const length = bytes.byteLength - 4;
  if (length < 0 || view.getUint32(length) !== crc32c(bytes.subarray(0, length))) throw damaged();
  return view;
}

function sum(bytes: Uint8Array): void {
  const length = bytes.byteLength - 4;
  viewOf(bytes).setUint32(length, crc32c(bytes.subarray(0, length)));
}

function checkFrame(bytes: Uint8Array, length: number): DataView {
  if (bytes.byteLength !== length || !magic.every((byte, index) => bytes[index] === byte)) {
    throw new MigrationError('protocol', 'the peer does not speak this protocol');
  }
  return checkSum(bytes);
}

/** Throws `invalid-argument` if the VM's id is too long. */
export function encodeGreeting(greeting: Greeting): Uint8Array {
  const vmId = new TextEncoder().encode(greeting.vmId);
  if (vmId.byteLength > vmIdBytesMax) {
    throw new MigrationError('invalid-argument', `a vmId has ${vmIdBytesMax} bytes of UTF-8 at most`);
  }
  const bytes = new Uint8Array(greetingHeadBytes + tailBytes(vmId.byteLength));
  const head = bytes.subarray(0, greetingHeadBytes);
  const view = viewOf(head);
  head.set(magic);
  view.setUint16(8, greeting.versionMin);
  view.setUint16(10, greeting.versionMax);
  view.setUint8(12, purposes.indexOf(greeting.purpose) + 1);
  view.setUint16(14, greeting.lane);
  head.set(greeting.session, 16);
  view.setUint16(32, vmId.byteLength);
  sum(head);
  const tail = bytes.subarray(greetingHeadBytes);
  tail.set(greeting.nonce);
  tail.set(vmId, nonceBytes);
  sum(tail);
  return bytes;
}

function tailBytes(vmIdBytes: number): number {
  return nonceBytes + vmIdBytes + 4;
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

/** What follows the head. Throws `protocol` if it is damaged. */
export function decodeGreetingTail(bytes: Uint8Array): Pick<Greeting, 'nonce' | 'vmId'> {
  if (bytes.byteLength < tailBytes(0)) throw damaged();
  checkSum(bytes);
  return { nonce: bytes.slice(0, nonceBytes), vmId: decoder.decode(bytes.subarray(nonceBytes, -4)) };
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
  sum(bytes);
  return bytes;
}

/** Throws `protocol` for anything that is not an answer. */
export function decodeAnswer(bytes: Uint8Array): Answer {
  const view = checkFrame(bytes, answerBytes);
  const status = statuses[view.getUint8(10)];
  if (status === undefined) throw new MigrationError('protocol', 'the answer makes no sense');
  return { version: view.getUint16(8), status, session: bytes.slice(12, 12 + sessionBytes) };
}

/** `prove` is given the part that the proof covers. */
export function encodeChallenge(
  challenge: Omit<Challenge, 'proof'>,
  prove: (proven: Uint8Array) => Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(challengeBytes);
  const view = viewOf(bytes);
  bytes.set(challenge.nonce);
  view.setUint16(32, challenge.versionMin);
  view.setUint16(34, challenge.versionMax);
  bytes.set(prove(bytes.subarray(0, challengeProvenBytes)), challengeProvenBytes);
  sum(bytes);
  return bytes;
}

/** Throws `protocol` if it is damaged. */
export function decodeChallenge(bytes: Uint8Array): Challenge {
  if (bytes.byteLength !== challengeBytes) throw damaged();
  const view = checkSum(bytes);
  return {
    nonce: bytes.slice(0, nonceBytes),
    versionMin: view.getUint16(32),
    versionMax: view.getUint16(34),
    proof: bytes.slice(challengeProvenBytes, challengeProvenBytes + proofBytes),
  };
}

/** The highest version that both ends speak, or undefined. */
export function chooseVersion(peer: VersionRange, own: VersionRange = versions): number | undefined {
  const version = Math.min(peer.versionMax, own.versionMax);
  return version >= Math.max(peer.versionMin, own.versionMin) ? version : undefined;
}

import type { Chunks } from '../../interfaces/content.ts';
import { crc32c } from '../../util/checksum.ts';
import { joinChunks } from '../../util/chunks.ts';
import type { SavedGuest } from './guest.ts';

/** The name of the encoding, as it stands in a `VmDescription`. */
export const simulatedStateFormat = 'longhaul-simulated/1';

const magic = new TextEncoder().encode('LHSIMVM1');
const headerBytes = magic.byteLength + 8;

/** Which save a device state came from: a state of an earlier stun is another one. */
export interface StateToken {
  /** Of which VM. */
  readonly vmId: string;
  /** Where it was saved. */
  readonly host: string;
  /** Counts the saves of this VM on that host. */
  readonly save: number;
}

/** All of a simulated guest that is neither memory nor disk. */
export interface SimulatedState {
  readonly token: StateToken;
  readonly guest: SavedGuest;
}

/**
 * Magic, length, the state as JSON, and padding up to `bytesMin`; in the header the CRC-32C of all that
 * follows it.
 */
export function encodeState(state: SimulatedState, bytesMin: number): Uint8Array {
  const body = new TextEncoder().encode(JSON.stringify(state));
  const bytes = new Uint8Array(Math.max(bytesMin, headerBytes + body.byteLength)).fill(0x5a);
  const view = new DataView(bytes.buffer);
  bytes.set(magic);
  bytes.set(body, headerBytes);
  view.setUint32(magic.byteLength, body.byteLength);
  view.setUint32(magic.byteLength + 4, crc32c(bytes.subarray(headerBytes)));
  return bytes;
}

/** What {@link encodeState} encoded, in whatever chunks. Throws an ordinary error if it is anything else. */
export function decodeState(chunks: Chunks): SimulatedState {
  const bytes = joinChunks(chunks);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < headerBytes || magic.some((byte, index) => bytes[index] !== byte)) {
    throw new Error(`the device state is not in the format ${simulatedStateFormat}`);
  }
  const end = headerBytes + view.getUint32(magic.byteLength);
  if (
    crc32c(bytes.subarray(headerBytes)) !== view.getUint32(magic.byteLength + 4) ||
    end > bytes.byteLength
  ) {
    throw new Error('the device state is damaged: its checksum does not match');
  }
  return JSON.parse(new TextDecoder().decode(bytes.subarray(headerBytes, end))) as SimulatedState;
}

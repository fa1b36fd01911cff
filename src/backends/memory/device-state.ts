import type { Chunks } from '../../interfaces/content.ts';
import { crc32cOfChunks } from '../../util/checksum.ts';
import { joinChunks } from '../../util/chunks.ts';
import type { PrngState } from '../../util/prng.ts';
import type { WorkloadState } from './workload-runner.ts';

/** The name of the encoding, as it stands in a `VmDescription`. */
export const DEVICE_STATE_FORMAT = 'longhaul-memory/1';

const MAGIC = Buffer.from('LHMEMVM1', 'latin1');
const CHECKSUM_BYTES = 4;

/** All of a simulated guest that is neither memory nor disk. */
export interface DeviceState {
  /** What the seeds of workloads to come are drawn from. */
  readonly prng: PrngState;
  readonly workloads: readonly WorkloadState[];
}

/** A magic, the state as JSON, and the CRC-32C of both, as three chunks. */
export function encodeDeviceState(state: DeviceState): Chunks {
  const body = Buffer.from(JSON.stringify(state), 'utf8');
  const checksum = Buffer.alloc(CHECKSUM_BYTES);
  checksum.writeUInt32LE(crc32cOfChunks([MAGIC, body]));
  return [MAGIC, body, checksum];
}

/**
 * What {@link encodeDeviceState} encoded, in whatever chunks. Throws an ordinary error if it is anything
 * else.
 */
export function decodeDeviceState(chunks: Chunks): DeviceState {
  const joined = joinChunks(chunks);
  const bytes = Buffer.from(joined.buffer, joined.byteOffset, joined.byteLength);
  if (bytes.length < MAGIC.length + CHECKSUM_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw new Error(`the device state is not in the format ${DEVICE_STATE_FORMAT}`);
  }
  const end = bytes.length - CHECKSUM_BYTES;
  if (crc32cOfChunks([bytes.subarray(0, end)]) !== bytes.readUInt32LE(end)) {
    throw new Error('the device state is damaged: its checksum does not match');
  }
  return JSON.parse(bytes.toString('utf8', MAGIC.length, end)) as DeviceState;
}

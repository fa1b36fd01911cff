/** What the suites of source and destination disks have in common. */
import type { ReadableDisk } from '../../interfaces/block-device.ts';
import { joinChunks } from '../../util/chunks.ts';
import { check, checkBytes, checkEqual, checkRejects } from './check.ts';

/** Whether the disk describes itself as a disk may be. */
export function checkDescription({ id, sizeBytes, blockBytes, readOnly }: ReadableDisk): void {
  check(
    typeof id === 'string' && id.length >= 1 && id.length <= 255,
    `the id '${id}' has not 1 to 255 characters`,
  );
  check(Number.isSafeInteger(sizeBytes) && sizeBytes >= 1, `sizeBytes is ${sizeBytes}`);
  const sizes = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
  check(sizes.includes(blockBytes), `blockBytes is ${blockBytes}, not a power of two from 512 to 65536`);
  checkEqual(typeof readOnly, 'boolean', 'the type of readOnly');
}

/** Reads a range as one array. */
export async function readBytes(disk: ReadableDisk, offset: number, length: number): Promise<Uint8Array> {
  return joinChunks(await disk.read(offset, length));
}

/**
 * Whether the extents of a range cover it in order and without gaps, and are zero only where it reads as
 * zeros.
 */
export async function checkExtents(disk: ReadableDisk, offset: number, length: number): Promise<void> {
  let at = offset;
  for (const extent of await disk.extents(offset, length)) {
    checkEqual(extent.offset, at, 'where the next extent begins');
    check(Number.isSafeInteger(extent.length) && extent.length > 0, `an extent has ${extent.length} bytes`);
    checkEqual(typeof extent.zero, 'boolean', "the type of an extent's zero");
    at += extent.length;
    if (!extent.zero) continue;
    // A hole may be terabytes: its two ends show what there is to see.
    const sample = Math.min(extent.length, 256 * 1024);
    for (const from of [extent.offset, at - sample]) {
      const bytes = await readBytes(disk, from, sample);
      checkBytes(bytes, new Uint8Array(sample), `what extents() calls zero, from ${from}`);
    }
  }
  checkEqual(at, offset + length, 'where the extents end');
}

/** Whether reading, extents and flushing take a signal: aborted before, during and after. */
export async function checkReadAborts(disk: ReadableDisk): Promise<void> {
  const calls = {
    read: (signal: AbortSignal) => disk.read(0, 4096, { signal }),
    extents: (signal: AbortSignal) => disk.extents(0, 4096, { signal }),
    flush: (signal: AbortSignal) => disk.flush({ signal }),
  };
  for (const [name, call] of Object.entries(calls)) await checkAborts(name, call);
  checkEqual((await readBytes(disk, 0, 512)).byteLength, 512, 'bytes read after all this');
}

/**
 * Whether a call takes a signal: one aborted before rejects, one aborted during rejects or comes too late,
 * one aborted after changes nothing.
 */
export async function checkAborts(
  name: string,
  call: (signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  await checkRejects(call(AbortSignal.abort()), 'aborted', `${name} with an aborted signal`);
  const during = new AbortController();
  const calling = call(during.signal).then(
    () => undefined,
    (error: unknown) => error,
  );
  during.abort();
  const error = await calling;
  if (error !== undefined) await checkRejects(Promise.reject(error), 'aborted', `${name} aborted meanwhile`);
  const after = new AbortController();
  await call(after.signal);
  after.abort();
}

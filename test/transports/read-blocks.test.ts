// Goal: no byte is read into memory that somebody still looks at, and all other memory is used again. Method: the blocks by themselves.
import { describe, expect, test } from 'vitest';
import { BlockPool, ReadBlocks } from '../../src/transports/read-blocks.ts';

/** Reads so many bytes, all of one value. */
function read(blocks: ReadBlocks, bytes: number, value: number): Uint8Array {
  const room = blocks.room();
  expect(room.byteLength).toBeGreaterThanOrEqual(bytes);
  room.fill(value, 0, bytes);
  blocks.filled(bytes);
  return blocks.take() ?? expect.fail('nothing was read');
}

describe('blocks that are read into', () => {
  test('are used again once all of their chunks are back, and not before', () => {
    const blocks = new ReadBlocks(new BlockPool());
    const chunks = Array.from({ length: 40 }, (_, at) => read(blocks, 30_000, at));
    for (const [at, chunk] of chunks.entries()) expect(new Set(chunk)).toEqual(new Set([at]));
    const before = new Set(chunks.map(({ buffer }) => buffer));
    for (const chunk of chunks.slice(1)) blocks.giveBack(chunk);
    const after = Array.from({ length: 20 }, () => read(blocks, 30_000, 99));
    expect(after.some(({ buffer }) => before.has(buffer))).toBe(true);
    expect(after.some(({ buffer }) => buffer === chunks[0]?.buffer)).toBe(false);
    expect(new Set(chunks[0])).toEqual(new Set([0]));
  });

  test('are of one connection at a time', () => {
    const pool = new BlockPool();
    const [one, other] = [new ReadBlocks(pool), new ReadBlocks(pool)];
    one.giveBack(read(one, 100, 1));
    expect(read(other, 100, 2).buffer).not.toBe(read(one, 100, 1).buffer);
  });

  test('are not freed by a part of a chunk, by one that comes twice, or by a stranger', () => {
    const blocks = new ReadBlocks(new BlockPool());
    const kept = read(blocks, 1000, 1);
    const given = read(blocks, 1000, 2);
    for (const chunk of [
      given,
      given,
      kept.subarray(0, 500),
      kept.subarray(500),
      new Uint8Array(kept.buffer),
    ])
      blocks.giveBack(chunk);
    for (let count = 0; count < 20; count++) blocks.giveBack(read(blocks, 50_000, 3));
    expect(new Set(kept)).toEqual(new Set([1]));
  });

  test('stay where they are: nobody can hand one to another thread', () => {
    const chunk = read(new ReadBlocks(new BlockPool()), 1000, 1);
    try {
      structuredClone(chunk, { transfer: [chunk.buffer as ArrayBuffer] });
    } catch {
      // Node 20 copies instead.
    }
    expect(chunk.byteLength).toBe(1000);
  });
});

/**
 * Goal: bytes on loan never change before the loan ends, whatever the guest writes, and no write is lost for it. Method: random stories
 * of writes, loans and their ends, often on one byte or around the edges of chunks, beside a plain buffer that is simply written to,
 * and a copy of each loan taken when it began.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CHUNK_BYTES, type Loan, MemoryChunks } from '../../../src/backends/memory/memory-chunks.ts';

/** Three chunks, the last of them short. */
const SIZE = 2 * CHUNK_BYTES + 8192;

const place = fc.oneof(
  fc.nat(SIZE - 1),
  fc.constantFrom(0, CHUNK_BYTES - 4096, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, SIZE - 1),
);
const range = fc
  .record({
    offset: place,
    length: fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.constant(CHUNK_BYTES + 1)),
  })
  .map(({ offset, length }) => ({ offset, length: Math.min(length, SIZE - offset) }));
const step = fc.oneof(
  fc.record({ kind: fc.constantFrom('write' as const, 'change' as const), range, value: fc.nat(255) }),
  fc.record({ kind: fc.constant('lend' as const), range, value: fc.constant(0) }),
  fc.record({ kind: fc.constant('end' as const), range, value: fc.nat(7) }),
);

test('a loan stays as it was until it ends, and everything written is read', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (story) => {
      const chunks = new MemoryChunks(SIZE);
      const model = Buffer.alloc(SIZE);
      const loans: { readonly loan: Loan; readonly asItWas: Buffer }[] = [];
      for (const { kind, range, value } of story) {
        const { offset, length } = range;
        switch (kind) {
          case 'write':
            chunks.write(offset, Buffer.alloc(length, value));
            model.fill(value, offset, offset + length);
            break;
          case 'change':
            chunks.change(offset, length, (bytes) => bytes.fill(value));
            model.fill(value, offset, offset + length);
            break;
          case 'lend':
            loans.push({
              loan: chunks.lend(offset, length),
              asItWas: Buffer.from(model.subarray(offset, offset + length)),
            });
            break;
          case 'end': {
            const [ended] = loans.splice(value, 1);
            if (ended !== undefined)
              expect(Buffer.concat(ended.loan.pieces).equals(ended.asItWas)).toBe(true);
            ended?.loan.end();
            break;
          }
        }
        expect(chunks.read(offset, length).equals(model.subarray(offset, offset + length))).toBe(true);
      }
      for (const { loan, asItWas } of loans) expect(Buffer.concat(loan.pieces).equals(asItWas)).toBe(true);
      expect(chunks.read(0, SIZE).equals(model)).toBe(true);
    }),
    { seed: 7, numRuns: 150 },
  );
});

describe('a loan', () => {
  const bufferOf = ({ pieces }: Loan) => pieces[0]?.buffer;

  test('is not a copy, and what is written when it has ended makes none', () => {
    const chunks = new MemoryChunks(SIZE);
    const [one, two] = [chunks.lend(0, 4096), chunks.lend(4096, 4096)];
    expect(bufferOf(one)).toBe(bufferOf(two));
    one.end();
    two.end();
    chunks.write(0, Uint8Array.of(1));
    expect(bufferOf(chunks.lend(0, 4096))).toBe(bufferOf(one));
  });

  test('is kept apart by the first write to its chunk, and the guest goes on with the copy', () => {
    const chunks = new MemoryChunks(SIZE);
    const before = chunks.lend(0, 4096);
    chunks.write(8192, Uint8Array.of(1));
    // Nobody has the copy on loan, so a second write makes no second one.
    const after = chunks.lend(8192, 4096);
    after.end();
    chunks.write(8193, Uint8Array.of(2));
    expect(bufferOf(after)).not.toBe(bufferOf(before));
    expect(bufferOf(chunks.lend(8192, 4096))).toBe(bufferOf(after));
    expect([...chunks.read(8192, 2)]).toEqual([1, 2]);
  });

  test('can be copied, to write to the copy', () => {
    const chunks = new MemoryChunks(SIZE);
    const [piece] = chunks.lend(0, 4096).pieces;
    piece?.slice().fill(1);
    expect(chunks.isZero(0, 4096)).toBe(true);
  });

  test('over the edge of a chunk is in two pieces', () => {
    const { pieces } = new MemoryChunks(SIZE).lend(CHUNK_BYTES - 4096, 8192);
    expect(pieces.map((piece) => piece.byteLength)).toEqual([4096, 4096]);
  });
});

test('tells zeros to the last byte of a page', () => {
  const chunks = new MemoryChunks(SIZE);
  for (const at of [CHUNK_BYTES, CHUNK_BYTES + 4095]) {
    expect(chunks.isZero(CHUNK_BYTES, 4096)).toBe(true);
    chunks.write(at, Uint8Array.of(1));
    expect(chunks.isZero(CHUNK_BYTES, 4096)).toBe(false);
    expect(chunks.isZero(CHUNK_BYTES + 4096, 4096)).toBe(true);
    chunks.write(at, Uint8Array.of(0));
  }
});

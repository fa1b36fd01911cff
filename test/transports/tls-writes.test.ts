// Goal: TLS is written to in few and full records, whatever a frame is made of, and next to nothing is copied. Method: the regrouping by itself.
import { expect, test } from 'vitest';
import { tlsWrites } from '../../src/transports/tls-writes.ts';
import { joinChunks } from '../../src/util/chunks.ts';
import { randomBytes } from './transport-pair.ts';

const kibibyte = 1024;

test.each([
  {
    what: 'a header, a table and 1 MiB',
    sizes: [28, 40, 1024 * kibibyte],
    writesMax: 3,
    copiedMax: 17 * kibibyte,
  },
  {
    what: '256 pages',
    sizes: [28, 4000, ...Array(256).fill(4 * kibibyte)],
    writesMax: 2,
    copiedMax: Infinity,
  },
  { what: 'a short message', sizes: [28, 100], writesMax: 1, copiedMax: 128 },
  {
    what: 'pages between long parts',
    sizes: [28, 4096, 70_000, 4096, 16_384, 300_000, 1],
    writesMax: 9,
    copiedMax: 60_000,
  },
  { what: 'nothing', sizes: [0, 0], writesMax: 0, copiedMax: 0 },
])('$what', ({ sizes, writesMax, copiedMax }) => {
  const chunks = sizes.map((size, at) => randomBytes(size, at + 1));
  const memory = new Set(chunks.map(({ buffer }) => buffer));
  const writes = [...tlsWrites(chunks)];
  expect(Buffer.compare(joinChunks(writes), joinChunks(chunks))).toBe(0);
  expect(writes.length).toBeLessThanOrEqual(writesMax);
  for (const { byteLength } of writes) expect(byteLength).toBeLessThanOrEqual(1024 * kibibyte);
  const copied = writes.filter(({ buffer }) => !memory.has(buffer));
  expect(copied.reduce((sum, { byteLength }) => sum + byteLength, 0)).toBeLessThanOrEqual(copiedMax);
});

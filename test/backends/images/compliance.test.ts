/**
 * Goal: an image is a disk like any other that the engine fills. Method: the library's own suite, on images
 * made anew and on files that are there, hold anything, and are used.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'vitest';
import { createImageBackend } from '../../../src/backends/images/index.ts';
import { blockDeviceCompliance } from '../../../src/testing/index.ts';
import { pattern } from '../../nbd/nbd-fixtures.ts';
import { diskOf, MIB, prepareFor, soleDisk, temporaryDirectory } from './fixtures.ts';

describe.each([
  ['made anew', 'refuse', 2 * MIB],
  ['made anew, of odd size', 'refuse', 2 * MIB + 12_345],
  ['used', 'use', 2 * MIB + 512],
] as const)('an image that is %s', (_, existing, sizeBytes) => {
  blockDeviceCompliance({
    test,
    async create() {
      const directory = temporaryDirectory();
      const path = join(directory.path, 'disk0.img');
      if (existing === 'use') writeFileSync(path, pattern(sizeBytes, 1));
      const backend = createImageBackend({ images: { disk0: path }, existing });
      const vm = await prepareFor(backend, diskOf('disk0', { sizeBytes }));
      return {
        disk: soleDisk(vm),
        async close() {
          await vm.discard();
          directory.remove();
        },
      };
    },
  });
});

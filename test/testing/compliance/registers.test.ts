/**
 * Goal: both registers are what the engine takes a register for. Method: the compliance suite on each, bare
 * and through a wrapper without faults.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'vitest';
import { fileRegister, memoryRegister } from '../../../src/registers/index.ts';
import { faultyRegister, type RegisterFixture, registerCompliance } from '../../../src/testing/index.ts';

async function inMemory(): Promise<RegisterFixture> {
  return { register: memoryRegister(), close: async () => {} };
}

async function inFiles(): Promise<RegisterFixture> {
  const base = mkdtempSync(join(tmpdir(), 'register-'));
  const directory = join(base, 'not', 'there', 'yet');
  return {
    register: fileRegister(directory),
    reopen: async () => fileRegister(directory),
    close: async () => rmSync(base, { recursive: true }),
  };
}

for (const [name, create] of [
  ['memoryRegister', inMemory],
  ['fileRegister', inFiles],
] as const) {
  describe(name, () => registerCompliance({ test, create }));
  describe(`${name} through a wrapper without faults`, () => {
    const wrapped = async (): Promise<RegisterFixture> => {
      const { register, reopen, close } = await create();
      const again = reopen && (async () => faultyRegister(await reopen(), []));
      return { register: faultyRegister(register, []), ...(again && { reopen: again }), close };
    };
    registerCompliance({ test, create: wrapped });
  });
}

/**
 * Goal: a disk may have any name, also one that every JavaScript object answers to. Method: VMs with such
 * disks are migrated whole, and each name in a policy means the disk of that name.
 */
import { describe, expect, it } from 'vitest';
import { createMemoryVm } from '../../src/backends/memory/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte } from '../support/worlds.ts';

const leave = (id: string) => Object.fromEntries([[id, 'leave' as const]]);

describe('a disk named', () => {
  for (const id of ['constructor', '__proto__', 'toString', 'hasOwnProperty', '\u{1f4be} "\\\n']) {
    it(`${JSON.stringify(id)} is copied`, async () => {
      const environment = createVirtualEnvironment();
      const vm = createMemoryVm({
        environment,
        vmId: 'named',
        memoryBytes: mebibyte,
        disks: [{ id, sizeBytes: mebibyte, allocatedFraction: 1 }],
      });
      const w = createWorld({ environment, vm });
      const { source } = await w.run();
      expect(source.error?.message).toBeUndefined();
      expect(source.bytes.disk).toBe(mebibyte);
      expect(w.comparison()?.equal).toBe(true);
      w.backend.vm?.destroy();
    });

    it(`${JSON.stringify(id)} can be left behind`, async () => {
      const environment = createVirtualEnvironment();
      const disks = [
        { id, sizeBytes: mebibyte, allocatedFraction: 1 },
        { id: 'data', sizeBytes: mebibyte, allocatedFraction: 1 },
      ];
      const vm = createMemoryVm({ environment, vmId: 'named', memoryBytes: mebibyte, disks });
      const w = createWorld({ environment, vm, policy: { disks: leave(id) } });
      const { source } = await w.run();
      expect(source.error?.message).toBeUndefined();
      expect(w.backend.vm?.disks.map((disk) => disk.id)).toEqual(['data']);
      w.backend.vm?.destroy();
    });
  }

  it('as nothing in the VM is refused in a policy', () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'named', memoryBytes: mebibyte });
    for (const id of ['constructor', '__proto__']) {
      expect(() => createWorld({ environment, vm, policy: { disks: leave(id) } })).toThrow(
        expect.objectContaining({ code: 'invalid-argument' }),
      );
    }
  });
});

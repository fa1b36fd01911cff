// Goal: simulated VMs keep the contracts that the engine relies on, word by word.
// Method: the compliance suites, for all that does not need the guest to write bytes of the suite's choice.
import { test } from 'vitest';
import type { RunState } from '../../src/interfaces/hypervisor.ts';
import { backendCompliance } from '../../src/testing/compliance/backend.ts';
import { memorySourceCompliance } from '../../src/testing/compliance/memory-source.ts';
import { compareSimulatedVms } from '../../src/testing/sim/compare.ts';
import { FreshContent } from '../../src/testing/sim/content.ts';
import { createSimulatedBackend } from '../../src/testing/sim/hypervisor.ts';
import { createSimulatedVm, type SimulatedVm, type SimulatedVmOptions } from '../../src/testing/sim/vm.ts';
import { joinChunks } from '../../src/util/chunks.ts';
import { nodeEnvironment } from '../../src/util/node-environment.ts';

const mebibyte = 1 << 20;

function smallVm(options: Partial<SimulatedVmOptions> = {}): SimulatedVm {
  return createSimulatedVm({
    environment: nodeEnvironment,
    vmId: 'vm',
    memory: { sizeBytes: 4 * mebibyte, usedFraction: 0.5 },
    disks: [{ id: 'disk0', sizeBytes: 4 * mebibyte + 512, blockBytes: 512, allocatedFraction: 0.5 }],
    ...options,
  });
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

for (const keepsUnsentPages of [true, false]) {
  let dirtied = 0;
  memorySourceCompliance({
    test: (name, run) => test(`memory, unsent pages ${keepsUnsentPages ? 'kept' : 'lost'}: ${name}`, run),
    create: async () => {
      const vm = smallVm({
        keepsUnsentPages,
        memory: [
          { name: 'low', sizeBytes: mebibyte, pageBytes: 4096 },
          { name: 'high', sizeBytes: 2 * mebibyte, pageBytes: 65_536 },
        ],
      });
      return {
        vm: vm.attachSource(),
        guest: {
          dirty: async () => {
            dirtied++;
            vm.guest.writeMemory(((dirtied * 37) % 700) * 4096, 5000);
          },
          read: async (region, offset, length) => {
            const space = vm.memory[region];
            return space && joinChunks(space.read(offset, length, new FreshContent(space.unitBytes)));
          },
        },
        close: async () => {},
      };
    },
  });
}

backendCompliance({
  test: (name, run) => test(`backend: ${name}`, run),
  create: async () => {
    const vm = smallVm();
    return {
      source: async () => vm.attachSource(),
      control: {
        pause: () => vm.pause(),
        run: async () => vm.run(),
        powerOff: async () => vm.guest.powerOff(),
        kill: async () => vm.die(),
      },
      destination: async () => {
        const backend = createSimulatedBackend({ environment: nodeEnvironment, accept: vm.description });
        return {
          backend,
          runState: async (): Promise<RunState | 'none'> => {
            if (backend.vm === undefined) return 'none';
            return backend.vm.state === 'running' ? 'running' : 'paused';
          },
          verify: async () => {
            if (backend.vm === undefined) throw new Error('nothing was started');
            const { equal, summary } = compareSimulatedVms(vm, backend.vm);
            if (!equal) throw new Error(summary);
          },
          handedOver: async (id, offset, length) => {
            const there = backend.vms.findLast(({ state }) => state === 'handed-over');
            const space = there?.disks.find((disk) => disk.id === id)?.space;
            if (space === undefined) throw new Error(`disk ${id} was not handed over`);
            return joinChunks(space.read(offset, length, new FreshContent(space.unitBytes)));
          },
          close: async () => {},
        };
      },
      settle,
      close: async () => {},
    };
  },
});

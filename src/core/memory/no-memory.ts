import type { MemorySource } from '../../interfaces/memory.ts';

/** The memory of a migration of disks alone: there is none, and so every round is empty. */
export const noMemory: MemorySource = {
  regions: [],
  keepsUnsentPages: true,
  round: async function* () {},
  dirtyBytes: () => 0,
  read: async (ranges) => ranges.map(() => undefined),
  offer: async () => {},
  stop: async () => {},
};

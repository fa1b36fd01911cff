/**
 * Goal: every guest write and every batch of pages that the engine was handed is given back exactly once,
 * whenever and however the migration ends, and what it holds at one time is bounded: a hypervisor has only so
 * many buffers. Method: count them, around the ordinary parts.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
} from '../../src/backends/memory/index.ts';
import type { GuestWrite, Phase, SourceVm, TapHandler } from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte, type World, type WorldOptions, withChanges } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

/** What was handed out and given back. */
class Ledger {
  handed = 0;
  /** Given back once more. */
  twice = 0;
  heldMax = 0;
  #given = 0;

  hand<T extends { release(): void }>(item: T): T {
    this.handed += 1;
    this.heldMax = Math.max(this.heldMax, this.held);
    let given = false;
    const release = () => {
      if (given) this.twice += 1;
      else this.#given += 1;
      given = true;
      item.release();
    };
    return { ...item, release };
  }

  get held(): number {
    return this.handed - this.#given;
  }
}

class Ledgers {
  readonly writes = new Ledger();
  readonly batches = new Ledger();

  readonly watch = (vm: SourceVm): SourceVm => {
    const { writes, batches } = this;
    const counted = (handler: TapHandler): TapHandler => ({
      write: (write: GuestWrite) => handler.write(writes.hand(write)),
      invalidate: (range) => handler.invalidate(range),
      broken: (error) => handler.broken(error),
    });
    return withChanges<SourceVm>(vm, {
      disks: vm.disks.map((disk) =>
        withChanges(disk, { tap: (handler, options) => disk.tap(counted(handler), options) }),
      ),
      memory: withChanges(vm.memory, {
        round: async function* (options) {
          for await (const batch of vm.memory.round(options)) yield batches.hand(batch);
        },
      }),
    });
  };

  expectAllGivenBack(): void {
    for (const { held, twice } of [this.writes, this.batches])
      expect({ held, twice }).toEqual({ held: 0, twice: 0 });
  }
}

const vms: MemoryVm[] = [];
/**
 * Memory of more than a stream's queue takes, a disk that is half full, and a guest that writes both, unless
 * it is idle.
 */
function world({ idle = false, ...options }: WorldOptions): World {
  const environment = createVirtualEnvironment();
  const disks = [{ id: 'disk0', sizeBytes: 2 * mebibyte, allocatedFraction: 0.5 }];
  const vm = createMemoryVm({ environment, vmId: 'vm-1', memoryBytes: 10 * mebibyte, disks });
  vms.push(vm);
  if (!idle) {
    vm.startWorkload(randomWriter({ disk: 'disk0', bytes: 8192, writesPerSecond: 300, hotBytes: mebibyte }));
    vm.startWorkload(memoryDirtier({ bytesPerSecond: mebibyte, hotBytes: mebibyte / 2 }));
  }
  return createWorld({ environment, vm, ...options });
}
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

const limitMs = 60_000;
/** Slow enough for something to wait at any time. */
const link = { rttMs: 4, rateMbit: 200 };

describe('what the engine was handed is given back once', () => {
  it('when the migration completes', async () => {
    const ledgers = new Ledgers();
    const w = world({ link, sourceVm: ledgers.watch });
    const { source } = await runWithin(w, limitMs);
    expect(source.outcome).toBe('completed');
    expect(ledgers.writes.handed).toBeGreaterThan(0);
    expect(ledgers.batches.handed).toBeGreaterThan(0);
    ledgers.expectAllGivenBack();
    w.backend.vm?.destroy();
  });

  for (const phase of ['copyDisks', 'copyMemory', 'stun', 'handover'] satisfies Phase[]) {
    for (const end of ['an abort', 'a cut link'] as const) {
      it(`after ${end} in ${phase}`, async () => {
        const ledgers = new Ledgers();
        const w = world({ link, sourceVm: ledgers.watch });
        const stop = new AbortController();
        w.source.on('phase', (entered) => {
          if (entered !== phase) return;
          w.environment.setTimer(20, () => (end === 'an abort' ? stop.abort() : w.link.cut()));
        });
        await runWithin(w, limitMs, { source: stop.signal });
        ledgers.expectAllGivenBack();
        w.backend.vm?.destroy();
      });
    }
  }

  it('after an abort while guest writes wait for a disk that does not answer', async () => {
    const ledgers = new Ledgers();
    const never = () => new Promise<never>(() => {});
    const w = world({
      idle: true,
      sourceVm: (vm) =>
        ledgers.watch(
          withChanges<SourceVm>(vm, { disks: vm.disks.map((disk) => withChanges(disk, { read: never })) }),
        ),
    });
    const stop = new AbortController();
    w.source.on('phase', (entered) => {
      if (entered !== 'copyDisks') return;
      w.environment.setTimer(20, () => {
        // The disk is half full: some of them meet a read.
        for (let at = 0; at < 2 * mebibyte; at += mebibyte / 8) {
          void w.vm.guest.writeDisk('disk0', at, new Uint8Array(5000).fill(1));
        }
      });
      w.environment.setTimer(40, () => stop.abort());
    });
    const { source } = await runWithin(w, limitMs, { source: stop.signal });
    expect(source.error).toMatchObject({ code: 'aborted' });
    expect(w.vm.state).toBe('running');
    expect(ledgers.writes.heldMax).toBeGreaterThan(1);
    ledgers.expectAllGivenBack();
  });
});

it('a guest that writes zeros faster than the link takes them is held to the mirror buffer too', async () => {
  const ledgers = new Ledgers();
  const w = world({
    idle: true,
    link: { rttMs: 100, rateMbit: 10 },
    sourceVm: ledgers.watch,
    policy: { mirrorBufferBytesMax: mebibyte },
  });
  w.source.on('phase', (entered) => {
    if (entered !== 'copyMemory') return;
    for (let index = 0; index < 6000; index++) {
      void w.vm.guest.writeZeroes('disk0', (index % 1024) * 1024, 512);
    }
  });
  const { source } = await runWithin(w, limitMs);
  expect(source.error?.message).toBeUndefined();
  expect(ledgers.writes.handed).toBe(6000);
  // Each takes a sector's worth at least.
  expect(ledgers.writes.heldMax).toBeLessThanOrEqual(mebibyte / 512 + 1);
  expect(source.guestWrites.setBack).toBeGreaterThan(0);
  expect(w.comparison()?.equal).toBe(true);
  w.backend.vm?.destroy();
});

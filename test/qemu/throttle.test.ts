/**
 * Goal: a real guest that dirties three times what the link carries is moved within its downtime by being slowed, and the report says by how much and for how long; one that the link keeps up with is
 * not slowed. Method: the whole engine and QEMU, over a link whose rate is a third of what the guest was just seen to dirty, or ten times as much.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import { createDestination, createSource, memoryLink, memoryRegister } from '../../src/index.ts';
import { bootGuest, type Guest, guestDirectory, qemuAvailable } from './support/guest.ts';

const qemu = qemuAvailable();
const suite = qemu.available
  ? 'a real guest that dirties memory'
  : `a real guest that dirties memory (skipped: ${qemu.why})`;

const pageBytes = 4096;
const downtimeMsMax = 100;

// A machine without QEMU 9 or the built guest cannot run these; the suite's name says what was missing.
describe.skipIf(!qemu.available)(suite, { timeout: 180_000 }, () => {
  let directory: ReturnType<typeof guestDirectory>;
  const guests: Guest[] = [];

  beforeEach(() => {
    directory = guestDirectory();
  });

  afterEach(async () => {
    await Promise.all(guests.splice(0).map((guest) => guest.kill()));
    await directory[Symbol.asyncDispose]();
  });

  /** `MiB`: a second; it may be able to do less. */
  async function boot(name: string, incoming: boolean, dirtyMiBPerSecond: number): Promise<Guest> {
    const load = { memoryMiB: 72, memoryHotMiB: 64, dirtyMiBPerSecond, writesPerSecond: 0 };
    const options = { name, dir: directory.path, disks: [], memoryMiB: 256, load, incoming };
    const guest = await bootGuest(options);
    guests.push(guest);
    return guest;
  }

  /** What it dirties, in bytes a second. */
  async function dirtyRate(guest: Guest): Promise<number> {
    await guest.ready;
    const before = await guest.stats();
    await sleep(1500); // The load has to have had time: its rate is what is looked at.
    const after = await guest.stats();
    const seconds = (after.uptimeMs - before.uptimeMs) / 1000;
    return ((after.pagesDirtied - before.pagesDirtied) * pageBytes) / seconds;
  }

  async function move(here: Guest, there: Guest, linkBytesPerSecond: number) {
    const link = memoryLink({ rttMs: 2, rateMbit: (8 * linkBytesPerSecond) / 1e6 });
    const vm = await openQemuSource({ qmp: here.qmpPath, runtimeDir: directory.path, quitOnRelease: false });
    const backend = createQemuBackend({ qmp: there.qmpPath, runtimeDir: directory.path });
    const policy = { downtimeMsMax, throttleMax: 0.95 };
    const source = createSource({ vm, transport: link.source, register: memoryRegister(), policy });
    const destination = createDestination({
      backend,
      transport: link.destination,
      register: memoryRegister(),
    });
    const [sent, received] = await Promise.all([source.run(), destination.run()]);
    expect([sent.error, received.error]).toEqual([undefined, undefined]);
    expect(await there.verify()).toMatchObject({ badPages: 0 });
    return sent;
  }

  it('three times faster than the link carries is slowed until it fits', async () => {
    const [here, there] = await Promise.all([boot('a', false, 1000), boot('b', true, 1000)]);
    const report = await move(here, there, (await dirtyRate(here)) / 3);
    expect(report.throttleMax).toBeGreaterThan(0.2);
    expect(report.throttleMax).toBeLessThanOrEqual(0.95);
    expect(report.throttledMs).toBeGreaterThan(0);
    expect(report.throttledMs).toBeLessThan(report.totalMs);
    expect(report.lost.throttleMs).toBeGreaterThan(0);
  });

  it('at a tenth of what the link carries is never slowed', async () => {
    const [here, there] = await Promise.all([boot('a', false, 2), boot('b', true, 2)]);
    const report = await move(here, there, 10 * (await dirtyRate(here)));
    expect(report).toMatchObject({ throttleMax: 0, throttledMs: 0, lost: { throttleMs: 0 } });
  });
});

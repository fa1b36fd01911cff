/**
 * Goal: a plug point that never answers does not keep a migration from ending when it is aborted, and costs
 * the guest nothing. Method: registers, disks and hypervisors whose calls never settle and do not look at
 * their signal.
 */
import { afterEach, describe, expect, it } from 'vitest';
import type { MemoryVm } from '../../src/backends/memory/index.ts';
import {
  type DestinationVm,
  memoryRegister,
  type OwnershipRegister,
  type SourceVm,
} from '../../src/index.ts';
import { createWorld, type World, type WorldOptions, withChanges } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

const vms: MemoryVm[] = [];
function world(options: WorldOptions): World {
  const made = createWorld({ idle: true, ...options });
  vms.push(made.vm);
  return made;
}
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

const never = () => new Promise<never>(() => {});
/** More than every limit within the engine together. */
const limitMs = 60_000;

const aborted = { outcome: 'failed', owner: 'source', error: { code: 'aborted' } } as const;

function hangsReading(): OwnershipRegister {
  return { ...memoryRegister(), read: never };
}

async function expectMigrates({ vm, environment }: World): Promise<void> {
  const again = createWorld({ vm, environment });
  const { source } = await again.run();
  expect(source.error?.message).toBeUndefined();
  expect(again.comparison()?.equal).toBe(true);
  again.backend.vm?.destroy();
}

describe('an abort ends a migration', () => {
  it('whose register at the source cannot be read', async () => {
    const w = world({ registers: { source: hangsReading(), destination: memoryRegister() } });
    const stop = new AbortController();
    w.environment.setTimer(500, () => stop.abort());
    const { source, destination } = await runWithin(w, limitMs, { source: stop.signal });
    expect(source).toMatchObject({ ...aborted, error: { code: 'aborted', guest: 'running' } });
    expect(destination.outcome).toBe('failed');
    await expectMigrates(w);
  });

  it('whose register at the destination cannot be read', async () => {
    const w = world({ registers: { source: memoryRegister(), destination: hangsReading() } });
    const stop = new AbortController();
    w.environment.setTimer(500, () => stop.abort());
    const { source, destination } = await runWithin(w, limitMs, { destination: stop.signal });
    expect(destination).toMatchObject(aborted);
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
    await expectMigrates(w);
  });

  it('whose disks at the destination cannot be flushed', async () => {
    const w = world({
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          disks: vm.disks.map((disk) => withChanges(disk, { flush: never })),
        }),
    });
    const stop = new AbortController();
    w.environment.setTimer(3000, () => stop.abort());
    const { source, destination } = await runWithin(w, limitMs, { destination: stop.signal });
    expect(destination).toMatchObject(aborted);
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
    await expectMigrates(w);
  });

  it('whose VM cannot be sealed', async () => {
    const w = world({ sourceVm: (vm) => withChanges<SourceVm>(vm, { seal: never }) });
    const stop = new AbortController();
    w.source.on('phase', (phase) => {
      if (phase === 'handover') w.environment.setTimer(100, () => stop.abort());
    });
    const { source } = await runWithin(w, limitMs, { source: stop.signal });
    expect(source).toMatchObject({
      ...aborted,
      error: { code: 'aborted', phase: 'handover', guest: 'running' },
    });
    await expectMigrates(w);
  });
});

describe('nobody has to abort a migration', () => {
  it('whose VM cannot be sealed: the limit of the stun ends it', async () => {
    const w = world({
      // A seal that hangs is waited for, for a second; the destination waits for GO longer than that.
      policy: { stunMsMax: 500, decideMsMax: 5000 },
      sourceVm: (vm) => withChanges<SourceVm>(vm, { seal: never }),
    });
    const { source } = await runWithin(w, limitMs);
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'stun-timeout', guest: 'running' } });
    await expectMigrates(w);
  });

  it('whose claim of given hangs: the destination declines, the source takes back', async () => {
    const inner = memoryRegister();
    const hangs: OwnershipRegister = {
      read: inner.read,
      claim: (...args) => (args[3] === 'given' ? never() : inner.claim(...args)),
    };
    const w = world({ registers: { source: hangs, destination: memoryRegister() } });
    const { source, destination } = await runWithin(w, limitMs);
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'declined' } });
    expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(w.vm.state).toBe('running');
    await expectMigrates(w);
  });

  it('whose claim of owner hangs: one end or nobody runs the guest, and both say who', async () => {
    const inner = memoryRegister();
    const hangs: OwnershipRegister = {
      read: inner.read,
      claim: (...args) => (args[3] === 'owner' ? never() : inner.claim(...args)),
    };
    const w = world({ registers: { source: memoryRegister(), destination: hangs } });
    const { source, destination } = await runWithin(w, limitMs);
    expect([source.owner, destination.owner]).toEqual(['source', 'source']);
    expect(w.vm.state).toBe('running');
    expect(w.backend.vm?.state).not.toBe('running');
  });

  it('whose guest cannot be resumed: the rest is cleaned up, and the report says so', async () => {
    const w = world({
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, { seal: () => Promise.reject(new Error('no')), resume: never }),
    });
    const { source } = await runWithin(w, limitMs);
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'unknown' } });
    expect(source.error?.message).toContain('clean-up');
    await w.vm.source().resume();
    await expectMigrates(w);
  });
});

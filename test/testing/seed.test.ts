/**
 * Goal: a disk of which little has changed costs little, and comparing over a distance goes as fast as the
 * disks can be read. Method: simulated VMs, of generations, whose content is real bytes on the wire; virtual
 * time. LONGHAUL_SEED_GIB=4 moves a disk of that size.
 */
import { describe, expect, test } from 'vitest';
import { createSimulatedDisk, type SimulatedDisk } from '../../src/testing/sim/disk.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createVmWorld, mebibyte } from './vm-world.ts';

const gib = Number(process.env.LONGHAUL_SEED_GIB ?? 0);
const wholeBytes = gib > 0 ? gib * 1024 * mebibyte : 128 * mebibyte;
const regionBytes = 64 << 10;

/** A disk as it is at the source, all of it content, but for one region in so many. */
function replica(disk: SimulatedDisk, everyNth: number): SimulatedDisk {
  const { generations, unitBytes } = disk.space;
  const units = regionBytes / unitBytes;
  for (let unit = 0; everyNth > 0 && unit < generations.size; unit += everyNth * units) {
    generations.setRange(unit, Math.min(generations.size, unit + units), 7);
  }
  return disk;
}

function createSeedWorld(
  sizeBytes: number,
  everyNth: number,
  link: { rttMs: number; rateMbit: number },
  mibPerSecond = 0,
) {
  const environment = createVirtualEnvironment();
  const limits = mibPerSecond > 0 ? { bytesPerSecond: mibPerSecond * mebibyte } : {};
  const disk = { id: 'disk0', sizeBytes, allocatedFraction: 1 };
  const existing = replica(createSimulatedDisk(disk, { environment, vmId: 'vm-1' }), everyNth);
  return createVmWorld({
    environment,
    link,
    vm: { memory: { sizeBytes: mebibyte }, disks: [{ ...disk, ...limits }] },
    backend: { existingDisks: [existing], disk: limits },
  });
}

describe('a disk of which 3 % have changed', () => {
  test('moves with 6 % of its bytes on the wire', { timeout: 600_000 }, async () => {
    // One region in 33: every change is a region's.
    const world = createSeedWorld(wholeBytes, 33, { rttMs: 20, rateMbit: 1000 });
    const { source, destination } = await world.migrate({ seed: 'compare' });
    expect(source.outcome).toBe('completed');
    expect(world.comparison()?.summary).toBe('');
    expect(source.bytes.disk + source.bytes.unchanged).toBe(wholeBytes);
    expect(source.bytes.disk).toBeLessThan(0.031 * wholeBytes);
    expect(source.bytes.wire - source.bytes.memory).toBeLessThan(0.06 * wholeBytes);
    expect(destination.bytes).toMatchObject({ disk: source.bytes.disk, unchanged: source.bytes.unchanged });
    if (gib > 0) process.stdout.write(`${JSON.stringify({ ...source.bytes, totalMs: source.totalMs })}\n`);
  });
});

describe('a simulated host that keeps its disks', () => {
  test.each([true, false])('spares what a failed attempt has left there: %s', async (keepsDisks) => {
    const world = createVmWorld({ backend: { keepsDisks } });
    world.backend.addFault({ point: 'disk-write', effect: 'fail', disk: 'disk0', skip: 16 });
    const failed = await world.migrate({ seed: 'compare' });
    expect(failed.source).toMatchObject({ outcome: 'failed', bytes: { unchanged: 0 } });
    const { source } = await world.migrate({ seed: 'compare' });
    expect(source.outcome).toBe('completed');
    expect(world.comparison()?.summary).toBe('');
    if (keepsDisks) expect(source.bytes.unchanged).toBeGreaterThan(mebibyte);
    else expect(source.bytes.unchanged).toBe(0);
  });
});

describe('over 200 ms', () => {
  const sizeBytes = 64 * mebibyte;
  const mibPerSecond = 100;
  const readMs = 640;

  test('an equal disk takes the time of reading it, and two round trips', async () => {
    const world = createSeedWorld(sizeBytes, 0, { rttMs: 200, rateMbit: 100 }, mibPerSecond);
    const { source } = await world.migrate({ seed: 'compare' });
    expect(source.outcome).toBe('completed');
    expect(source.bytes.disk).toBe(0);
    expect(source.phases.copyDisks).toBeLessThan(readMs + 400);
  });

  test('which is much less than sending it', async () => {
    const world = createSeedWorld(sizeBytes, 0, { rttMs: 200, rateMbit: 100 }, mibPerSecond);
    const { source } = await world.migrate();
    expect(source.phases.copyDisks).toBeGreaterThan(4 * readMs);
  });
});

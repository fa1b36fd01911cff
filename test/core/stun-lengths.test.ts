/**
 * Goal: how long a guest stands still, and that what is slow elsewhere does not lengthen it, nor a destination's disk that is slower than the guest writes. Method: whole migrations in the simulator, in virtual time; the guest's own longest
 * pause stands beside what the report says.
 */
import { describe, expect, it } from 'vitest';
import type { MigrationPolicy, MigrationReport } from '../../src/index.ts';
import type { DiskLimits } from '../../src/testing/sim/disk.ts';
import type { Scenario } from '../../src/testing/sim/scenario.ts';
import { simulate } from '../../src/testing/sim/simulate.ts';
import { oltp, simulatedDirtier, simulatedWriter } from '../../src/testing/sim/workloads.ts';

const mebibyte = 1 << 20;

interface Move {
  readonly rttMs: number;
  readonly policy?: MigrationPolicy;
  readonly memoryMiB?: number;
  readonly diskMiB?: number;
  readonly destinationDisk?: DiskLimits;
  readonly lossProbability?: number;
  readonly seed?: number;
}

/** The laboratory's guest: 3 MB/s of writes over 64 MiB, 8 MB/s of memory, over 400 Mbit/s. */
async function moved(move: Move) {
  const { rttMs, policy = {}, memoryMiB = 256, diskMiB = 256, lossProbability = 0, seed = 1 } = move;
  const scenario: Scenario = {
    vm: {
      memory: { sizeBytes: memoryMiB * mebibyte, usedFraction: 0.9 },
      disks: [{ id: 'disk0', sizeBytes: diskMiB * mebibyte, allocatedFraction: 1 }],
      workloads: [
        simulatedWriter({ disk: 'disk0', bytesPerSecond: 3e6, ioBytes: 8192 }),
        simulatedDirtier({ bytesPerSecond: 8e6, hotBytes: 64 * mebibyte }),
      ],
    },
    paths: [{ name: 'wan', rateMbit: 400, delayMs: rttMs / 2, queueMs: 50, lossProbability }],
    ...(move.destinationDisk === undefined ? {} : { hosts: { disk: move.destinationDisk } }),
    policy,
    registers: 'own',
    timeline: [],
  };
  const { reports, guest, violations } = await simulate({ seed, scenario });
  expect(violations).toEqual([]);
  expect(reports.source?.outcome).toBe('completed');
  const pausedMs = guest.find(({ label }) => label === 'migration')?.longestPauseMs ?? Number.NaN;
  return { report: reports.source as MigrationReport, pausedMs };
}

describe('a guest stands still', { timeout: 120_000 }, () => {
  it.each([
    ['confirmed', 1, 1.5],
    ['confirmed', 50, 1.5],
    ['confirmed', 100, 1.5],
    ['confirmed', 200, 1.5],
    ['one-flight', 1, 0.5],
    ['one-flight', 50, 0.5],
    ['one-flight', 100, 0.5],
    ['one-flight', 200, 0.5],
  ] as const)('%s, %i ms away: for %f round trips, and 150 ms', async (handover, rttMs, trips) => {
    const { report, pausedMs } = await moved({ rttMs, policy: { handover } });
    expect(report.downtimeMs).toBeLessThanOrEqual(trips * rttMs + 150);
    const { uncertaintyMs = Number.NaN, ...parts } = report.downtime ?? {};
    const sum = Object.values(parts).reduce((total, ms) => total + ms, 0);
    expect(sum).toBeCloseTo(report.downtimeMs, 6);
    expect(Math.abs(pausedMs - report.downtimeMs)).toBeLessThanOrEqual(uncertaintyMs + 1);
  });

  it.each([
    ['confirmed', 1.5],
    ['one-flight', 0.5],
  ] as const)(
    '%s, 100 ms away, one packet of 1000 lost: for %f round trips, and 250 ms',
    async (handover, trips) => {
      const downtimes: number[] = [];
      for (let seed = 1; seed <= 5; seed++) {
        const lossy = { rttMs: 100, lossProbability: 0.001, memoryMiB: 96, diskMiB: 16 };
        const { report } = await moved({ ...lossy, policy: { handover }, seed });
        downtimes.push(report.downtimeMs);
      }
      // The median: what a single loss costs depends on which packet it is.
      expect(downtimes.sort((one, other) => one - other)[2]).toBeLessThanOrEqual(trips * 100 + 250);
    },
  );

  it('no longer for 1 GiB of a disk that the destination writes at 50 MB/s', async () => {
    const fast = await moved({ rttMs: 20, diskMiB: 1024 });
    const slow = await moved({ rttMs: 20, diskMiB: 1024, destinationDisk: { bytesPerSecond: 50e6 } });
    expect(slow.report.downtimeMs - fast.report.downtimeMs).toBeLessThanOrEqual(100);
  });
});

describe("a destination's disk of a certain latency, eight writes at once", { timeout: 120_000 }, () => {
  /** A guest with little memory, so that the stun could come at once. */
  async function movedTo(
    latencyMs: number,
    guest: { iops: number; hotBytes: number },
    downtimeMsMax: number,
  ) {
    const scenario: Scenario = {
      vm: {
        memory: { sizeBytes: 4 * mebibyte, usedFraction: 0.5 },
        disks: [{ id: 'disk0', sizeBytes: 64 * mebibyte, allocatedFraction: 0.1 }],
        workloads: [oltp({ disk: 'disk0', ioBytes: 16_384, readFraction: 0, ...guest })],
      },
      paths: [{ name: 'wan', rateMbit: 1000, delayMs: 5, queueMs: 50 }],
      hosts: { disk: { latencyMs } },
      policy: { downtimeMsMax, roundsMax: 60 },
      registers: 'own',
      timeline: [],
    };
    const { reports, violations } = await simulate({ seed: 1, scenario });
    expect(violations).toEqual([]);
    return reports.source as MigrationReport;
  }

  it('is known to have more to write than the downtime allows, before the guest is stunned, which is slowed instead', async () => {
    // 80 writes a second, and 160: the guest makes 300, over all of the disk.
    for (const [latencyMs, downtimeMsMax] of [
      [100, 1000],
      [50, 300],
    ] as const) {
      const report = await movedTo(latencyMs, { iops: 300, hotBytes: 64 * mebibyte }, downtimeMsMax);
      expect(report.error?.message).toBeUndefined();
      expect(report.downtimeMs).toBeLessThanOrEqual(downtimeMsMax);
      expect(report.throttleMax).toBeGreaterThanOrEqual(0.4);
      expect(report.totalMs).toBeLessThanOrEqual(40_000);
    }
  });

  it('has to write all that the guest goes through again and again: that takes too long, and is not tried', async () => {
    const report = await movedTo(50, { iops: 2500, hotBytes: 8 * mebibyte }, 300);
    expect(report).toMatchObject({ downtimeMs: 0, error: { code: 'not-converging', guest: 'running' } });
    expect(report.error?.message).toMatch(/\d{4} ms of it to flush disks/);
  });

  it('need not write what was written again meanwhile: a guest that writes one block all the time is not slowed', async () => {
    const report = await movedTo(50, { iops: 300, hotBytes: 16_384 }, 300);
    expect(report.error?.message).toBeUndefined();
    expect(report.downtimeMs).toBeLessThanOrEqual(300);
    expect(report.throttleMax).toBe(0);
    expect(report.totalMs).toBeLessThanOrEqual(5000);
  });
});

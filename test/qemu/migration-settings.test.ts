/**
 * Goal: QEMU is only ever asked for throttles that it takes: whole per cent from 1 to 99, the first and the hardest of them in one command and the
 * same, for it refuses others. Method: a QEMU that answers from a table and checks as the real one does.
 */
import { expect, it } from 'vitest';
import { MigrationSettings } from '../../src/backends/qemu/migration-settings.ts';
import type { QmpClient } from '../../src/backends/qemu/qmp.ts';

const capabilities = ['return-path', 'switchover-ack', 'auto-converge'];

async function settings() {
  const throttles: number[] = [];
  const qmp = {
    version: { major: 10, minor: 0 },
    execute: async (command: string, args: Readonly<Record<string, number>> = {}) => {
      if (command === 'query-migrate-capabilities')
        return capabilities.map((capability) => ({ capability, state: false }));
      if (command !== 'migrate-set-parameters') return {};
      const { 'cpu-throttle-initial': initial = 0, 'max-cpu-throttle': hardest = 0 } = args;
      if (!Number.isInteger(initial) || initial < 1 || initial > 99 || hardest < initial) {
        throw new Error(`Parameter 'cpu_throttle_initial' expects an integer in the range of 1 to 99`);
      }
      expect(hardest).toBe(initial);
      throttles.push(initial);
      return {};
    },
  };
  return { throttles, settings: await MigrationSettings.read(qmp as unknown as QmpClient) };
}

it('asks for whole per cent, and for 1 % where there is to be none', async () => {
  const { throttles, settings: ours } = await settings();
  await ours.apply();
  for (let percent = 0; percent < 100; percent++) await ours.setThrottle(percent / 100);
  expect(throttles).toEqual([1, 1, ...Array.from({ length: 99 }, (_, index) => index + 1)]);
  await ours.setThrottle(0.294);
  await ours.setThrottle(0.29 + 1e-12);
  expect(throttles.slice(-2)).toEqual([29, 29]);
});

it('keeps one that was set before a migration for its beginning', async () => {
  const { throttles, settings: ours } = await settings();
  await ours.setThrottle(0.4);
  expect(throttles).toEqual([]);
  await ours.apply();
  expect(throttles).toEqual([40]);
});

/**
 * Goal: what an operator was told is done stays done, though a guest that outruns the mirror's buffer has
 * parts of a disk copied again. Method: bursts of writes to a disk that was copied, over a slow link.
 */
import { expect, it } from 'vitest';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, createWorld, mebibyte } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

it('the progress of a disk does not run backwards', async () => {
  const environment = createVirtualEnvironment();
  const vm = busyVm(environment, { idle: true });
  const w = createWorld({
    environment,
    vm,
    link: { rttMs: 40, rateMbit: 50 },
    policy: { mirrorBufferBytesMax: mebibyte },
  });
  const done = new Map<string, number>();
  const backwards: string[] = [];
  w.source.on('progress', ({ streams }) => {
    for (const { name, doneBytes } of streams) {
      if (doneBytes < (done.get(name) ?? 0)) backwards.push(`${name}: ${done.get(name)} to ${doneBytes}`);
      done.set(name, doneBytes);
    }
  });
  const block = new Uint8Array(mebibyte / 4);
  const burst = (round: number) => {
    if (round > 40 || vm.state !== 'running') return;
    block.fill(round);
    for (let at = 0; at < 2 * mebibyte; at += block.byteLength) {
      vm.guest.writeDisk('disk1', at, block).catch(() => {});
    }
    environment.setTimer(50, () => burst(round + 1));
  };
  w.source.on('phase', (phase) => {
    if (phase === 'copyMemory') burst(1);
  });
  const { source } = await runWithin(w, 120_000);
  expect(source.outcome).toBe('completed');
  expect(source.guestWrites.setBack).toBeGreaterThan(0);
  expect(done.get('disk1')).toBe(3 * mebibyte);
  expect(backwards).toEqual([]);
  expect(w.comparison()?.equal).toBe(true);
  w.backend.vm?.destroy();
});

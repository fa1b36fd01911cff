/**
 * Goal: a guest is not stunned for a device state that its downtime has no room for, where that is known: by the backend's word, or because such a state was saved before. Method: an idle guest over a
 * link on which its state alone takes three times the downtime that is allowed, in virtual time.
 */
import { afterEach, expect, it } from 'vitest';
import type { SourceVm } from '../../../src/index.ts';
import { createWorld, mebibyte, type World, withChanges } from '../../support/worlds.ts';

const stateBytes = 24 * mebibyte;
const worlds: World[] = [];
afterEach(() => {
  for (const { vm, backend } of worlds.splice(0)) {
    vm.destroy();
    backend.vm?.destroy();
  }
});

function world(changes: Partial<SourceVm>): World {
  const w = createWorld({
    idle: true,
    link: { rttMs: 2, rateMbit: 200 },
    policy: { downtimeMsMax: 300, stunMsMax: 600, roundsMax: 40 },
    sourceVm: (vm) => withChanges<SourceVm>(vm, changes),
  });
  worlds.push(w);
  return w;
}

async function* largeState(): AsyncGenerator<Uint8Array> {
  for (let sent = 0; sent < stateBytes; sent += mebibyte) yield new Uint8Array(mebibyte);
}

function retreatsOf(w: World): string[] {
  const codes: string[] = [];
  w.source.on('retreat', ({ error }) => codes.push(error.code));
  return codes;
}

it('is not stunned where the backend says how much state there is', async () => {
  const w = world({ deviceStateBytes: stateBytes, saveDeviceState: largeState });
  const retreats = retreatsOf(w);
  const { source } = await w.run();
  expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'not-converging' } });
  expect([retreats, source.lost.pauseMs]).toEqual([[], 0]);
  expect(w.vm.state).toBe('running');
});

it('is stunned once where nobody says so', async () => {
  const w = world({ saveDeviceState: largeState });
  const retreats = retreatsOf(w);
  const { source } = await w.run();
  expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'not-converging' } });
  expect(retreats).toEqual(['stun-timeout']);
  expect(w.vm.state).toBe('running');
});

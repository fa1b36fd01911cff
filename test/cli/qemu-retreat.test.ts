/**
 * Goal: a switchover of a real guest that fails costs the guest a pause, and nothing else. Method: the engine between two QEMUs, in this
 * process, so that a step of its first switchover can be held until its time is up; the guest writes all the while, and where it arrives, or
 * stays, it reads again all that it ever wrote. A rehearsal goes over the command line, and the same guest is moved after it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import {
  type CallOptions,
  createDestination,
  createSource,
  type DestinationVm,
  fileRegister,
  type MigrationPolicy,
  type MigrationReport,
  memoryLink,
  type Phase,
  type Retreat,
  type SourceVm,
} from '../../src/index.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { withChanges } from '../support/worlds.ts';
import { expectSound, type Host, QemuStage, vmId } from './support/qemu-stage.ts';

const qemu = qemuAvailable();
const suite = qemu.available ? 'a real guest' : `a real guest (skipped: ${qemu.why})`;
const load = { writesPerSecond: 300, dirtyMiBPerSecond: 8 };

interface Parts {
  readonly policy?: MigrationPolicy;
  readonly sourceVm?: (vm: SourceVm) => SourceVm;
  /** `verifies`: whether the destination looks at what FINAL named. */
  readonly destinationVm?: (vm: DestinationVm, verifies: () => boolean) => DestinationVm;
}

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const stage = new QemuStage({ formats: ['raw', 'qcow2'], load });

  /** Moves the guest by an engine of ours, with a part of it replaced. */
  async function move(source: Host, destination: Host, parts: Parts) {
    const opened = await openQemuSource({ qmp: source.guest.qmpPath, vmId });
    const backend = createQemuBackend({ qmp: destination.guest.qmpPath });
    const link = memoryLink({ rttMs: 2 });
    const sending = createSource({
      vm: parts.sourceVm?.(opened) ?? opened,
      transport: link.source,
      register: fileRegister(source.register),
      policy: { downtimeMsMax: 1000, ...parts.policy },
    });
    let phase: Phase = 'idle';
    const receiving = createDestination({
      backend: withChanges(backend, {
        prepare: async (...call) => {
          const vm = await backend.prepare(...call);
          return parts.destinationVm?.(vm, () => phase === 'verify') ?? vm;
        },
      }),
      transport: link.destination,
      register: fileRegister(destination.register),
    });
    receiving.on('phase', (next) => {
      phase = next;
    });
    const retreats: Retreat[] = [];
    const states: string[] = [];
    sending.on('retreat', (retreat) => {
      retreats.push(retreat);
      states.push(opened.runState());
    });
    const reports = await Promise.all([sending.run(), receiving.run()]);
    await opened.detach();
    return { reports, retreats, states };
  }

  /** It went to the destination in the second try, and lost nothing on the way. */
  async function expectSecondTry(parts: Parts, code: string): Promise<MigrationReport> {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const { reports, retreats, states } = await move(source, destination, parts);
    for (const report of reports) {
      expect(report.error).toBeUndefined();
      expect(report).toMatchObject({ outcome: 'completed', owner: 'destination', switchoverAttempts: 2 });
    }
    expect(retreats).toMatchObject([{ attempt: 1, error: { code, guest: 'running' } }]);
    expect(states).toEqual(['running']);
    await expectSound(destination);
    await stage.end(source);
    stage.leaveGuest(destination);
    return reports[0];
  }

  test('whose state was not saved in time is stunned again later, its memory sent anew', async () => {
    let saves = 0;
    const report = await expectSecondTry(
      {
        policy: { stunMsMax: 1000 },
        sourceVm: (vm) =>
          withChanges<SourceVm>(vm, {
            saveDeviceState: async function* (call?: CallOptions) {
              saves += 1;
              yield* saves === 1 ? held(vm.saveDeviceState(call), call) : vm.saveDeviceState(call);
            },
          }),
      },
      'stun-timeout',
    );
    expect(saves).toBe(2);
    expect(report.guestWrites.mirrored).toBeGreaterThan(0);
  });

  test('whose destination was not ready in time is received on, if it had not begun to load', async () => {
    let held = 0;
    await expectSecondTry(
      {
        policy: { stunMsMax: 1000 },
        destinationVm: (vm, verifies) =>
          withChanges<DestinationVm>(vm, {
            disks: vm.disks.map((disk) =>
              withChanges(disk, {
                flush: async (call) => {
                  if (verifies() && held < vm.disks.length) {
                    held += 1;
                    await sleep(3000);
                  }
                  await disk.flush(call);
                },
              }),
            ),
          }),
      },
      'stun-timeout',
    );
    expect(held).toBe(2);
  });

  test('whose destination was loading when time was up stays, and is sound', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const { reports, retreats } = await move(source, destination, {
      policy: { stunMsMax: 1000 },
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          loadDeviceState: async (state, call) => {
            await vm.loadDeviceState(state, call);
            await held([], call).next();
          },
        }),
    });
    for (const report of reports) {
      expect(report).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        error: { code: 'stun-timeout', guest: 'running' },
      });
    }
    expect(retreats).toHaveLength(1);
    await expectSound(source);
    stage.leaveGuest(source);
  });

  test('is rehearsed, told what a move would take, and then moved', async () => {
    const source = await stage.takeGuest();
    const there = await stage.waiting();
    const claimed = await fileRegister(source.register).read(vmId);
    const { process: receiving, to } = await stage.receive(there);
    const sent = await stage.send(source, to, '--rehearse', '--downtime-ms', '1000').ended;
    const received = await receiving.ended;
    expect(sent.code, sent.stdout + sent.stderr).toBe(0);
    expect(received.code, received.stdout + received.stderr).toBe(0);
    const ending = { vmId, outcome: 'rehearsed', owner: 'source', error: null, switchoverAttempts: 1 };
    const rehearsed = JSON.parse(sent.stdout);
    expect(rehearsed).toMatchObject({ role: 'source', ...ending });
    expect(JSON.parse(received.stdout)).toMatchObject({ role: 'destination', ...ending });
    expect(rehearsed.downtimeMs).toBeGreaterThan(0);
    expect(await fileRegister(source.register).read(vmId)).toEqual(claimed);
    expect(await fileRegister(there.register).read(vmId)).toEqual([]);
    await expectSound(source);

    const destination = await stage.waiting();
    await stage.moveTo(source, destination, await stage.receive(destination));
  });
});

/** The iterable itself, but that it does not end before it is aborted. */
async function* held<T>(
  pieces: AsyncIterable<T> | Iterable<T>,
  { signal }: CallOptions = {},
): AsyncGenerator<T> {
  yield* pieces;
  await sleep(60_000, undefined, { signal, ref: false });
}

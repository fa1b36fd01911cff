/**
 * Goal: the thread that an embedder runs in is not in the guest's path, and whatever happens in one of the
 * two threads, the other one knows who has the guest. Method: a real Linux guest under load; the built
 * package in a process of its own, which stands still, cancels, or has one of its threads die in the middle;
 * the destination's engine is in this process. The guest itself tells how long its writes took, and reads
 * again all that it ever wrote.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createImageBackend } from '../../src/backends/images/index.ts';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import {
  type BlockDevice,
  createDestination,
  type DestinationVm,
  fileRegister,
  type HypervisorBackend,
  type Migration,
  type MigrationReport,
  type OwnershipRegister,
  recover,
} from '../../src/index.ts';
import { tcp } from '../../src/transports/index.ts';
import { deferred } from '../../src/util/promises.ts';
import { expectSound, type Host, QemuStage, vmId } from '../cli/support/qemu-stage.ts';
import { QmpGate } from '../cli/support/qmp-gate.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { withChanges } from '../support/worlds.ts';
import { type BuiltEmbedder, buildEmbedder, type Embedder } from './support/built-embedder.ts';
import type { Config } from './support/protocol.ts';

const qemu = qemuAvailable();
const suite = qemu.available ? 'a real guest' : `a real guest (skipped: ${qemu.why})`;
const load = { writesPerSecond: 300, dirtyMiBPerSecond: 2 };
/** Who dies here does not come back. */
const policy = { downtimeMsMax: 1000, outageMsMax: 500, silenceMsMax: 2000, decideMsMax: 2000 };
/** Memory takes some seconds, in which all of the disks is mirrored. */
const slow = { policy: { ...policy, rateBytesPerSecondMax: 16e6 } };
const blockMs = 2000;
/**
 * Quietly it is below 50; a machine that is busy with other things adds to it, but does not come near
 * `blockMs`.
 */
const longestMsMax = 500;

interface Move {
  readonly embedder: Embedder;
  readonly destination: Host;
  readonly receiving: Migration;
  /** The destination's end. */
  readonly received: Promise<MigrationReport>;
}

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const stage = new QemuStage({ formats: ['raw', 'qcow2'], load });
  let built: BuiltEmbedder;
  beforeAll(async () => {
    built = await buildEmbedder();
  });
  afterAll(() => built?.[Symbol.dispose]());

  async function move(
    source: Host,
    config: Partial<Config> = {},
    destinationVm: (vm: DestinationVm) => DestinationVm | Promise<DestinationVm> = (vm) => vm,
    register = '',
    hypervisor?: HypervisorBackend,
    registering = (own: OwnershipRegister) => own,
  ): Promise<Move> {
    const destination = await stage.waiting();
    const transport = tcp({ listen: { host: '127.0.0.1', port: 0 } });
    const backend = hypervisor ?? createQemuBackend({ qmp: destination.guest.qmpPath });
    const receiving = createDestination({
      backend: withChanges(backend, {
        prepare: async (...call) => destinationVm(await backend.prepare(...call)),
      }),
      transport,
      register: registering(fileRegister(register || destination.register)),
    });
    const received = receiving.run().finally(() => transport.close());
    const { port } = await transport.listening();
    const { guest, register: directory } = source;
    const embedder = built.start({ qmp: guest.qmpPath, vmId, port, directory, policy, ...config });
    return { embedder, destination, receiving, received };
  }

  /**
   * The longest write of the guest while the embedder's main thread stands still, and what arrived at the
   * destination meanwhile.
   */
  async function whileBlocked(source: Host, { embedder, receiving }: Move) {
    let bytes = 0;
    receiving.on('progress', ({ transferredBytes }) => {
      bytes = transferredBytes;
    });
    await embedder.says('phase', ({ phase }) => phase === 'copyMemory');
    await source.guest.reset();
    const before = bytes;
    embedder.tell({ do: 'block', ms: blockMs });
    const { ms } = await embedder.says('unblocked');
    const { longestMs, writeErrors } = await source.guest.stats();
    expect(ms).toBeGreaterThan(blockMs - 100);
    expect(writeErrors).toBe(0);
    return { longestMs, bytes: bytes - before };
  }

  /** It stays at the source, in one piece, and the embedder has ended by itself. */
  async function expectStays(source: Host, { embedder, received }: Move): Promise<void> {
    expect(await embedder.ended).toBe(0);
    expect(await received).toMatchObject({ owner: 'source' });
    await expectSound(source);
    stage.leaveGuest(source);
  }

  test('waits for an embedder whose thread the engine is in, so that the next test sees it', async () => {
    const source = await stage.takeGuest();
    const moving = await move(source, { ...slow, inThread: true });
    const { longestMs } = await whileBlocked(source, moving);
    tell('the main thread', longestMs);
    expect(longestMs).toBeGreaterThan(blockMs / 2);
    moving.embedder.tell({ do: 'abort' });
    await expectStays(source, moving);
  });

  test('does not wait for an embedder that stands still, and moves', async () => {
    const source = await stage.takeGuest();
    const moving = await move(source, slow);
    const { longestMs, bytes } = await whileBlocked(source, moving);
    tell('a thread of its own', longestMs);
    expect(longestMs).toBeLessThan(longestMsMax);
    expect(bytes).toBeGreaterThan(slow.policy.rateBytesPerSecondMax / 2);

    const { embedder, destination, received } = moving;
    const { report, error, frozen, again } = await embedder.says('report');
    expect(error).toBeUndefined();
    expect(report).toMatchObject({ role: 'source', vmId, outcome: 'completed', owner: 'destination' });
    expect(report.guestWrites.mirrored).toBeGreaterThan(0);
    expect({ frozen, again }).toEqual({ frozen: true, again: 'invalid-state' });
    expect(embedder.said('claim')).toMatchObject([{ claim: [vmId, report.epoch, 'source', 'given'] }]);
    const phases = [
      'connect',
      'prepare',
      'copyDisks',
      'copyMemory',
      'stun',
      'verify',
      'handover',
      'release',
      'done',
    ];
    expect(embedder.said('phase').map(({ phase }) => phase)).toEqual(phases);
    expect(await embedder.ended).toBe(0);
    expect(await received).toMatchObject({ outcome: 'completed' });
    expect(await source.guest.exited).toEqual({ code: 0, signal: null });
    await expectSound(destination);
    stage.leaveGuest(destination);
  });

  test('says what it will take, and goes by what it has seen for that', async () => {
    const source = await stage.takeGuest();
    const looked = deferred<void>();
    const moving = await move(source, { estimate: true }, async (vm) => {
      await looked.promise;
      return vm;
    });
    const { embedder, destination, received } = moving;
    const { estimate, frozen } = await embedder.says('estimate');
    expect(frozen).toBe(true);
    expect(estimate).toMatchObject({ converges: 'yes', throttle: 0 });
    expect(estimate.total.highMs).toBeGreaterThan(estimate.downtime.lowMs);
    expect(estimate.dirtyBytesPerSecond).toBeGreaterThan(0);
    expect(Object.values(estimate.diskBytesPerSecond).some((rate) => rate > 0)).toBe(true);
    // Nothing is sent yet, so it is the estimate that tells how fast the link is.
    const { predicted } = await embedder.says('progress', ({ phase }) => phase === 'prepare');
    looked.resolve();
    expect(predicted).toBe(true);
    expect((await embedder.says('report')).report).toMatchObject({ outcome: 'completed' });
    expect(embedder.said('opened')).toHaveLength(1);
    expect(await received).toMatchObject({ outcome: 'completed' });
    await expectSound(destination);
    stage.leaveGuest(destination);
  });

  test('does not wait for the engine, whose taps are in threads of their own and end with it', async () => {
    const source = await stage.takeGuest();
    const moving = await move(source, { ...slow, mortal: true });
    const { embedder } = moving;
    await embedder.says('phase', ({ phase }) => phase === 'copyMemory');
    await source.guest.reset();
    // Shorter than what either end takes for a silence.
    embedder.tell({ do: 'blockEngine', ms: blockMs / 2 });
    await sleep(blockMs / 2);
    const { longestMs, writes, writeErrors } = await source.guest.stats();
    tell('a thread of its own that stands still', longestMs);
    expect(writes).toBeGreaterThan(load.writesPerSecond / 4);
    expect(longestMs).toBeLessThan(longestMsMax);
    expect(writeErrors).toBe(0);
    embedder.tell({ do: 'die', how: 'throw' });
    const { error } = await embedder.says('report');
    expect(error).toMatchObject({ code: 'internal', owner: 'source', guest: 'running' });
    // Nothing but a thread that lives could keep it from ending; and the guest writes on.
    expect(await embedder.ended).toBe(0);
    const before = await source.guest.stats();
    while ((await source.guest.stats()).writes === before.writes);
    await expectStays(source, moving);
  });

  test('stays when the engine does not take it, and nothing is left in its QEMU', async () => {
    const source = await stage.takeGuest();
    const { guest, register: directory } = source;
    const wrong = { ...policy, disks: { nowhere: 'leave' } } as const;
    const embedder = built.start({ qmp: guest.qmpPath, vmId, port: 1, directory, policy: wrong });
    const { report, error } = await embedder.says('report');
    expect(report).toMatchObject({ vmId, outcome: 'failed', owner: 'source' });
    expect(error).toMatchObject({ ours: true, code: 'invalid-argument' });
    expect(embedder.said('opened')).toHaveLength(1);
    expect(await embedder.ended).toBe(0);
    await expectSound(source);
    stage.leaveGuest(source);
  });

  test('stays when the embedder cancels', async () => {
    const source = await stage.takeGuest();
    const moving = await move(source, slow);
    await moving.embedder.says('phase', ({ phase }) => phase === 'copyMemory');
    moving.embedder.tell({ do: 'abort' });
    const { report, error } = await moving.embedder.says('report');
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(error).toMatchObject({
      ours: true,
      code: 'aborted',
      phase: 'copyMemory',
      guest: 'running',
      message: 'the operator thought better of it',
    });
    await expectStays(source, moving);
  });

  test('stays when the embedder exits', async () => {
    const source = await stage.takeGuest();
    const { embedder, received } = await move(source, slow);
    await embedder.says('phase', ({ phase }) => phase === 'copyMemory');
    embedder.tell({ do: 'exit' });
    expect(await embedder.ended).toBe(3);
    expect(await received).toMatchObject({ owner: 'source' });
    // Who opens it next takes away what is left.
    await (await openQemuSource({ qmp: source.guest.qmpPath })).detach();
    await expectSound(source);
    stage.leaveGuest(source);
  });

  test.each(['refuses', 'hangs'] as const)('comes back when the register %s', async (register) => {
    const source = await stage.takeGuest();
    const moving = await move(source, { register });
    const { report, error } = await moving.embedder.says('report');
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(error).toMatchObject({ ours: true, code: 'declined', phase: 'handover', guest: 'running' });
    const refused = { name: 'RangeError', message: 'the database is full', code: 'EFULL' };
    expect(error?.causes).toMatchObject([
      { name: 'MigrationError', code: 'register' },
      ...(register === 'refuses' ? [refused] : []),
    ]);
    await expectStays(source, moving);
  });

  test('stays when the thread dies in the middle, and nothing is left in its QEMU', async () => {
    const source = await stage.takeGuest();
    const moving = await move(source, { ...slow, mortal: true });
    await moving.embedder.says('phase', ({ phase }) => phase === 'copyMemory');
    moving.embedder.tell({ do: 'die', how: 'throw' });
    const { report, error } = await moving.embedder.says('report');
    expect(report).toMatchObject({ vmId, outcome: 'failed', owner: 'source' });
    expect(error).toMatchObject({
      code: 'internal',
      phase: 'copyMemory',
      owner: 'source',
      guest: 'running',
      message: 'the thread of the migration died: nobody foresaw this',
      causes: [{ name: 'TypeError', message: 'nobody foresaw this' }],
    });
    expect(moving.embedder.said('phase').at(-1)).toEqual({ type: 'phase', phase: 'done' });
    await expectStays(source, moving);
  });

  test('runs on when the thread dies while it is stunned', async () => {
    const source = await stage.takeGuest();
    const loading = deferred<void>();
    const goOn = deferred<void>();
    const moving = await move(source, { mortal: true }, (vm) =>
      withChanges<DestinationVm>(vm, {
        loadDeviceState: async (...call) => {
          loading.resolve();
          await goOn.promise;
          await vm.loadDeviceState(...call);
        },
      }),
    );
    await loading.promise;
    expect(await source.guest.runState()).not.toBe('running');
    moving.embedder.tell({ do: 'die', how: 'exit' });
    const { report, error } = await moving.embedder.says('report');
    goOn.resolve();
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(error).toMatchObject({ code: 'internal', phase: 'verify', guest: 'running' });
    expect(error?.message).toBe('the thread of the migration died: it ended with code 7');
    await expectStays(source, moving);
  });

  test('runs on when the thread dies while it is stunned for a copy of its disks', async () => {
    const source = await stage.takeGuest();
    const final = deferred<void>();
    const goOn = deferred<void>();
    const images = createImageBackend({ directory: stage.path('') });
    const flush = (disk: BlockDevice) => async () => {
      if ((await source.guest.runState()) !== 'running') {
        final.resolve();
        await goOn.promise;
      }
      await disk.flush();
    };
    const slowly = (vm: DestinationVm) =>
      withChanges(vm, {
        disks: vm.disks.map((disk) => withChanges<BlockDevice>(disk, { flush: flush(disk) })),
      });
    const disksAlone = { policy: { ...policy, memory: 'none' as const }, mortal: true };
    const moving = await move(source, disksAlone, slowly, '', images);
    await final.promise;
    expect(await source.guest.runState()).toBe('paused');
    moving.embedder.tell({ do: 'die', how: 'throw' });
    const { report, error } = await moving.embedder.says('report');
    goOn.resolve();
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(error).toMatchObject({ code: 'internal', guest: 'running' });
    await expectStays(source, moving);
  });

  test('is the source\u2019s when the thread dies once it is claimed back', async () => {
    const source = await stage.takeGuest();
    // The destination's register takes no *owner*, so it declines.
    const moving = await move(source, { register: 'dies reclaimed' }, undefined, '', undefined, (register) =>
      withChanges<OwnershipRegister>(register, {
        claim: async (...claim) => {
          if (claim[3] === 'owner') throw new Error('no room');
          return register.claim(...claim);
        },
      }),
    );
    const { report, error } = await moving.embedder.says('report');
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(error).toMatchObject({ code: 'internal', owner: 'source', guest: 'running' });
    expect(error?.message).toBe('the thread of the migration died: it ended with code 7');
    await expectStays(source, moving);
  });

  test('is undecided when the thread dies once it is given, until recover() has asked', async () => {
    const source = await stage.takeGuest();
    // Both ends have one register: nobody but it is to be asked.
    const moving = await move(source, { register: 'dies' }, undefined, source.register);
    const { report, error } = await moving.embedder.says('report');
    expect(report).toMatchObject({ outcome: 'undecided', owner: 'undecided' });
    expect(error).toMatchObject({
      code: 'owner-undecided',
      phase: 'handover',
      owner: 'undecided',
      guest: 'paused',
    });
    expect(await moving.received).toMatchObject({ owner: 'source' });
    expect(await source.guest.runState()).toBe('postmigrate');
    const register = fileRegister(source.register);
    const vm = await openQemuSource({ qmp: source.guest.qmpPath, recovery: true });
    expect(await recover({ role: 'source', vmId, epoch: report.epoch, register, vm })).toMatchObject({
      owner: 'source',
      action: 'reclaimed',
    });
    await expectStays(source, moving);
  });

  test('has moved when the thread dies as it lets go of it', async () => {
    const source = await stage.takeGuest();
    const quitting = deferred<void>();
    const never = new Promise<void>(() => {});
    const { qmpPath } = source.guest;
    const held = () => {
      quitting.resolve();
      return never;
    };
    using gate = await QmpGate.open(stage.path('gate'), qmpPath, held, 'quit');
    const { embedder, destination, received } = await move(source, { mortal: true, qmp: gate.path });
    await quitting.promise;
    embedder.tell({ do: 'die', how: 'throw' });
    const { report, error } = await embedder.says('report');
    expect(report).toMatchObject({ outcome: 'completed', owner: 'destination' });
    expect(error).toMatchObject({ code: 'hypervisor', phase: 'release', owner: 'destination' });
    expect(await embedder.ended).toBe(0);
    expect(await received).toMatchObject({ outcome: 'completed' });
    await expectSound(destination);
  });
});

function tell(where: string, longestMs: number): void {
  process.stdout.write(`engine in ${where}: the longest write took ${longestMs.toFixed(1)} ms\n`);
}

/**
 * Goal: a plan says when a fault happens, and then it happens as it says, once for each time that is planned.
 * Method: wrappers around small parts in memory, in virtual time; what a fault does to a migration is in
 * migration.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { createMemoryBackend, createMemoryDisk, createMemoryVm } from '../../../src/backends/memory/index.ts';
import type { DirtyTracker } from '../../../src/interfaces/block-device.ts';
import type { Connection } from '../../../src/interfaces/transport.ts';
import { memoryRegister } from '../../../src/registers/index.ts';
import {
  type AnyFault,
  type ConnectionFault,
  type DestinationVmCallFault,
  faultyBackend,
  faultyBlockDevice,
  faultyRegister,
  faultySourceDisk,
  faultySourceVm,
  faultyTransport,
} from '../../../src/testing/index.ts';
import { memoryLink } from '../../../src/transports/memory-link.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';

const mebibyte = 1 << 20;

/** The code of what the promise rejects with; `none` if it resolves. */
function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'none',
    (error: { code?: string }) => error.code ?? String(error),
  );
}

describe('a plan', () => {
  it('counts calls from 1: one of them, all, or all from one on; each fault for itself', async () => {
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: 4096 });
    const readsThatFail = async (nth: Parameters<typeof faultyBlockDevice>[1][number]['nth']) => {
      const faulty = faultyBlockDevice(disk, [
        { on: 'read', ...(nth && { nth }), do: 'fail', code: 'disk-read' },
        { on: 'write', nth: 'every', do: 'fail', code: 'disk-write' },
      ]);
      const failed: number[] = [];
      for (let call = 1; call <= 5; call += 1) {
        if ((await codeOf(faulty.read(0, 1))) === 'disk-read') failed.push(call);
      }
      expect(await codeOf(faulty.write(0, [Uint8Array.of(1)]))).toBe('disk-write');
      return failed;
    };
    expect(await readsThatFail(undefined)).toEqual([1]);
    expect(await readsThatFail(3)).toEqual([3]);
    expect(await readsThatFail('every')).toEqual([1, 2, 3, 4, 5]);
    expect(await readsThatFail({ from: 4 })).toEqual([4, 5]);
  });

  it('tells of every fault when it happens', async () => {
    const happened: AnyFault[] = [];
    const fault = { on: 'read', nth: { from: 2 }, do: 'fail', code: 'register' } as const;
    const register = faultyRegister(memoryRegister(), [fault], { onFault: (each) => happened.push(each) });
    for (let call = 0; call < 3; call += 1) await register.read('vm').catch(() => {});
    expect(happened).toEqual([fault, fault]);
  });

  it('that makes no sense is refused', () => {
    const invalid = expect.objectContaining({ code: 'invalid-argument' });
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: 4096 });
    for (const fault of [
      { on: 'reed', do: 'hang' },
      { on: 'read', nth: 0, do: 'hang' },
      { on: 'read', nth: { from: 1.5 }, do: 'hang' },
      { on: 'read', do: 'delay', ms: -1 },
      { on: 'read', do: 'explode' },
      { on: 'read', do: 'fail' },
      { on: 'read', do: 'delay' },
    ]) {
      expect(() => faultyBlockDevice(disk, [fault as never]), JSON.stringify(fault)).toThrow(invalid);
    }
    const vm = createMemoryVm({ vmId: 'vm', disks: [disk] });
    expect(() => faultySourceVm(vm.source(), { disks: { other: [] } })).toThrow(invalid);
  });
});

describe('a call', () => {
  it('that fails was not made; one that fails afterwards was', async () => {
    const inner = memoryRegister();
    const register = faultyRegister(inner, [
      { on: 'claim', value: 'owner', do: 'fail', code: 'register', message: 'disk full' },
      { on: 'claim', value: 'given', do: 'fail-afterwards', code: 'register' },
    ]);
    await expect(register.claim('vm', 1, 'destination', 'owner')).rejects.toMatchObject({
      name: 'MigrationError',
      code: 'register',
      message: 'disk full',
    });
    expect(await codeOf(register.claim('vm', 1, 'source', 'given'))).toBe('register');
    expect(await inner.read('vm')).toEqual([{ epoch: 1, role: 'source', value: 'given' }]);
    expect(await register.claim('vm', 1, 'destination', 'declined')).toBe('declined');
  });

  it('is late by the time that was planned, unless it is aborted', async () => {
    const environment = createVirtualEnvironment();
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: 4096 });
    const plan = [{ on: 'flush', nth: 'every', do: 'delay', ms: 250 }] as const;
    const faulty = faultyBlockDevice(disk, plan, { environment });
    await environment.run(faulty.flush());
    expect(environment.now()).toBe(250);
    const controller = new AbortController();
    const flushing = codeOf(faulty.flush({ signal: controller.signal }));
    environment.setTimer(100, () => controller.abort());
    expect(await environment.run(flushing)).toBe('aborted');
    expect(environment.now()).toBe(350);
  });

  it('that hangs ends only when it is aborted, also if it was before', async () => {
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: 4096 });
    const faulty = faultyBlockDevice(disk, [{ on: 'read', nth: 'every', do: 'hang' }]);
    const controller = new AbortController();
    const reading = codeOf(faulty.read(0, 1, { signal: controller.signal }));
    const first = await Promise.race([reading, new Promise((resolve) => setImmediate(resolve, 'nothing'))]);
    expect(first).toBe('nothing');
    controller.abort();
    expect(await reading).toBe('aborted');
    expect(await codeOf(faulty.read(0, 1, { signal: controller.signal }))).toBe('aborted');
  });
});

describe('a connection', () => {
  async function connected(...faults: readonly ConnectionFault[]) {
    const link = memoryLink();
    const [near, far] = await Promise.all([
      faultyTransport(link.source, faults).open(),
      link.destination.accept(),
    ]);
    return { near, far };
  }

  async function receive(connection: Connection): Promise<{ bytes: number[]; end: string }> {
    const bytes: number[] = [];
    const end = await codeOf(
      (async () => {
        for await (const chunk of connection.receive()) bytes.push(...chunk);
      })(),
    );
    return { bytes, end };
  }

  it('has one bit turned over, and its sender keeps what it sent', async () => {
    for (const atByte of [0, 2, 3, 6]) {
      const fault = { on: 'connection', do: 'flip', atByte } as const;
      const sent = [Uint8Array.of(10, 20, 30), new Uint8Array(0), Uint8Array.of(40, 50, 60, 70)];
      const expected = [10, 20, 30, 40, 50, 60, 70].map((byte, at) => (at === atByte ? byte ^ 1 : byte));
      for (const way of ['sent', 'received'] as const) {
        const { near, far } = await connected({ ...fault, way });
        const [from, to] = way === 'sent' ? [near, far] : [far, near];
        const receiving = receive(to);
        await from.send(sent);
        await from.close();
        expect(await receiving).toEqual({ bytes: expected, end: 'none' });
        expect(sent.flatMap((chunk) => [...chunk])).toEqual([10, 20, 30, 40, 50, 60, 70]);
      }
    }
  });

  it('breaks once so many bytes have passed, at both ends', async () => {
    const { near, far } = await connected({ on: 'connection', do: 'drop', way: 'sent', atByte: 5 });
    await near.send([Uint8Array.of(1, 2, 3)]);
    const receiving = receive(far);
    expect(await codeOf(near.send([Uint8Array.of(4, 5, 6)]))).toBe('connection-lost');
    expect((await receiving).end).toBe('connection-lost');
    expect(await codeOf(near.send([Uint8Array.of(7)]))).toBe('connection-lost');
    await near.close();

    const other = await connected({ on: 'connection', do: 'drop', way: 'received', atByte: 5 });
    const received = receive(other.near);
    await other.far.send([Uint8Array.of(1, 2, 3)]);
    await other.far.send([Uint8Array.of(4, 5, 6)]);
    expect(await received).toEqual({ bytes: [1, 2, 3, 4, 5], end: 'connection-lost' });
    expect(await codeOf(other.far.send([Uint8Array.of(7)]))).toBe('connection-lost');
  });

  it('stalls once so many bytes have passed, and nobody is told', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ environment, rttMs: 2 });
    const faults = [{ on: 'connection', do: 'stall', way: 'sent', atByte: 2 }] as const;
    const opening = Promise.all([faultyTransport(link.source, faults).open(), link.destination.accept()]);
    const [near, far] = await environment.run(opening);
    const events: string[] = [];
    const receiving = receive(far).then((all) => events.push(`received ${all.bytes}, ${all.end}`));
    const sending = codeOf(near.send([Uint8Array.of(1, 2, 3)])).then((code) => events.push(`sent: ${code}`));
    environment.setTimer(60_000, () => events.push('a minute'));
    await environment.run();
    expect(events).toEqual(['a minute']);
    const closing = near.close().then(() => events.push('closed'));
    await environment.run();
    expect(events).toEqual(['a minute', 'sent: connection-lost']);
    near.abort();
    await environment.run(Promise.all([sending, receiving, closing]));
    expect(events.slice(2).sort()).toEqual(['closed', 'received 1,2, connection-lost']);
  });

  it('that stalls where it receives ends when it is closed', async () => {
    const { near, far } = await connected({ on: 'connection', do: 'stall', way: 'received', atByte: 1 });
    const receiving = receive(near);
    await far.send([Uint8Array.of(1, 2, 3)]);
    await near.close();
    expect(await receiving).toEqual({ bytes: [1], end: 'none' });
  });

  it('is counted with those that were accepted, and others are left alone', async () => {
    const link = memoryLink();
    const fault = { on: 'connection', nth: 2, do: 'flip', way: 'received', atByte: 0 } as const;
    const destination = faultyTransport(link.destination, [fault]);
    const firsts: number[] = [];
    for (let index = 0; index < 3; index += 1) {
      const [near, far] = await Promise.all([link.source.open(), destination.accept()]);
      const receiving = receive(far);
      await near.send([Uint8Array.of(8)]);
      await near.close();
      firsts.push(...(await receiving).bytes);
    }
    expect(firsts).toEqual([8, 9, 8]);
  });
});

describe('a disk', () => {
  it('loses a write, tears one, and reads one wrong', async () => {
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: 4096 });
    const faulty = faultyBlockDevice(disk, [
      { on: 'write', nth: 2, do: 'drop' },
      { on: 'write', nth: 3, do: 'tear', bytes: 2 },
      { on: 'read', do: 'flip', atByte: 1 },
    ]);
    await faulty.write(0, [Uint8Array.of(1, 1, 1, 1)]);
    await faulty.write(0, [Uint8Array.of(2, 2, 2, 2)]);
    expect([...disk.medium.read(0, 4)]).toEqual([1, 1, 1, 1]);
    expect(await codeOf(faulty.write(0, [Uint8Array.of(3), Uint8Array.of(3, 3, 3)]))).toBe('disk-write');
    expect([...disk.medium.read(0, 4)]).toEqual([3, 3, 1, 1]);
    expect([...Buffer.concat(await faulty.read(0, 4))]).toEqual([3, 2, 1, 1]);
    expect([...Buffer.concat(await faulty.read(0, 4))]).toEqual([3, 3, 1, 1]);
  });
});

describe('a tap', () => {
  it('loses a write, calls one torn, breaks, and is counted over all that are set', async () => {
    const vm = createMemoryVm({ vmId: 'vm', disks: [{ id: 'disk', sizeBytes: mebibyte }] });
    const [disk] = vm.source().disks;
    if (disk === undefined) throw new Error('the VM has no disk');
    const faulty = faultySourceDisk(disk, [
      { on: 'guest-write', nth: 2, do: 'drop' },
      { on: 'guest-write', nth: 3, do: 'invalidate' },
      { on: 'guest-write', nth: 5, do: 'break' },
    ]);
    const told: string[] = [];
    const handler = {
      write: ({ offset, release }: { offset: number; release(): void }) => {
        told.push(`write ${offset}`);
        release();
      },
      invalidate: ({ offset, length }: { offset: number; length: number }) => {
        told.push(`invalidate ${offset} ${length}`);
      },
      broken: ({ code }: { code: string }) => {
        told.push(`broken ${code}`);
      },
    };
    const write = (offset: number) => vm.guest.writeDisk('disk', offset, new Uint8Array(512).fill(1));
    const first = await faulty.tap(handler);
    for (const offset of [0, 512, 1024]) await write(offset);
    await first.remove();
    const second = await faulty.tap(handler);
    for (const offset of [1536, 2048, 2560]) await write(offset);
    expect(told).toEqual(['write 0', 'invalidate 1024 512', 'write 1536', 'broken tap-gap']);
    await vm.source().stun();
    expect(await codeOf(second.finish())).toBe('tap-gap');
    await second.remove();
  });
});

describe('a dirty log', () => {
  it('loses a range and clears its mark, fails when it is asked, and is counted over all that are kept', async () => {
    const sizeBytes = 8 * mebibyte;
    const vm = createMemoryVm({ vmId: 'vm', disks: [{ id: 'disk', sizeBytes, tap: 'extents' }] });
    const [disk] = vm.source().disks;
    if (disk === undefined) throw new Error('the VM has no disk');
    const happened: AnyFault[] = [];
    const plan = [
      { on: 'track', nth: 2, do: 'fail', code: 'hypervisor' },
      { on: 'take', nth: 2, do: 'fail', code: 'tap-gap' },
      { on: 'dirty-range', nth: 2, do: 'drop' },
      { on: 'dirty-range', nth: 4, do: 'drop' },
      { on: 'writeTimes', do: 'fail', code: 'hypervisor' },
    ] as const;
    const faulty = faultySourceDisk(disk, plan, { onFault: (fault) => happened.push(fault) });
    const write = (index: number) =>
      vm.guest.writeDisk('disk', index * mebibyte, new Uint8Array(512).fill(1));
    const take = async (tracker: DirtyTracker) =>
      (await tracker.take()).map(({ offset }) => offset / mebibyte);

    const first = await faulty.track();
    for (const index of [1, 3, 5]) await write(index);
    expect(await take(first)).toEqual([1, 5]);
    await write(3);
    expect(await codeOf(first.take())).toBe('tap-gap');
    expect(await take(first)).toEqual([]);
    expect(await take(first)).toEqual([]);
    await first.remove();
    expect(await codeOf(faulty.track())).toBe('hypervisor');
    const second = await faulty.track();
    await write(7);
    expect(await take(second)).toEqual([7]);
    await second.remove();

    expect(await codeOf(faulty.writeTimes())).toBe('hypervisor');
    expect(await faulty.writeTimes()).toEqual(await disk.writeTimes());
    expect(happened.map(({ on }) => on)).toEqual([
      'dirty-range',
      'take',
      'dirty-range',
      'track',
      'writeTimes',
    ]);
  });
});

it('disks that come alone are handed over late, or were although that failed', async () => {
  const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 4096, disks: [{ id: 'disk', sizeBytes: mebibyte }] });
  const inner = createMemoryBackend();
  const alone = { ...vm.description, memory: [] };
  const prepare = (fault: DestinationVmCallFault) =>
    faultyBackend(inner, { vm: [fault] }).prepare(alone, { memory: 'none' });

  const failing = await prepare({ on: 'handOver', do: 'fail', code: 'disk-write' });
  expect(await codeOf(failing.handOver())).toBe('disk-write');
  await failing.discard();
  expect(inner.disks).toEqual([]);
  const lost = await prepare({ on: 'handOver', do: 'fail-afterwards', code: 'hypervisor' });
  expect(await codeOf(lost.handOver())).toBe('hypervisor');
  await lost.discard();
  expect(inner.disks.map(({ id }) => id)).toEqual(['disk']);
  expect(await codeOf(inner.disks[0]?.read(0, 1) ?? Promise.reject())).toBe('none');
});

it('a backend plans anew for each VM that it prepares', async () => {
  const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 4096 });
  const backend = faultyBackend(createMemoryBackend(), {
    memory: [{ on: 'write', do: 'fail', code: 'memory' }],
  });
  for (let turn = 0; turn < 2; turn += 1) {
    const prepared = await backend.prepare(vm.description);
    expect(await codeOf(prepared.memory.write([]))).toBe('memory');
    expect(await codeOf(prepared.memory.write([]))).toBe('none');
    await prepared.discard();
  }
  const wrong = faultyBackend(createMemoryBackend(), { disks: { none: [] } });
  expect(await codeOf(wrong.prepare(vm.description))).toBe('invalid-argument');
});

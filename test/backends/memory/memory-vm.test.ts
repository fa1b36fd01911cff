/**
 * Goal: a simulated VM behaves as `SourceVm` says: what is allowed in which state, what a stun waits for,
 * what the guest's operations do while it does not run, who is told of unexpected stops. Method: every call
 * in every state is enumerated; single cases for the rest, on a virtual clock.
 */
import { describe, expect, test } from 'vitest';
import { compareVms, createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import type { SourceVm, UnexpectedStop } from '../../../src/interfaces/hypervisor.ts';
import { deferred } from '../../../src/util/promises.ts';
import { failureCode } from './support/failure-code.ts';
import { createVirtualEnvironment, settle } from './support/virtual-environment.ts';

const MIB = 1024 * 1024;

function makeVm(options: Partial<Parameters<typeof createMemoryVm>[0]> = {}): MemoryVm {
  return createMemoryVm({
    vmId: 'vm',
    memoryBytes: MIB,
    disks: [{ id: 'disk', sizeBytes: MIB }],
    ...options,
  });
}

async function saveState(source: SourceVm): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of source.saveDeviceState()) chunks.push(chunk);
  return chunks;
}

describe('each call in each state', () => {
  const reach: Record<string, (vm: MemoryVm, source: SourceVm) => Promise<unknown>> = {
    running: async () => {},
    paused: (vm) => vm.pause(),
    stunned: (_vm, source) => source.stun(),
    saved: async (_vm, source) => {
      await source.stun();
      await saveState(source);
    },
    sealed: async (vm, source) => {
      await reach.saved?.(vm, source);
      await source.seal();
    },
    released: async (vm, source) => {
      await reach.sealed?.(vm, source);
      await source.release();
    },
    off: (vm) => vm.guest.powerOff(),
    gone: async (vm) => vm.destroy(),
  };
  const calls: Record<string, (source: SourceVm, vm: MemoryVm) => Promise<unknown>> = {
    setThrottle: (source) => source.setThrottle(0.5),
    stun: (source) => source.stun(),
    save: (source) => saveState(source),
    seal: (source) => source.seal(),
    resume: (source) => source.resume(),
    release: (source) => source.release(),
    detach: (source) => source.detach(),
    run: async (_source, vm) => vm.run(),
    pause: (_source, vm) => vm.pause(),
  };
  const no = 'invalid-state';
  const [off, gone] = ['guest-stopped', 'hypervisor'];
  // What each call is answered, in the order of `calls`, and the state after it where it is another one.
  const table: Record<string, readonly (readonly [answer: string, after?: string])[]> = {
    running: [
      ['none'],
      ['none', 'stunned'],
      [no],
      [no],
      ['none'],
      [no],
      ['none'],
      ['none'],
      ['none', 'paused'],
    ],
    paused: [
      ['none'],
      ['none', 'stunned'],
      [no],
      [no],
      ['none'],
      [no],
      ['none'],
      ['none', 'running'],
      ['none'],
    ],
    stunned: [[no], [no], ['none'], [no], ['none', 'running'], [no], ['none'], [no], [no]],
    saved: [[no], [no], ['none'], ['none', 'sealed'], ['none', 'running'], [no], ['none'], [no], [no]],
    sealed: [[no], [no], [no], [no], ['none', 'running'], ['none', 'released'], ['none'], [no], [no]],
    released: [[no], [no], [no], [no], [no], ['none'], ['none'], [no], [no]],
    off: [[off], [off], [off], [off], ['none'], [off], ['none'], [off], [off]],
    gone: [[gone], [gone], [gone], [gone], [gone], [gone], ['none'], [gone], [gone]],
  };

  for (const [state, answers] of Object.entries(table)) {
    for (const [index, [name, call]] of Object.entries(calls).entries()) {
      const [answer = 'missing', after] = answers[index] ?? [];
      test(`${name}() while ${state}: ${answer === 'none' ? 'allowed' : answer}`, async () => {
        const vm = makeVm();
        await reach[state]?.(vm, vm.source());
        const before = vm.state;
        expect(await failureCode(call(vm.source(), vm))).toBe(answer);
        expect(vm.state).toBe(after ?? before);
      });
    }
  }
});

describe('a stun', () => {
  test('waits for the disk I/O in flight, and for the tap that holds it', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ environment, diskLatencyMs: 20 });
    const events: string[] = [];
    const hold = deferred<void>();
    await vm.source().disks[0]?.tap({
      write: () => {
        events.push('handed over');
        return hold.promise;
      },
      invalidate: () => {},
      broken: () => {},
    });
    void vm.guest.writeDisk('disk', 0, Uint8Array.of(1)).then(() => events.push('told'));
    void vm.guest.readDisk('disk', 0, 1).then(() => events.push('read'));
    const stun = vm
      .source()
      .stun()
      .then(() => events.push('stunned'));
    expect(vm.source().runState()).toBe('paused');
    await environment.advance(100);
    expect(events.toSorted()).toEqual(['handed over', 'read']);
    hold.resolve();
    await stun;
    expect(events.slice(2)).toEqual(['told', 'stunned']);
  });

  test('that is aborted leaves the guest running, if it ran before', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ environment, diskLatencyMs: 20 });
    const aborter = new AbortController();
    const write = vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
    const stun = failureCode(vm.source().stun({ signal: aborter.signal }));
    aborter.abort();
    expect(await stun).toBe('aborted');
    expect(vm.state).toBe('running');
    await environment.advance(20);
    await write;
    await vm.source().stun();
    expect(vm.state).toBe('stunned');
  });

  test('ends when the guest is resumed, or destroyed, meanwhile', async () => {
    for (const [end, answer, state] of [
      [(vm: MemoryVm) => vm.source().resume(), 'invalid-state', 'running'],
      [async (vm: MemoryVm) => vm.destroy(), 'hypervisor', 'gone'],
    ] as const) {
      const environment = createVirtualEnvironment();
      const vm = makeVm({ environment, diskLatencyMs: 20 });
      const write = failureCode(vm.guest.writeDisk('disk', 0, Uint8Array.of(1)));
      const stun = failureCode(vm.source().stun());
      await end(vm);
      await environment.advance(20);
      expect(await stun).toBe(answer);
      expect(vm.state).toBe(state);
      await write;
    }
  });

  test('of a guest that was paused leaves it paused when it is resumed', async () => {
    const vm = makeVm({ paused: true });
    const source = vm.source();
    expect(source.runState()).toBe('paused');
    await source.stun();
    await saveState(source);
    await source.seal();
    await source.resume();
    await source.resume();
    expect(vm.state).toBe('paused');
  });

  test('must be followed by a saved state of its own before the seal', async () => {
    const source = makeVm().source();
    await source.stun();
    await saveState(source);
    await source.resume();
    await source.stun();
    expect(await failureCode(source.seal())).toBe('invalid-state');
    for await (const _chunk of source.saveDeviceState()) break;
    expect(await failureCode(source.seal())).toBe('invalid-state');
    await saveState(source);
    await source.seal();
  });
});

describe('a guest that does not run', () => {
  test('has its operations wait, in order, until it does', async () => {
    const vm = makeVm({ paused: true, fill: 'zero' });
    const done: string[] = [];
    void vm.guest.writeDisk('disk', 0, Uint8Array.of(1, 1)).then(() => done.push('first'));
    void vm.guest.writeDisk('disk', 1, Uint8Array.of(2, 2)).then(() => done.push('second'));
    void vm.guest.writeMemory(0, 0, Uint8Array.of(3)).then(() => done.push('memory'));
    await settle();
    expect(done).toEqual([]);
    expect(vm.memory.read(0, 0, 1)[0]).toBe(0);
    vm.run();
    await settle();
    expect(done.sort()).toEqual(['first', 'memory', 'second']);
    expect([...vm.disk('disk').medium.read(0, 3)]).toEqual([1, 2, 2]);
    expect(vm.memory.read(0, 0, 1)[0]).toBe(3);
  });

  test('keeps those waiting that come after one that shuts it down', async () => {
    const vm = makeVm({ paused: true });
    const codes = [vm.guest.powerOff(), vm.guest.writeMemory(0, 0, Uint8Array.of(1))].map(failureCode);
    vm.run();
    expect(await Promise.all(codes)).toEqual(['none', 'guest-stopped']);
  });

  test('has them rejected once it never will', async () => {
    const released = makeVm();
    const source = released.source();
    await source.stun();
    const waiting = failureCode(released.guest.writeDisk('disk', 0, Uint8Array.of(1)));
    await saveState(source);
    await source.seal();
    await source.release();
    expect(await waiting).toBe('invalid-state');
    expect(await failureCode(released.guest.writeMemory(0, 0, Uint8Array.of(1)))).toBe('invalid-state');

    const destroyed = makeVm({ paused: true });
    const lost = failureCode(destroyed.guest.readDisk('disk', 0, 1));
    destroyed.destroy();
    expect(await lost).toBe('hypervisor');
  });

  test('notices the longest time for which it stood still', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ environment, paused: true });
    await environment.advance(1000);
    vm.run();
    expect(vm.guest.statistics().longestPauseMs).toBe(0);
    for (const pauseMs of [30, 50, 20]) {
      await vm.source().stun();
      await environment.advance(pauseMs);
      await vm.source().resume();
    }
    expect(vm.guest.statistics().longestPauseMs).toBe(50);
    await vm.pause();
    await environment.advance(70);
    expect(vm.guest.statistics().longestPauseMs).toBe(70);
    vm.guest.resetStatistics();
    await environment.advance(5);
    vm.run();
    expect(vm.guest.statistics().longestPauseMs).toBe(5);
  });
});

test('unexpected stops are told to those who listen, expected ones are not', async () => {
  const stops: Record<string, (vm: MemoryVm) => Promise<unknown>> = {
    paused: (vm) => vm.pause(),
    shutdown: (vm) => vm.guest.powerOff(),
    gone: async (vm) => vm.destroy(),
  };
  for (const [kind, stop] of Object.entries(stops)) {
    const vm = makeVm();
    const heard: UnexpectedStop[] = [];
    const unheard: UnexpectedStop[] = [];
    vm.source().onUnexpectedStop((event) => heard.push(event));
    vm.source().onUnexpectedStop((event) => unheard.push(event))();
    await vm.source().stun();
    await vm.source().resume();
    expect(heard).toEqual([]);
    await stop(vm);
    expect(heard.map((event) => event.kind)).toEqual([kind]);
    expect(unheard).toEqual([]);
  }
});

test('a migration that is detached leaves no throttle, no tap, and all memory to a first round', async () => {
  const vm = makeVm();
  const source = vm.source();
  for await (const batch of source.memory.round()) batch.release();
  const tapped: number[] = [];
  await source.disks[0]?.tap({
    write: ({ offset }) => void tapped.push(offset),
    invalidate: () => {},
    broken: () => {},
  });
  await source.detach();
  await source.detach();
  await vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
  expect(tapped).toEqual([]);
  expect(source.memory.dirtyBytes()).toBe(MIB);
  expect(vm.state).toBe('running');
});

test('what the guest asks for must exist', async () => {
  const vm = makeVm({
    disks: [
      { id: 'disk', sizeBytes: MIB },
      { id: 'cd', sizeBytes: MIB, readOnly: true },
    ],
  });
  const { guest } = vm;
  const one = Uint8Array.of(1);
  expect(await failureCode(guest.writeMemory(1, 0, one))).toBe('invalid-argument');
  expect(await failureCode(guest.writeMemory(0, MIB, one))).toBe('invalid-argument');
  expect(await failureCode(guest.writeDisk('other', 0, one))).toBe('invalid-argument');
  expect(await failureCode(guest.writeDisk('disk', MIB, one))).toBe('invalid-argument');
  expect(await failureCode(guest.writeDisk('cd', 0, one))).toBe('disk-write');
  expect(await failureCode(guest.readDisk('disk', MIB, 1))).toBe('invalid-argument');
  expect((await guest.readDisk('cd', 0, 1)).length).toBe(1);
  for (const throttle of [-0.1, 1, Number.NaN]) {
    expect(await failureCode(vm.source().setThrottle(throttle))).toBe('invalid-argument');
  }
});

test('a VM cannot be made of what no VM has', () => {
  const region = { name: 'ram', sizeBytes: MIB, pageBytes: 4096 };
  const disk = { id: 'disk', sizeBytes: MIB };
  for (const options of [
    { vmId: '' },
    { cpus: 0 },
    { memoryBytes: 5000 },
    { memoryBytes: 2 ** 40 },
    { pageBytes: 2048 },
    { pageBytes: 2 * MIB, memoryBytes: 2 * MIB },
    { regions: [region, region] },
    { regions: [{ ...region, name: '' }] },
    { disks: [disk, disk] },
    { fill: 1.5 },
  ]) {
    expect(() => makeVm(options), JSON.stringify(options)).toThrow(
      expect.objectContaining({ code: 'invalid-argument' }),
    );
  }
});

test('the same seed makes the same VM, another seed another one', () => {
  const make = (seed: number) =>
    makeVm({ seed, fill: 0.5, disks: [{ id: 'disk', sizeBytes: 8 * MIB, allocatedFraction: 0.5 }] });
  expect(compareVms(make(11), make(11)).equal).toBe(true);
  const { memoryBytes, diskBytes } = compareVms(make(11), make(12));
  expect(memoryBytes).toBeGreaterThan(MIB / 2);
  expect(diskBytes).toBeGreaterThan(MIB);
});

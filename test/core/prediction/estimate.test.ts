/**
 * Goal: an estimate looks and changes nothing: the guest runs on as it was, the destination waits for the migration that follows, and what fails leaves no trace.
 * Method: whole worlds in virtual time.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
} from '../../../src/backends/memory/index.ts';
import type { MigrationPolicy, MigrationReport, Progress, SourceVm } from '../../../src/index.ts';
import { repeatCodec } from '../../../src/testing/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, mebibyte, type World, withChanges } from '../../support/worlds.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** A guest that dirties 2 MB/s of its 16 MiB, half of them zeros, and writes 100 KB/s to its disk. */
function someVm(environment: VirtualEnvironment): MemoryVm {
  const vm = createMemoryVm({
    environment,
    vmId: 'v',
    memoryBytes: 16 * mebibyte,
    fill: 0.5,
    disks: [{ id: 'disk0', sizeBytes: 8 * mebibyte, allocatedFraction: 0.5 }],
  });
  vm.startWorkload(memoryDirtier({ bytesPerSecond: 2e6, hotBytes: mebibyte }));
  vm.startWorkload(randomWriter({ disk: 'disk0', bytes: 4096, writesPerSecond: 25 }));
  vms.push(vm);
  return vm;
}

const link = { rttMs: 10, rateMbit: 100 } as const;

function world(more: Parameters<typeof createWorld>[0] = {}): World {
  const environment = createVirtualEnvironment();
  return createWorld({ environment, vm: someVm(environment), link, ...more });
}

/** The destination waits from the beginning. */
async function withDestination(
  w: World,
  work: () => Promise<unknown>,
): Promise<readonly [unknown, MigrationReport]> {
  return w.environment.run(Promise.all([work(), w.destination.run()]));
}

describe('an estimate', () => {
  it('measures guest, link and disks, and the migration that follows goes as it said', async () => {
    const w = world();
    let report: MigrationReport | undefined;
    const [estimate, received] = await withDestination(w, async () => {
      const found = await w.source.estimate();
      report = await w.source.run();
      return found;
    });
    const { total, downtime, converges, throttle, bytes, linkBytesPerSecond, ...rest } = estimate as Awaited<
      ReturnType<typeof w.source.estimate>
    >;
    expect({ converges, throttle }).toEqual({ converges: 'yes', throttle: 0 });
    expect(linkBytesPerSecond / 12.5e6).toBeGreaterThan(0.8);
    expect(linkBytesPerSecond / 12.5e6).toBeLessThan(1.1);
    expect(rest.roundTripMs).toBeCloseTo(10, 0);
    // Of 2 MB that it writes in a second, anywhere in a mebibyte, so many are in different pages.
    const different = mebibyte * (1 - Math.exp(-2e6 / mebibyte));
    expect(rest.dirtyBytesPerSecond / different).toBeGreaterThan(0.8);
    expect(rest.dirtyBytesPerSecond / different).toBeLessThan(1.2);
    expect(rest.diskBytesPerSecond.disk0).toBeCloseTo(102_400, -4);
    expect(bytes / (12 * mebibyte)).toBeGreaterThan(0.8);
    expect(bytes / (12 * mebibyte)).toBeLessThan(1.5);
    expect(received.outcome).toBe('completed');
    expect(w.comparison()?.equal).toBe(true);
    expect(report?.totalMs).toBeGreaterThanOrEqual(total.lowMs);
    expect(report?.totalMs).toBeLessThanOrEqual(total.highMs);
    expect(report?.downtimeMs).toBeLessThanOrEqual(downtime.highMs);
    w.backend.vm?.destroy();
  });

  it('tries the codec where the policy asks for compression, and only there', async () => {
    const of = async (policy: MigrationPolicy) => {
      const environment = createVirtualEnvironment();
      let calls = 0;
      const codec = repeatCodec(environment);
      const compress = (data: Uint8Array) => {
        calls++;
        return codec.compress(data);
      };
      Object.assign(environment, { codecs: [{ ...codec, compress }] });
      const w = createWorld({ environment, vm: someVm(environment), link, policy });
      const stop = new AbortController();
      const receiving = w.destination.run({ signal: stop.signal });
      await environment.run(w.source.estimate({ durationMs: 500 }));
      stop.abort();
      await environment.run(receiving);
      return calls;
    };
    expect(await of({})).toBe(0);
    expect(await of({ compression: 'auto' })).toBeGreaterThan(0);
  });

  it('says that a guest which outruns the link is throttled, or will not converge where that is not allowed', async () => {
    const of = async (throttleMax: number) => {
      const environment = createVirtualEnvironment();
      const vm = someVm(environment);
      vm.startWorkload(memoryDirtier({ bytesPerSecond: 40e6, hotBytes: 12 * mebibyte }));
      const w = createWorld({ environment, vm, link, policy: { throttleMax } });
      const stop = new AbortController();
      const receiving = w.destination.run({ signal: stop.signal });
      const estimate = await environment.run(w.source.estimate());
      stop.abort();
      await environment.run(receiving);
      return estimate;
    };
    const throttled = await of(0.9);
    expect(throttled.converges).toBe('throttled');
    expect(throttled.throttle).toBeGreaterThan(0.3);
    expect(await of(0)).toMatchObject({ converges: 'no', throttle: 0 });
  });

  it('may be made again and again, and leaves nothing set at the guest', async () => {
    const calls: string[] = [];
    const w = world({
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, {
          setThrottle: async (fraction) => {
            calls.push(`throttle ${fraction}`);
            await vm.setThrottle(fraction);
          },
          stun: async (call) => {
            calls.push('stun');
            await vm.stun(call);
          },
        }),
    });
    const sourceVm = w.vm.source();
    const [, received] = await withDestination(w, async () => {
      for (let turn = 0; turn < 3; turn++) {
        await w.source.estimate({ durationMs: 500 });
        expect(sourceVm.runState()).toBe('running');
      }
      expect(calls).toEqual([]);
      await w.source.run();
    });
    expect(calls).toContain('stun');
    expect(received.outcome).toBe('completed');
    w.backend.vm?.destroy();
  });

  it('does not look at a VM that is being migrated, or was', async () => {
    const w = world();
    const run = w.source.run();
    await expect(w.source.estimate()).rejects.toMatchObject({ code: 'invalid-state' });
    await w.environment.run(Promise.all([run, w.destination.run()]));
    await expect(w.source.estimate()).rejects.toMatchObject({ code: 'invalid-state' });
    w.backend.vm?.destroy();
  });

  it('refuses a run beside it', async () => {
    const w = world();
    const [, report] = await w.environment.run(
      Promise.all([
        w.source.estimate({ durationMs: 500 }).catch(() => undefined),
        w.source.run(),
        receiveFor(w, 5000),
      ]),
    );
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'invalid-state' } });
  });

  it('is refused for a time out of its range, and without a hypervisor that can measure', async () => {
    const w = world();
    for (const durationMs of [0, 499, 60_001, Number.NaN]) {
      await expect(w.source.estimate({ durationMs })).rejects.toMatchObject({ code: 'invalid-argument' });
    }
    const capabilities = { throttle: true, throttleAlone: true, measure: false };
    const cannot = world({
      sourceVm: (vm) => withChanges<SourceVm>(vm, { capabilities: { ...vm.capabilities, ...capabilities } }),
    });
    await expect(cannot.source.estimate()).rejects.toMatchObject({ code: 'unsupported' });
  });

  it('that is aborted leaves a destination that waits on', async () => {
    const w = world();
    const stop = new AbortController();
    const [, received] = await withDestination(w, async () => {
      const estimating = w.source.estimate({ signal: stop.signal }).catch((error: unknown) => error);
      w.environment.setTimer(700, () => stop.abort());
      expect(await estimating).toMatchObject({ code: 'aborted' });
      expect((await w.source.run()).outcome).toBe('completed');
    });
    expect(received.outcome).toBe('completed');
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });

  it('whose guest cannot be measured after all says so, and the destination waits on', async () => {
    let fails = true;
    const broken = new Error('no');
    const w = world({
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, { measure: (call) => (fails ? Promise.reject(broken) : vm.measure(call)) }),
    });
    const [, received] = await withDestination(w, async () => {
      await expect(w.source.estimate()).rejects.toBe(broken);
      fails = false;
      await w.source.estimate();
      await w.source.run();
    });
    expect(received.outcome).toBe('completed');
    w.backend.vm?.destroy();
  });

  it('whose source goes away in the middle leaves a destination that waits for another', async () => {
    const w = world();
    const [, received] = await withDestination(w, async () => {
      const estimating = w.source.estimate().catch((error: unknown) => error);
      w.environment.setTimer(700, () => w.link.cut());
      expect(await estimating).toMatchObject({ name: 'MigrationError' });
      expect((await w.source.run()).outcome).toBe('completed');
    });
    expect(received.outcome).toBe('completed');
    w.backend.vm?.destroy();
  });
});

describe('progress', () => {
  it('has one fraction that never falls and ends at 1, and says how it goes on', async () => {
    const w = world();
    const told: Progress[] = [];
    const arrived: Progress[] = [];
    w.source.on('progress', (progress) => told.push(progress));
    w.destination.on('progress', (progress) => arrived.push(progress));
    const { source } = await w.run();
    expect(source.outcome).toBe('completed');
    for (const list of [told, arrived]) {
      const fractions = list.map(({ fraction }) => fraction);
      expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
      expect(fractions.at(-1)).toBe(1);
      expect(fractions.slice(0, -1).every((fraction) => fraction < 1)).toBe(true);
    }
    const half = told.find(({ elapsedMs }) => elapsedMs > source.totalMs / 2);
    const left = source.totalMs - (half?.elapsedMs ?? 0);
    expect(half?.prediction?.eta.lowMs).toBeLessThan(left);
    expect(half?.prediction?.eta.highMs).toBeGreaterThan(left / 2);
    expect(half?.fraction).toBeGreaterThan(0.3);
    expect(half?.fraction).toBeLessThan(0.8);
    expect(source.lost).toEqual({ throttleMs: 0, holdMs: 0, pauseMs: source.downtimeMs });
    w.backend.vm?.destroy();
  });

  it('counts an audit of everything, also without an estimate', async () => {
    const of = async (audit: 'off' | 'full') => {
      const environment = createVirtualEnvironment();
      const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 64 * mebibyte, fill: 0.1, disks: [] });
      vms.push(vm);
      const w = createWorld({ environment, vm, link, policy: { audit } });
      const predictions: number[] = [];
      w.source.on('progress', ({ phase, prediction }) => {
        if (phase === 'copyMemory' && prediction !== undefined) predictions.push(prediction.downtime.highMs);
      });
      await w.run();
      w.backend.vm?.destroy();
      return predictions;
    };
    const [off, full] = [await of('off'), await of('full')];
    expect(off.length).toBeGreaterThan(0);
    expect(full.length).toBe(off.length);
    // 64 MiB, at a GiB a second.
    for (const [index, highMs] of full.entries()) expect(highMs - (off[index] ?? 0)).toBeGreaterThan(20);
  });

  it('of a migration that fails does not come to 1', async () => {
    const w = world();
    const stop = new AbortController();
    const fractions: number[] = [];
    w.source.on('progress', ({ fraction, phase }) => {
      fractions.push(fraction);
      if (phase === 'copyMemory') stop.abort();
    });
    const { source } = await w.run({ source: stop.signal });
    expect(source.outcome).toBe('failed');
    expect(Math.max(...fractions)).toBeLessThan(1);
  });

  it('counts what a throttle costs the guest', async () => {
    const environment = createVirtualEnvironment();
    const vm = someVm(environment);
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 40e6, hotBytes: 12 * mebibyte }));
    const w = createWorld({ environment, vm, link });
    const lost: number[] = [];
    w.source.on('progress', (progress) => lost.push(progress.lost.throttleMs));
    const { source } = await w.run();
    expect(source.outcome).toBe('completed');
    expect(source.throttleMax).toBeGreaterThan(0);
    expect(lost).toEqual([...lost].sort((a, b) => a - b));
    expect(source.lost.throttleMs).toBeGreaterThan(0);
    expect(source.lost.throttleMs).toBeLessThanOrEqual(source.throttleMax * source.totalMs);
    w.backend.vm?.destroy();
  });
});

/** The destination, for so long. */
async function receiveFor(w: World, ms: number): Promise<MigrationReport> {
  const stop = new AbortController();
  w.environment.setTimer(ms, () => stop.abort());
  return w.destination.run({ signal: stop.signal });
}

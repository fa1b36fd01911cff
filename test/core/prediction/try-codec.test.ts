/**
 * Goal: where content will be compressed, an estimate holds what that makes of the migration, and where it will not, nothing changes. Method: whole worlds over a
 * slow link in virtual time, with a codec at both ends and guests that can be compressed, or not; and the pure part by itself.
 */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createMemoryVm, type MemoryVm, memoryDirtier } from '../../../src/backends/memory/index.ts';
import { connectChannel } from '../../../src/channel/connect.ts';
import { resolvePolicy } from '../../../src/core/policy.ts';
import { estimateOf, measureMigration } from '../../../src/core/prediction/estimate.ts';
import { type CodecLook, gainOf, tryCodec } from '../../../src/core/prediction/try-codec.ts';
import type { Codec, MigrationPolicy, SourceVm } from '../../../src/index.ts';
import { repeatCodec } from '../../../src/testing/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, mebibyte, withChanges } from '../../support/worlds.ts';

// Much is compressed, in JavaScript, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000 });

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** Pages that are noise, or alike but for their first bytes, and a disk of blocks that are just so. */
async function someVm(environment: VirtualEnvironment, content: 'alike' | 'noise'): Promise<MemoryVm> {
  const memoryBytes = 24 * mebibyte;
  const fraction = content === 'noise' ? 1 : 0;
  const vm = createMemoryVm({
    environment,
    vmId: 'v',
    memoryBytes,
    fill: fraction,
    disks: [{ id: 'disk0', sizeBytes: 8 * mebibyte, allocatedFraction: fraction }],
  });
  vms.push(vm);
  if (content === 'alike') {
    const page = Uint8Array.from({ length: 4096 }, (_, at) => at * 7);
    for (let offset = 0; offset < memoryBytes; offset += 4096) {
      new DataView(page.buffer).setUint32(0, offset);
      vm.memory.write(0, offset, page);
    }
    const blocks = new Uint8Array(8 * mebibyte);
    for (let at = 0; at < blocks.byteLength; at += 4096) blocks.set(page, at);
    await environment.run(vm.disk('disk0').write(0, [blocks]));
  }
  vm.startWorkload(memoryDirtier({ bytesPerSecond: mebibyte / 4, hotBytes: mebibyte }));
  return vm;
}

interface Given {
  readonly content: 'alike' | 'noise';
  readonly policy: MigrationPolicy;
  readonly codecs?: (environment: VirtualEnvironment) => readonly Codec[];
  readonly changes?: Partial<SourceVm>;
  readonly runs?: boolean;
}

/** What an estimate says, and what the migration takes that follows. */
async function estimated({
  content,
  policy,
  codecs = (time) => [repeatCodec(time)],
  changes = {},
  runs = true,
}: Given) {
  const environment = createVirtualEnvironment();
  Object.assign(environment, { codecs: codecs(environment) });
  const vm = await someVm(environment, content);
  const w = createWorld({ environment, vm, link: { rttMs: 20, rateMbit: 40 }, policy });
  const stop = new AbortController();
  const receiving = w.destination.run({ signal: stop.signal });
  const resolved = resolvePolicy(policy);
  const sourceVm = withChanges<SourceVm>(vm.source(), changes);
  const measured = await environment.run(
    measureMigration({
      vm: sourceVm,
      disks: sourceVm.disks,
      register: w.registers.source,
      environment,
      connect: (signal) =>
        connectChannel({
          transport: w.link.source,
          vmId: 'v',
          secret: new Uint8Array(),
          environment,
          connections: resolved.connections,
          windowBytesMax: resolved.windowBytesMax,
          rateBytesPerSecondMax: undefined,
          limitMs: 5000,
          signal,
        }),
      durationMs: 1000,
      policy: resolved,
      signal: undefined,
    }),
  );
  const estimate = estimateOf(measured, resolved);
  if (!runs) stop.abort();
  const [report] = await environment.run(Promise.all([runs ? w.source.run() : undefined, receiving]));
  w.backend.vm?.destroy();
  return { estimate, measured, totalMs: report?.totalMs ?? 0 };
}

const auto = { compression: 'auto' } as const;

describe('an estimate', () => {
  it('of a guest that shrinks is of a shorter migration, and holds what that takes', async () => {
    const off = await estimated({ content: 'alike', policy: {} });
    const on = await estimated({ content: 'alike', policy: auto });
    expect(on.totalMs).toBeLessThan(0.5 * off.totalMs);
    expect(on.estimate.total.highMs).toBeLessThan(off.estimate.total.lowMs);
    for (const { estimate, totalMs } of [off, on]) {
      expect(totalMs).toBeGreaterThanOrEqual(estimate.total.lowMs);
      expect(totalMs).toBeLessThanOrEqual(estimate.total.highMs);
    }
  });

  it('of one that does not is as it was, and holds too', async () => {
    const off = await estimated({ content: 'noise', policy: {} });
    const on = await estimated({ content: 'noise', policy: auto });
    expect(on.estimate.total.lowMs / off.estimate.total.lowMs).toBeCloseTo(1, 1);
    expect(on.estimate.total.highMs / off.estimate.total.highMs).toBeCloseTo(1, 1);
    expect(on.totalMs).toBeGreaterThanOrEqual(on.estimate.total.lowMs);
    expect(on.totalMs).toBeLessThanOrEqual(on.estimate.total.highMs);
  });

  it('without compression asks for no codec and reads no page', async () => {
    const environment = createVirtualEnvironment();
    const vm = await someVm(environment, 'alike');
    const asked: string[] = [];
    const memory = withChanges(vm.source().memory, {
      read: async () => {
        asked.push('page');
        return [];
      },
    });
    const codecs = (time: VirtualEnvironment) => {
      const compress = async () => {
        asked.push('codec');
        return new Uint8Array();
      };
      return [{ ...repeatCodec(time), compress }];
    };
    const { measured } = await estimated({
      content: 'noise',
      policy: {},
      codecs,
      changes: { memory },
      runs: false,
    });
    expect([measured.memoryCodec, measured.diskCodec, asked]).toEqual([undefined, undefined, []]);
  });

  it('goes by the disks alone where memory cannot be read, or does not move', async () => {
    const broken = withChanges((await someVm(createVirtualEnvironment(), 'alike')).source().memory, {
      read: () => Promise.reject(new Error('no')),
    });
    for (const [policy, changes] of [
      [auto, { memory: broken }],
      [{ ...auto, memory: 'none' }, {}],
    ] as const) {
      const { measured } = await estimated({ content: 'alike', policy, changes, runs: false });
      expect(measured.memoryCodec).toBeUndefined();
      expect(measured.diskCodec?.ratio).toBeGreaterThan(4);
    }
  });

  it('does not fail with a codec that does', async () => {
    const codecs = (time: VirtualEnvironment) => [
      { ...repeatCodec(time), compress: () => Promise.reject(new Error('out of order')) },
    ];
    const [off, on] = await Promise.all(
      [{}, auto].map((policy) => estimated({ content: 'alike', policy, codecs, runs: false })),
    );
    expect(on?.estimate.total).toEqual(off?.estimate.total);
  });
});

describe('a codec that is tried', () => {
  const noise = Uint8Array.from({ length: mebibyte }, (_, at) => (Math.imul(at, 0x9e37_79b1) >>> 13) & 0xff);

  it('counts what does not shrink as it is, and how fast it is', async () => {
    const environment = createVirtualEnvironment();
    const codec = repeatCodec(environment, { bytesPerSecond: 100e6 });
    const content = [noise, new Uint8Array(mebibyte)];
    const look = await environment.run(tryCodec(codec, environment, content, {}));
    expect(look?.ratio).toBeCloseTo(2, 1);
    expect((look?.callBytesPerSecond ?? 0) / 100e6).toBeCloseTo(1, 1);
    expect(await environment.run(tryCodec(codec, environment, [], {}))).toBeUndefined();
    const little = { ...codec, compress: async (data: Uint8Array) => data.subarray(data.byteLength / 16) };
    expect((await environment.run(tryCodec(little, environment, content, {})))?.ratio).toBe(1);
  });

  it('ends with the signal', async () => {
    const environment = createVirtualEnvironment();
    const stop = new AbortController();
    const trying = tryCodec(repeatCodec(environment, { bytesPerSecond: 1e6 }), environment, [noise], {
      signal: stop.signal,
    });
    environment.setTimer(300, () => stop.abort(new Error('enough')));
    await expect(environment.run(trying)).rejects.toThrow('enough');
  });

  it('is good for its ratio, for less where it cannot take so much, and for nothing where the link is as fast', () => {
    const look: CodecLook = { ratio: 4, callBytesPerSecond: 100e6, callsMax: 2 };
    expect(gainOf(undefined, 1e6)).toBe(1);
    expect(gainOf(look, 1e6)).toBe(4);
    expect(gainOf({ ...look, ratio: 100 }, 50e6)).toBeCloseTo(4.96, 2);
    expect(gainOf(look, 70e6)).toBe(1);
    expect(gainOf({ ...look, ratio: 1 }, 1e6)).toBe(1);
  });
});

/**
 * Goal: with `compression` a migration sends fewer bytes where that pays, none fewer where it does not, and the VM at the destination is the one that there was. Method: whole
 * migrations of a guest that writes, over a slow link and a fast one, in virtual time with a simulated codec, and in real time with those of this process.
 */
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  compareVms,
  createMemoryBackend,
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
} from '../../src/backends/memory/index.ts';
import {
  type Codec,
  createDestination,
  createSource,
  type MemoryLinkOptions,
  type MigrationPolicy,
  memoryLink,
  memoryRegister,
  type Progress,
} from '../../src/index.ts';
import { repeatCodec } from '../../src/testing/index.ts';
import { nodeCodecs } from '../../src/util/node-codecs.ts';
import { nodeEnvironment } from '../../src/util/node-environment.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld } from '../support/worlds.ts';

// Much is compressed, in JavaScript, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000 });

const mebibyte = 1 << 20;
const memoryBytes = 12 * mebibyte;
const diskBytes = 8 * mebibyte;

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** Pages and blocks that are alike, but for their first bytes; a guest that writes noise over a part of them. */
async function compressibleVm(environment: VirtualEnvironment | typeof nodeEnvironment, idle = false) {
  const vm = createMemoryVm({
    environment,
    vmId: 'vm-1',
    memoryBytes,
    fill: 'zero',
    disks: [{ id: 'disk0', sizeBytes: diskBytes, allocatedFraction: 0 }],
    seed: 3,
  });
  vms.push(vm);
  const page = Uint8Array.from({ length: 4096 }, (_, at) => at * 7);
  for (let offset = 0; offset < memoryBytes; offset += 4096) {
    new DataView(page.buffer).setUint32(0, offset);
    vm.memory.write(0, offset, page);
  }
  const blocks = new Uint8Array(mebibyte);
  for (let at = 0; at < mebibyte; at += 4096) blocks.set(page, at);
  const written = (async () => {
    for (let offset = 0; offset < diskBytes; offset += mebibyte)
      await vm.disk('disk0').write(offset, [blocks]);
  })();
  await ('run' in environment ? environment.run(written) : written);
  if (!idle) {
    vm.startWorkload(randomWriter({ disk: 'disk0', bytes: 8192, writesPerSecond: 50, hotBytes: mebibyte }));
    vm.startWorkload(memoryDirtier({ bytesPerSecond: mebibyte / 2, hotBytes: mebibyte }));
  }
  return vm;
}

interface Given {
  readonly link: MemoryLinkOptions;
  readonly policy: MigrationPolicy;
  readonly codecs?: (environment: VirtualEnvironment) => readonly Codec[];
  readonly idle?: boolean;
}

/** Both ends with the same codecs. */
async function move({ link, policy, codecs = (time) => [repeatCodec(time)], idle }: Given) {
  const environment = createVirtualEnvironment();
  Object.assign(environment, { codecs: codecs(environment) });
  const vm = await compressibleVm(environment, idle);
  const world = createWorld({ environment, vm, link, policy });
  const progress: Progress[] = [];
  world.source.on('progress', (told) => progress.push(told));
  const reports = await world.run();
  expect(reports.source.error).toBeUndefined();
  expect(world.comparison()).toMatchObject({ equal: true });
  return { ...reports, progress, deliveredBytes: world.link.statistics().toDestination.deliveredBytes };
}

const slow = { rttMs: 20, rateMbit: 40 };
const auto = { compression: 'auto' } as const;

describe('a migration over a slow link', () => {
  it('with compression sends a small part of what it sends without, in a small part of the time', async () => {
    const off = await move({ link: slow, policy: {} });
    const on = await move({ link: slow, policy: auto });
    expect(off.source.compression).toBeUndefined();
    expect(off.destination.compression).toBeUndefined();
    expect(on.deliveredBytes).toBeLessThan(0.4 * off.deliveredBytes);
    expect(on.source.totalMs).toBeLessThan(0.5 * off.source.totalMs);
    const { inputBytes, savedBytes, codec } = on.source.compression ?? { inputBytes: 0, savedBytes: 0 };
    expect(codec).toBe('repeat');
    expect(savedBytes).toBeGreaterThan(0.6 * (memoryBytes + diskBytes));
    expect(savedBytes).toBeLessThan(inputBytes);
    expect(on.destination.compression).toMatchObject({ codec: 'repeat', inputBytes, savedBytes });
    // Content counts as before, whatever became of it on the wire.
    expect(on.source.bytes.memory).toBeGreaterThanOrEqual(memoryBytes);
    expect(on.destination.bytes.memory).toBe(on.source.bytes.memory);
    expect(on.source.bytes.wire).toBeLessThan(on.source.bytes.memory);
    expect(on.progress.at(-1)?.compression?.savedBytes).toBe(savedBytes);
  });

  it('with a rate that the policy limits, too', async () => {
    const link = { rttMs: 2, rateMbit: 10_000 };
    const policy = { rateBytesPerSecondMax: 5e6 };
    const off = await move({ link, policy });
    const on = await move({ link, policy: { ...policy, ...auto } });
    expect(on.deliveredBytes).toBeLessThan(0.4 * off.deliveredBytes);
    expect(on.source.totalMs).toBeLessThan(0.5 * off.source.totalMs);
  });

  it('with disks alone', async () => {
    const policy = { ...auto, memory: 'none' } as const;
    const environment = createVirtualEnvironment();
    Object.assign(environment, { codecs: [repeatCodec(environment)] });
    const vm = await compressibleVm(environment, true);
    const { source, destination } = await createWorld({ environment, vm, link: slow, policy }).run();
    expect([source.outcome, destination.outcome]).toEqual(['copied', 'copied']);
    expect(source.compression?.savedBytes).toBeGreaterThan(0.5 * diskBytes);
  });
});

describe('a migration does not compress', () => {
  it('where the link carries more than the codec takes', async () => {
    const link = { rttMs: 0.2, rateMbit: 40_000 };
    const off = await move({ link, policy: {}, idle: true });
    const on = await move({ link, policy: auto, idle: true });
    expect(on.source.compression).toMatchObject({ codec: 'repeat', inputBytes: 0, savedBytes: 0 });
    expect(on.source.totalMs).toBeLessThan(1.1 * off.source.totalMs);
  });

  it('where an end has no codec, or none that the other has', async () => {
    const named = (name: string) => (time: VirtualEnvironment) => [{ ...repeatCodec(time), name }];
    const none = await move({ link: slow, policy: auto, codecs: () => [] });
    expect(none.source.compression).toBeUndefined();
    for (const [offered, had] of [
      [named('one'), named('other')],
      [named('one'), () => []],
    ] as const) {
      const environment = createVirtualEnvironment();
      const vm = await compressibleVm(environment, true);
      const link = memoryLink({ ...slow, environment });
      const at = (codecs: readonly Codec[]) => ({ ...environment, codecs });
      const ends = [
        createSource({
          vm: vm.source(),
          transport: link.source,
          register: memoryRegister(),
          policy: auto,
          environment: at(offered(environment)),
        }),
        createDestination({
          backend: createMemoryBackend({ environment }),
          transport: link.destination,
          register: memoryRegister(),
          environment: at(had(environment)),
        }),
      ];
      const reports = await environment.run(Promise.all(ends.map((end) => end.run())));
      expect(reports.map(({ outcome }) => outcome)).toEqual(['completed', 'completed']);
      expect(reports.map(({ compression }) => compression)).toEqual([undefined, undefined]);
    }
  });

  it('unless its policy says so: then it does not even ask which codecs there are', async () => {
    const environment = createVirtualEnvironment();
    Object.defineProperty(environment, 'codecs', {
      get: () => {
        throw new Error('asked');
      },
    });
    const { source } = await createWorld({ environment, link: slow, idle: true }).run();
    expect(source.error).toBeUndefined();
  });
});

describe('a codec that is not what it should be', () => {
  const ends = (changes: Partial<Codec>) => (time: VirtualEnvironment) => [
    { ...repeatCodec(time), ...changes },
  ];

  it('and fails, costs nothing but what it would have saved', async () => {
    const { source } = await move({
      link: slow,
      policy: auto,
      codecs: ends({ compress: () => Promise.reject(new Error('out of order')) }),
    });
    expect(source.compression).toMatchObject({ inputBytes: 0 });
  });

  it.each([
    [
      'gives back other bytes of the same length',
      (length: number) => new Uint8Array(length),
      'digest-mismatch',
    ],
    ['gives back too little', (length: number) => new Uint8Array(length - 1), 'protocol'],
  ])('and %s, leaves the guest at the source', async (_, content, code) => {
    const environment = createVirtualEnvironment();
    const decompress = (__: Uint8Array, length: number) => Promise.resolve(content(length));
    Object.assign(environment, { codecs: ends({ decompress })(environment) });
    const vm = await compressibleVm(environment);
    const { source, destination } = await createWorld({ environment, vm, link: slow, policy: auto }).run();
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(destination).toMatchObject({ outcome: 'failed', error: { code } });
    expect(vm.state).toBe('running');
  });
});

it.each(nodeCodecs().map(({ name }) => name))(
  'with %s of this process, in real time, the VM arrives as it was',
  async (name) => {
    const codecs = nodeCodecs().filter((codec) => codec.name === name);
    const environment = { ...nodeEnvironment, codecs };
    const vm = await compressibleVm(environment);
    const backend = createMemoryBackend({ startPaused: true });
    const link = memoryLink({ rttMs: 2, rateMbit: 20 });
    const ends = [
      createSource({
        vm: vm.source(),
        transport: link.source,
        register: memoryRegister(),
        policy: auto,
        environment,
      }),
      createDestination({ backend, transport: link.destination, register: memoryRegister(), environment }),
    ];
    const [source, destination] = await Promise.all(ends.map((end) => end.run()));
    expect([source?.error, destination?.error]).toEqual([undefined, undefined]);
    expect(source?.compression).toMatchObject({ codec: name });
    // How much depends on how busy this machine is.
    expect(source?.compression?.savedBytes).toBeGreaterThan(0);
    expect(source?.compression?.callsMs).toBeGreaterThan(0);
    if (backend.vm === undefined) throw new Error('nothing was started');
    vms.push(backend.vm);
    expect(compareVms(vm, backend.vm)).toMatchObject({ equal: true });
  },
);

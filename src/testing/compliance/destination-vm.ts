import type { DestinationVm, SourceVm, VmDescription } from '../../interfaces/hypervisor.ts';
import type { MemorySink, PageRun } from '../../interfaces/memory.ts';
import { joinChunks } from '../../util/chunks.ts';
import type { BackendFixture, DestinationFixture } from './backend.ts';
import { check, checkBytes, checkEqual, checkRejects } from './check.ts';
import { MemoryReplica, scattered } from './memory-replica.ts';
import { saveAll } from './mover.ts';
import type { FixtureTest } from './test-function.ts';

/** A prepared VM at the destination, and what is refused. */
export function destinationVmTests(test: FixtureTest<BackendFixture>): void {
  test('prepare() makes what was described, and does not run it', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    check(there.backend.name.length > 0, 'the backend has no name');
    const prepared = await there.backend.prepare(vm.description);
    checkEqual(prepared.memory.regions, vm.description.memory, 'the regions of the prepared VM');
    for (const { id, sizeBytes, blockBytes } of vm.description.disks) {
      const disk = prepared.disks.find((candidate) => candidate.id === id);
      checkEqual(
        disk && [disk.sizeBytes, disk.blockBytes],
        [sizeBytes, blockBytes],
        `the prepared disk ${id}`,
      );
    }
    await fixture.settle();
    check((await there.runState()) !== 'running', 'the guest runs although it was only prepared');
    await prepared.discard();
    await prepared.discard();
    await there.close();
    await vm.detach();
  });

  test('prepare() refuses each difference, names all of them, and has changed nothing', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    const changes = differences(vm.description);
    for (const { change, named } of changes)
      await expectRefusal(there, { ...vm.description, ...change }, named);
    const everything = Object.assign({}, ...changes.map(({ change }) => change)) as Partial<VmDescription>;
    // A disk that differs and one that is missing are two changes of the same list: both are in it then.
    const disks = changes.flatMap(
      ({ change }) => change.disks?.filter((disk) => !vm.description.disks.includes(disk)) ?? [],
    );
    const untouched = vm.description.disks.filter(({ id }) => disks.every((disk) => disk.id !== id));
    const all = {
      ...vm.description,
      ...everything,
      disks: [...disks.slice(0, 1), ...untouched, ...disks.slice(-1)],
    };
    await expectRefusal(there, all, [...new Set(changes.flatMap(({ named }) => named))]);
    const prepared = await there.backend.prepare(vm.description);
    await prepared.discard();
    await there.close();
    await vm.detach();
  });

  test('prepare() with an aborted signal leaves nothing behind', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    const preparing = there.backend.prepare(vm.description, { signal: AbortSignal.abort() });
    await checkRejects(preparing, 'aborted', 'prepare() with an aborted signal');
    const controller = new AbortController();
    const prepared = await there.backend.prepare(vm.description, { signal: controller.signal });
    controller.abort();
    await prepared.memory.write([]);
    await prepared.discard();
    await there.close();
    await vm.detach();
  });

  test('memory takes whole pages, and refuses everything else', (fixture) =>
    withPrepared(fixture, async (prepared) => {
      for (const [region, { sizeBytes, pageBytes }] of prepared.memory.regions.entries()) {
        const page = [new Uint8Array(pageBytes - 100).fill(7), new Uint8Array(100).fill(8)];
        const run = (offset: number, length: number, content: PageRun['content']): PageRun[] => [
          { region, offset, length, content },
        ];
        await prepared.memory.write(run(0, pageBytes, page));
        await prepared.memory.write(run(sizeBytes - pageBytes, pageBytes, 'zero'));
        for (const wrong of [
          run(1, pageBytes, 'zero'),
          run(0, pageBytes - 1, 'zero'),
          run(0, 0, 'zero'),
          run(sizeBytes, pageBytes, 'zero'),
          run(-pageBytes, pageBytes, 'zero'),
          run(0, pageBytes, [...page, Uint8Array.of(1)]),
        ]) {
          const [{ offset, length } = { offset: 0, length: 0 }] = wrong;
          const what = `writing ${length} bytes at ${offset} of region ${region}`;
          await checkRejects(prepared.memory.write(wrong), 'memory', what);
        }
      }
      const stranger = {
        region: prepared.memory.regions.length,
        offset: 0,
        length: 4096,
        content: 'zero',
      } as const;
      await checkRejects(
        prepared.memory.write([stranger]),
        ['memory', 'invalid-argument'],
        'writing a region that is not there',
      );
      const signal = AbortSignal.abort();
      const aborted = prepared.memory.write([{ ...stranger, region: 0 }], { signal });
      await checkRejects(aborted, 'aborted', 'writing memory with an aborted signal');
    }));

  test('memory is read as it was written, or it says that it cannot be', (fixture) =>
    withPrepared(fixture, async ({ memory, capabilities }, _, vm) => {
      const { regions } = memory;
      const ranges = scattered(regions);
      if (!capabilities.auditMemory) {
        await checkRejects(memory.read(ranges), 'unsupported', 'read() without the capability');
        return;
      }
      const replica = new MemoryReplica(regions);
      for (let round = 0; round < 2; round += 1) {
        for await (const { runs, release } of vm.memory.round()) {
          await writeOver(memory, runs);
          replica.apply(runs);
          release();
        }
        const contents = await memory.read(ranges);
        checkEqual(contents.length, ranges.length, 'how many contents are read');
        check(
          contents.some((content) => content !== undefined),
          'not one range could be read',
        );
        for (const [index, { region, offset, length }] of ranges.entries()) {
          const content = contents[index];
          if (content === undefined) continue;
          const expected = replica.bytes(region).subarray(offset, offset + length);
          checkBytes(joinChunks(content), expected, `what is read of region ${region}, from ${offset}`);
        }
      }
      const signal = AbortSignal.abort();
      await checkRejects(memory.read(ranges, { signal }), 'aborted', 'read() with an aborted signal');
    }));

  test('a VM is not started before its device state is loaded', (fixture) =>
    withPrepared(fixture, async (prepared, there) => {
      await checkRejects(
        prepared.start({ run: true }),
        'invalid-state',
        'start() of a VM that was only prepared',
      );
      check((await there.runState()) !== 'running', 'the guest runs');
    }));

  for (const [name, damage] of Object.entries(damages)) {
    test(`device state that is ${name} is refused, and then only discard() is left`, (fixture) =>
      withPrepared(fixture, async (prepared, there, vm) => {
        await vm.stun();
        const state = await saveAll(vm, (runs) => prepared.memory.write(runs));
        const loading = prepared.loadDeviceState(damage(state));
        await checkRejects(loading, 'device-state', `loading device state that is ${name}`);
        await checkRejects(prepared.loadDeviceState(state), 'invalid-state', 'loading again');
        await checkRejects(
          prepared.start({ run: true }),
          'invalid-state',
          'start() after a load that failed',
        );
        check((await there.runState()) !== 'running', 'the guest runs');
        await vm.resume();
      }));
  }

  test('a load that is aborted before it began leaves a VM that can be discarded', (fixture) =>
    withPrepared(fixture, async (prepared, there, vm) => {
      await vm.stun();
      const state = await saveAll(vm, (runs) => prepared.memory.write(runs));
      const loading = prepared.loadDeviceState(state, { signal: AbortSignal.abort() });
      await checkRejects(loading, 'aborted', 'loadDeviceState() with an aborted signal');
      check((await there.runState()) !== 'running', 'the guest runs');
      await vm.resume();
    }));

  test('a VM that was discarded takes nothing more', (fixture) =>
    withPrepared(fixture, async (prepared, there) => {
      const [disk] = prepared.disks;
      if (disk !== undefined && !disk.readOnly) await disk.write(0, [new Uint8Array(4096)]);
      await Promise.all([prepared.discard(), prepared.discard()]);
      const zeros = { region: 0, offset: 0, length: 4096, content: 'zero' } as const;
      const calls: Record<string, () => Promise<unknown>> = {
        'loading device state': () => prepared.loadDeviceState([Uint8Array.of(1)]),
        'start()': () => prepared.start({ run: true }),
        'writing memory': () => prepared.memory.write([zeros]),
      };
      if (disk !== undefined && !disk.readOnly) {
        calls['writing a disk'] = () => disk.write(0, [new Uint8Array(4096)]);
      }
      for (const [what, call] of Object.entries(calls)) {
        const rejected = await call().then(
          () => false,
          () => true,
        );
        check(rejected, `${what} of a VM that was discarded resolved`);
      }
      checkEqual(await there.runState(), 'none', 'what is there after discard()');
    }));
}

const damages: Readonly<Record<string, (state: readonly Uint8Array[]) => readonly Uint8Array[]>> = {
  empty: () => [],
  'cut short': (state) => {
    const last = state.findLastIndex((chunk) => chunk.byteLength > 0);
    return state.slice(0, last + 1).map((chunk, index) => (index === last ? chunk.subarray(0, -1) : chunk));
  },
};

/** A VM that was prepared for the fixture's, both given back afterwards. */
async function withPrepared(
  fixture: BackendFixture,
  run: (prepared: DestinationVm, there: DestinationFixture, vm: SourceVm) => Promise<void>,
): Promise<void> {
  const vm = await fixture.source();
  const there = await fixture.destination();
  try {
    const prepared = await there.backend.prepare(vm.description);
    await run(prepared, there, vm);
    await prepared.discard();
  } finally {
    await there.close();
  }
  checkEqual(vm.runState(), 'running', 'how the guest at the source is');
  await vm.detach();
}

interface Difference {
  readonly change: Partial<VmDescription>;
  /** What the refusal has to mention. */
  readonly named: readonly string[];
}

/** Ways in which a VM can be another one than the destination can take, each alone. */
function differences(description: VmDescription): readonly Difference[] {
  const { cpus, memory, disks } = description;
  const found: Difference[] = [
    { change: { machine: 'another-machine' }, named: ['another-machine'] },
    { change: { cpus: cpus + 37 }, named: [String(cpus + 37)] },
    { change: { deviceStateFormat: 'another-format/9' }, named: ['another-format/9'] },
  ];
  const largest = [...memory].sort((a, b) => b.sizeBytes - a.sizeBytes)[0];
  if (largest !== undefined) {
    const grown = { ...largest, sizeBytes: largest.sizeBytes + 64 * largest.pageBytes };
    const change = { memory: memory.map((region) => (region === largest ? grown : region)) };
    found.push({ change, named: [largest.name] });
  }
  const [disk, ...others] = disks;
  if (disk !== undefined) {
    const grown = { ...disk, sizeBytes: disk.sizeBytes + 1024 * 1024 };
    found.push({ change: { disks: [grown, ...others] }, named: [disk.id] });
    const added = { ...disk, id: 'a-disk-too-many' };
    found.push({ change: { disks: [...disks, added] }, named: [added.id] });
  }
  return found;
}

async function expectRefusal(
  { backend }: DestinationFixture,
  description: VmDescription,
  named: readonly string[],
): Promise<void> {
  const error = await checkRejects(backend.prepare(description), 'incompatible', `preparing with ${named}`);
  for (const word of named) {
    check(error.message.includes(word), `the refusal '${error.message}' does not name ${word}`);
  }
}

/** Writes copies, which change as soon as that is done. */
async function writeOver(memory: MemorySink, runs: readonly PageRun[]): Promise<void> {
  const copies = runs.map(({ content, ...range }) => ({
    ...range,
    content: content === 'zero' ? content : content.map((chunk) => new Uint8Array(chunk)),
  }));
  await memory.write(copies);
  for (const { content } of copies) {
    if (content !== 'zero') for (const chunk of content) chunk.fill(0xa5);
  }
}

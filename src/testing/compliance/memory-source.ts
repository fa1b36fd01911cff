/** What the memory of every running VM owes the engine. */
import type { SourceVm } from '../../interfaces/hypervisor.ts';
import type { PageBatch } from '../../interfaces/memory.ts';
import { crc32cOfChunks } from '../../util/checksum.ts';
import { joinChunks } from '../../util/chunks.ts';
import { check, checkBytes, checkEqual, checkRejects } from './check.ts';
import type { GuestMemoryControl } from './guest-control.ts';
import { MemoryReplica, readRound, scattered } from './memory-replica.ts';
import { eachWith, type Fixture, type FixtureTest, type TestFunction } from './test-function.ts';

/** A running VM with memory, for one test. */
export interface MemorySourceFixture extends Fixture {
  /** The VM; its guest runs, and no migration of it has begun. */
  readonly vm: SourceVm;
  /** What its guest does. */
  readonly guest: GuestMemoryControl;
}

/** What {@link memorySourceCompliance} takes. */
export interface MemorySourceComplianceOptions {
  /** The runner's test function. */
  readonly test: TestFunction;
  /** Called once for each test. */
  create(): Promise<MemorySourceFixture>;
}

/** Batches whose content the tests keep at once: what an engine's window has on its way. */
const heldBatchesMax = 32;

/** Declares the tests that every `MemorySource` passes. */
export function memorySourceCompliance({ test, create }: MemorySourceComplianceOptions): void {
  const withMemory = eachWith(test, create);
  roundTests(withMemory);
  auditTests(withMemory);
  unfinishedTests(withMemory);
  stopTests(withMemory);
}

function roundTests(test: FixtureTest<MemorySourceFixture>): void {
  test('describes its regions, as its VM does', async ({ vm }) => {
    const { regions } = vm.memory;
    checkEqual(vm.description.memory, regions, 'the regions in the description of the VM');
    checkEqual(new Set(regions.map(({ name }) => name)).size, regions.length, 'different names of regions');
    for (const { name, sizeBytes, pageBytes } of regions) {
      check(name.length >= 1 && name.length <= 255, `the name '${name}' has not 1 to 255 characters`);
      const powerOfTwo = pageBytes >= 4096 && 2 ** 52 % pageBytes === 0;
      check(powerOfTwo, `${name} has pages of ${pageBytes} bytes, not a power of two from 4096`);
      check(sizeBytes > 0 && sizeBytes % pageBytes === 0, `${name} has ${sizeBytes} bytes: not whole pages`);
    }
  });

  test('the first round brings every page', async ({ vm }) => {
    const replica = new MemoryReplica(vm.memory.regions);
    await readRound(vm.memory, replica);
    checkEqual(replica.firstMissing(), undefined, 'the first page that no round brought');
  });

  test('rounds while the guest writes, then stunned until one is empty, bring what is there', async (fixture) => {
    const { vm, guest } = fixture;
    const replica = new MemoryReplica(vm.memory.regions);
    let batches = 0;
    for (let round = 0; round < 3; round += 1) {
      for await (const batch of vm.memory.round()) {
        replica.apply(batch.runs);
        batch.release();
        if (batches++ < 8) await guest.dirty();
      }
      await guest.dirty();
    }
    await expectEqualOnceStunned(fixture, replica);
    await vm.resume();
  });

  test('measure() sees what the guest dirties, and takes nothing of it from the rounds', async (fixture) => {
    const { vm, guest } = fixture;
    if (!vm.capabilities.measure) return;
    const replica = new MemoryReplica(vm.memory.regions);
    const measuring = vm.measure({ durationMs: 300 });
    await guest.dirty();
    const { dirtiedBytes, durationMs } = await measuring;
    check(durationMs > 0 && dirtiedBytes >= 0, `${dirtiedBytes} bytes in ${durationMs} ms`);
    await readRound(vm.memory, replica);
    checkEqual(replica.firstMissing(), undefined, 'the first page that the first round did not bring');
    await guest.dirty();
    await vm.measure({ durationMs: 50 });
    await readRound(vm.memory, replica);
    await expectEqualOnceStunned(fixture, replica);
    await vm.resume();
  });

  test('a page that is written after it was read is in a later round', async (fixture) => {
    const { vm, guest } = fixture;
    if (guest.write === undefined) return;
    const replica = new MemoryReplica(vm.memory.regions);
    let last: { readonly region: number; readonly offset: number } | undefined;
    for await (const batch of vm.memory.round()) {
      for (const { region, offset } of batch.runs) {
        await guest.write(region, offset, Uint8Array.of(0x5a, 1, 2));
        last = { region, offset };
      }
      replica.apply(batch.runs);
      batch.release();
    }
    check(last !== undefined, 'the first round brought nothing');
    await guest.write(last.region, last.offset + 5, Uint8Array.of(0xa5));
    if (vm.memory.dirtyBytes() !== undefined) {
      check((vm.memory.dirtyBytes() ?? 0) > 0, 'dirtyBytes() is 0 although the guest has written');
    }
    await expectEqualOnceStunned(fixture, replica);
    await vm.resume();
  });

  test('what a batch holds does not change until it is released', async ({ vm, guest }) => {
    const held: { readonly batch: PageBatch; readonly checksum: number }[] = [];
    const checksumOf = ({ runs }: PageBatch) =>
      crc32cOfChunks(runs.flatMap(({ content }) => (content === 'zero' ? [] : content)));
    const letGo = (count: number) => {
      for (const { batch, checksum } of held.splice(0, count)) {
        checkEqual(checksumOf(batch), checksum, 'the checksum of a batch when it is released');
        batch.release();
      }
    };
    for await (const batch of vm.memory.round()) {
      held.push({ batch, checksum: checksumOf(batch) });
      if (held.length > heldBatchesMax) letGo(1);
      if (held.length < 8) await guest.dirty();
    }
    await guest.dirty();
    letGo(held.length);
  });

  test('one round at a time', async ({ vm }) => {
    const replica = new MemoryReplica(vm.memory.regions);
    let batches = 0;
    for await (const batch of vm.memory.round()) {
      if (batches++ === 0) {
        const second = vm.memory.round()[Symbol.asyncIterator]().next();
        await checkRejects(second, 'invalid-state', 'a second round while the first is read');
      }
      replica.apply(batch.runs);
      batch.release();
    }
    checkEqual(replica.firstMissing(), undefined, 'the first page that the first round did not bring');
    await readRound(vm.memory);
  });

  test('stunned and clean, a round is empty, and no bytes are dirty', async ({ vm }) => {
    await readRound(vm.memory);
    await vm.stun();
    await readUntilEmpty(vm);
    checkEqual(await readRound(vm.memory), 0, 'bytes of a round after one that was empty');
    const dirty = vm.memory.dirtyBytes();
    check(dirty === 0 || dirty === undefined, `${String(dirty)} bytes are dirty after an empty round`);
    await vm.resume();
  });
}

function auditTests(test: FixtureTest<MemorySourceFixture>): void {
  test('stunned and clean, any ranges are read as they are, many at once, or it says that they cannot be', async ({
    vm,
    guest,
  }) => {
    if (!vm.capabilities.auditMemory) {
      const range = { region: 0, offset: 0, length: 4096 };
      await checkRejects(vm.memory.read([range]), 'unsupported', 'read() without the capability');
      await checkRejects(vm.memory.offer([range]), 'unsupported', 'offer() without the capability');
      return;
    }
    const replica = new MemoryReplica(vm.memory.regions);
    await readRound(vm.memory, replica);
    await guest.dirty();
    await vm.stun();
    await readUntilEmpty(vm, replica);
    checkEqual(await vm.memory.read([]), [], 'what a read of nothing brings');
    const ranges = scattered(vm.memory.regions);
    const contents = await vm.memory.read(ranges);
    checkEqual(contents.length, ranges.length, 'how many contents are read');
    let read = 0;
    for (const [index, { region, offset, length }] of ranges.entries()) {
      const content = contents[index];
      if (content === undefined) continue;
      read += 1;
      const expected = replica.bytes(region).subarray(offset, offset + length);
      checkBytes(joinChunks(content), expected, `what is read of region ${region}, from ${offset}`);
    }
    check(read > 0, 'not one range could be read');
    const signal = AbortSignal.abort();
    await checkRejects(vm.memory.read(ranges, { signal }), 'aborted', 'read() with an aborted signal');
    for (const [region, { sizeBytes }] of vm.memory.regions.entries()) {
      const outside = vm.memory.read([{ region, offset: sizeBytes, length: 4096 }]);
      await checkRejects(outside, 'memory', `reading behind the end of region ${region}`);
    }
    await vm.resume();
  });

  test('pages that are offered again come again once the guest was resumed', async ({ vm }) => {
    if (!vm.capabilities.auditMemory) return;
    await readRound(vm.memory);
    await vm.stun();
    await readUntilEmpty(vm);
    const ranges = scattered(vm.memory.regions).filter((_, index) => index % 5 === 0);
    await vm.memory.offer(ranges);
    await vm.resume();
    const missing = new Set(ranges);
    for (let round = 0; round < 2; round += 1) {
      for await (const { runs, release } of vm.memory.round()) {
        for (const range of missing) {
          const end = range.offset + range.length;
          const comes = runs.some(
            (run) =>
              run.region === range.region && run.offset <= range.offset && end <= run.offset + run.length,
          );
          if (comes) missing.delete(range);
        }
        release();
      }
    }
    checkEqual([...missing], [], 'pages that were offered again and did not come');
  });
}

function unfinishedTests(test: FixtureTest<MemorySourceFixture>): void {
  /** Reads some batches, applies all but the last one, and ends the round there. */
  const endings: Record<string, (vm: SourceVm, replica: MemoryReplica) => Promise<void>> = {
    'by return()': async ({ memory }, replica) => {
      let before: PageBatch | undefined;
      let batches = 0;
      for await (const batch of memory.round()) {
        if (before !== undefined) replica.apply(before.runs);
        before?.release();
        before = batch;
        if (++batches === 3) break;
      }
      before?.release();
    },
    'by its signal': async ({ memory }, replica) => {
      const controller = new AbortController();
      const reading = (async () => {
        for await (const batch of memory.round({ signal: controller.signal })) {
          if (!controller.signal.aborted) replica.apply(batch.runs);
          batch.release();
          controller.abort();
        }
      })();
      await checkRejects(reading, 'aborted', 'a round whose signal was aborted');
    },
    'by an error of the reader': async ({ memory }) => {
      const failure = new Error('the reader fails');
      const reading = (async () => {
        for await (const batch of memory.round()) {
          batch.release();
          throw failure;
        }
      })();
      const error = await reading.catch((reason: unknown) => reason);
      check(error === failure, `the reader failed, and got another error: ${String(error)}`);
    },
  };
  for (const [name, end] of Object.entries(endings)) {
    test(`a round that was ended ${name} loses no page`, async (fixture) => {
      const { vm, guest } = fixture;
      const replica = new MemoryReplica(vm.memory.regions);
      await readRound(vm.memory, replica);
      await guest.dirty();
      await vm.memory.stop();
      replica.forget();
      await end(vm, replica);
      await guest.dirty();
      if (!vm.memory.keepsUnsentPages) replica.forget();
      await readRound(vm.memory, replica);
      const missing = 'the first page that neither the ended round nor the next one brought';
      checkEqual(replica.firstMissing(), undefined, missing);
      await expectEqualOnceStunned(fixture, replica);
      await vm.resume();
    });
  }

  test('a round with an aborted signal takes nothing', async ({ vm }) => {
    const round = vm.memory.round({ signal: AbortSignal.abort() });
    await checkRejects(round[Symbol.asyncIterator]().next(), 'aborted', 'a round with an aborted signal');
    const replica = new MemoryReplica(vm.memory.regions);
    await readRound(vm.memory, replica);
    checkEqual(replica.firstMissing(), undefined, 'the first page that the next round did not bring');
  });

  test('a signal that is aborted after the round does nothing to the next one', async ({ vm }) => {
    const controller = new AbortController();
    await readRound(vm.memory, undefined, controller.signal);
    controller.abort();
    await readRound(vm.memory);
  });
}

function stopTests(test: FixtureTest<MemorySourceFixture>): void {
  test('after stop() a new migration begins, with every page', async (fixture) => {
    const { vm, guest } = fixture;
    await vm.memory.stop();
    await readRound(vm.memory);
    await readRound(vm.memory);
    await vm.memory.stop();
    await vm.memory.stop();
    await guest.dirty();
    const replica = new MemoryReplica(vm.memory.regions);
    await readRound(vm.memory, replica);
    checkEqual(replica.firstMissing(), undefined, 'the first page that the new first round did not bring');
    await expectEqualOnceStunned(fixture, replica);
    await vm.resume();
  });

  test('stop() ends a round that was left lying', async ({ vm }) => {
    const left = vm.memory.round()[Symbol.asyncIterator]();
    const first = await left.next();
    if (first.done !== true) first.value.release();
    await vm.memory.stop();
    const ended = await left.next().then(
      (result) => result.done === true,
      () => true,
    );
    check(ended, 'a round goes on after stop()');
    const replica = new MemoryReplica(vm.memory.regions);
    await readRound(vm.memory, replica);
    checkEqual(replica.firstMissing(), undefined, 'the first page that the new first round did not bring');
  });
}

/** Rounds until one is empty. */
async function readUntilEmpty(vm: SourceVm, replica?: MemoryReplica): Promise<void> {
  while ((await readRound(vm.memory, replica)) > 0);
}

/** Stuns the VM, reads the rest, and compares with what is there. The VM stays stunned. */
async function expectEqualOnceStunned(
  { vm, guest }: MemorySourceFixture,
  replica: MemoryReplica,
): Promise<void> {
  await vm.stun();
  await readUntilEmpty(vm, replica);
  const stepBytes = 16 * 1024 * 1024;
  for (const [region, { name, sizeBytes }] of vm.memory.regions.entries()) {
    for (let offset = 0; offset < sizeBytes; offset += stepBytes) {
      const length = Math.min(stepBytes, sizeBytes - offset);
      const there = await guest.read(region, offset, length);
      if (there === undefined) continue;
      const what = `what the rounds brought of ${name}, from ${offset}`;
      checkBytes(replica.bytes(region).subarray(offset, offset + length), there, what);
    }
  }
}

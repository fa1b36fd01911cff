import type { SourceDisk } from '../../interfaces/block-device.ts';
import type { SourceVm, UnexpectedStop } from '../../interfaces/hypervisor.ts';
import { deferred } from '../../util/promises.ts';
import type { BackendFixture } from './backend.ts';
import { check, checkEqual, checkRejects } from './check.ts';
import { MemoryReplica, readRound } from './memory-replica.ts';
import { collectState, saveAll } from './mover.ts';
import type { FixtureTest } from './test-function.ts';

/** A VM at the source, from when it is opened until it is detached or released. */
export function sourceVmTests(test: FixtureTest<BackendFixture>): void {
  describeTests(test);
  stunTests(test);
  sealTests(test);
  stopTests(test);
}

function describeTests(test: FixtureTest<BackendFixture>): void {
  test('a source VM describes itself', async ({ source }) => {
    const vm = await source();
    const { description, memory, disks, capabilities } = vm;
    check(description.vmId.length >= 1 && description.vmId.length <= 255, `its id is '${description.vmId}'`);
    check(description.machine.length > 0, 'it names no machine');
    check(Number.isSafeInteger(description.cpus) && description.cpus >= 1, `it has ${description.cpus} CPUs`);
    check(description.deviceStateFormat.length > 0, 'it names no format of its device state');
    checkEqual(description.memory, memory.regions, 'the memory in its description');
    const described = disks.map(({ id, sizeBytes, blockBytes, readOnly }) => ({
      id,
      sizeBytes,
      blockBytes,
      readOnly,
    }));
    checkEqual(
      description.disks.map(({ allocatedBytes: _, ...disk }) => disk),
      described,
      'the disks in its description',
    );
    for (const { id, sizeBytes, allocatedBytes = 0 } of description.disks) {
      const sound =
        Number.isSafeInteger(allocatedBytes) && allocatedBytes >= 0 && allocatedBytes <= sizeBytes;
      check(sound, `disk ${id} of ${sizeBytes} bytes holds ${allocatedBytes}`);
    }
    checkEqual(new Set(disks.map(({ id }) => id)).size, disks.length, 'different ids of disks');
    checkEqual(typeof capabilities.throttle, 'boolean', 'the type of capabilities.throttle');
    checkEqual(typeof capabilities.auditMemory, 'boolean', 'the type of capabilities.auditMemory');
    checkEqual(vm.runState(), 'running', 'how the guest is');
    await vm.detach();
  });

  test('a source VM that nothing was done to is resumed and detached to no effect', async ({ source }) => {
    const vm = await source();
    await vm.resume();
    await vm.resume();
    checkEqual(vm.runState(), 'running', 'how the guest is after resume()');
    await vm.detach();
    await vm.detach();
    const again = await source();
    checkEqual(again.runState(), 'running', 'how the guest is when it is opened again');
    await again.detach();
  });

  test('a source VM is throttled, or says that it cannot be', async ({ source }) => {
    const vm = await source();
    if (!vm.capabilities.throttle) {
      await checkRejects(vm.setThrottle(0.5), 'unsupported', 'setThrottle() without the capability');
      return vm.detach();
    }
    for (const fraction of [0.5, 0.99, 0, 0, 0.2]) await vm.setThrottle(fraction);
    let batches = 0;
    for await (const batch of vm.memory.round()) {
      if (batches++ < 3) await vm.setThrottle(0.3 * batches);
      batch.release();
    }
    for (const fraction of [-0.1, 1, 2, Number.NaN]) {
      await checkRejects(vm.setThrottle(fraction), 'invalid-argument', `setThrottle(${fraction})`);
    }
    await vm.setThrottle(0);
    checkEqual(vm.runState(), 'running', 'how the guest is');
    return vm.detach();
  });

  test('a source VM is measured, or says that it cannot be', async ({ source }) => {
    const vm = await source();
    if (!vm.capabilities.measure) {
      await checkRejects(vm.measure({ durationMs: 50 }), 'unsupported', 'measure() without the capability');
      return vm.detach();
    }
    const { durationMs, dirtiedBytes, writtenBytes, usedBytes = 0 } = await vm.measure({ durationMs: 100 });
    const memoryBytes = vm.memory.regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    check(durationMs > 0, `it looked for ${durationMs} ms`);
    check(
      dirtiedBytes >= 0 && dirtiedBytes <= memoryBytes,
      `${dirtiedBytes} of ${memoryBytes} bytes were dirtied`,
    );
    check(usedBytes >= 0 && usedBytes <= memoryBytes, `${usedBytes} of ${memoryBytes} bytes are used`);
    const ids = vm.disks.map(({ id }) => id);
    for (const [id, bytes] of Object.entries(writtenBytes)) {
      check(ids.includes(id) && bytes >= 0, `${bytes} bytes were written to ${id}`);
    }
    for (const tooMuch of [0, 49, 60_001, Number.NaN]) {
      await checkRejects(
        vm.measure({ durationMs: tooMuch }),
        'invalid-argument',
        `measure() for ${tooMuch} ms`,
      );
    }
    await checkRejects(
      vm.measure({ durationMs: 50, signal: AbortSignal.abort() }),
      'aborted',
      'measure() with an aborted signal',
    );
    await vm.measure({ durationMs: 50 });
    checkEqual(vm.runState(), 'running', 'how the guest is');
    const replica = new MemoryReplica(vm.memory.regions);
    await readRound(vm.memory, replica);
    checkEqual(
      replica.firstMissing(),
      undefined,
      'the first page that the first round after it did not bring',
    );
    return vm.detach();
  });

  test('detach() takes everything away, and a new migration can begin', async ({ source }) => {
    const vm = await source();
    if (vm.capabilities.throttle) await vm.setThrottle(0.5);
    for (const disk of vm.disks) await watchWrites(disk);
    await readRound(vm.memory);
    await vm.detach();
    const again = await source();
    checkEqual(again.runState(), 'running', 'how the guest is');
    for (const disk of again.disks) await (await watchWrites(disk))?.remove();
    const replica = new MemoryReplica(again.memory.regions);
    await readRound(again.memory, replica);
    checkEqual(replica.firstMissing(), undefined, 'the first page that the new first round did not bring');
    await again.detach();
  });
}

function stunTests(test: FixtureTest<BackendFixture>): void {
  test('stun() pauses the guest, resume() runs it, again and again', async ({ source }) => {
    const vm = await source();
    for (let turn = 0; turn < 3; turn += 1) {
      if (turn === 1) await readRound(vm.memory);
      let told = 0;
      const onStopping = () => {
        told += 1;
        checkEqual(vm.runState(), 'running', 'how the guest is when it is said to be about to stop');
      };
      await vm.stun({ onStopping });
      check(told <= 1, 'that the guest is about to stop is said once');
      checkEqual(vm.runState(), 'paused', 'how the guest is after stun()');
      await vm.resume();
      await vm.resume();
      checkEqual(vm.runState(), 'running', 'how the guest is after resume()');
    }
    await vm.detach();
  });

  test('stunned for its disks alone, the guest stands still until it is resumed, and can be moved after that', async (fixture) => {
    const vm = await fixture.source();
    for (let turn = 0; turn < 2; turn += 1) {
      await vm.stun({ memory: 'none' });
      await fixture.settle();
      checkEqual(vm.runState(), 'paused', 'how the guest is after stun() for its disks alone');
      await vm.resume();
      checkEqual(vm.runState(), 'running', 'how the guest is after resume()');
    }
    const replica = new MemoryReplica(vm.memory.regions);
    await readRound(vm.memory, replica);
    checkEqual(replica.firstMissing(), undefined, 'the first page that the first round did not bring');
    await vm.stun();
    await saveAll(vm);
    await vm.resume();
    await vm.detach();
  });

  test('a stun() that is aborted leaves the guest running', async ({ source, settle }) => {
    const vm = await source();
    await checkRejects(vm.stun({ signal: AbortSignal.abort() }), 'aborted', 'stun() with an aborted signal');
    checkEqual(vm.runState(), 'running', 'how the guest is');
    const controller = new AbortController();
    const stunning = vm.stun({ signal: controller.signal }).then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    controller.abort();
    const failed = await stunning;
    if (failed !== undefined) {
      await checkRejects(Promise.reject(failed.error), 'aborted', 'stun() aborted meanwhile');
      checkEqual(vm.runState(), 'running', 'how the guest is after a stun() that was aborted');
    } else {
      checkEqual(vm.runState(), 'paused', 'how the guest is after a stun() that no abort reached');
      await vm.resume();
    }
    const late = new AbortController();
    await vm.stun({ signal: late.signal });
    late.abort();
    await settle();
    checkEqual(vm.runState(), 'paused', 'how the guest is when the signal is aborted after the stun');
    await vm.resume();
    await vm.detach();
  });

  test('the device state is saved only while stunned, as often as the VM is', async ({ source }) => {
    const vm = await source();
    await checkRejects(collectState(vm), 'invalid-state', 'saveDeviceState() of a running guest');
    for (let turn = 0; turn < 2; turn += 1) {
      await vm.stun();
      const state = await saveAll(vm);
      check(
        state.some((chunk) => chunk.byteLength > 0),
        'the device state is empty',
      );
      checkEqual(vm.runState(), 'paused', 'how the guest is after its state was saved');
      await vm.resume();
    }
    checkEqual(vm.runState(), 'running', 'how the guest is');
    await vm.detach();
  });

  test('a save that is given up half-way, or aborted, leaves a VM that can be resumed', async ({
    source,
  }) => {
    const vm = await source();
    await vm.stun();
    for await (const _ of vm.saveDeviceState()) break;
    await vm.resume();
    checkEqual(vm.runState(), 'running', 'how the guest is after a save that was given up');
    await vm.stun();
    const signal = AbortSignal.abort();
    await checkRejects(collectState(vm, signal), 'aborted', 'saveDeviceState() with an aborted signal');
    checkEqual(vm.runState(), 'paused', 'how the guest is after a save that was aborted');
    await vm.resume();
    await vm.stun();
    await saveAll(vm);
    await vm.resume();
    checkEqual(vm.runState(), 'running', 'how the guest is');
    await vm.detach();
  });

  test('a guest that was paused from the start stays so', async ({ source, control }) => {
    if (control.pause === undefined) return;
    await control.pause();
    const vm = await source();
    checkEqual(vm.runState(), 'paused', 'how the guest is when it is opened');
    await readRound(vm.memory);
    await vm.stun();
    await saveAll(vm);
    await vm.resume();
    checkEqual(vm.runState(), 'paused', 'how the guest is after resume()');
    await vm.detach();
    await control.run?.();
  });
}

function sealTests(test: FixtureTest<BackendFixture>): void {
  test('seal() needs a stunned VM whose state was saved since', async ({ source }) => {
    const vm = await source();
    await checkRejects(vm.seal(), 'invalid-state', 'seal() of a running VM');
    await vm.stun();
    await checkRejects(vm.seal(), 'invalid-state', 'seal() before the state was saved');
    await saveAll(vm);
    await vm.resume();
    await vm.stun();
    await checkRejects(vm.seal(), 'invalid-state', "seal() with another stun's state");
    checkEqual(vm.runState(), 'paused', 'how the guest is');
    await vm.resume();
    await vm.detach();
  });

  test('a sealed VM stands still until it is resumed', async ({ source, settle }) => {
    const vm = await source();
    await sealed(vm);
    await settle();
    checkEqual(vm.runState(), 'paused', 'how the guest is after seal()');
    await vm.resume();
    await vm.resume();
    checkEqual(vm.runState(), 'running', 'how the guest is after resume()');
    await sealed(vm);
    await vm.resume();
    await vm.detach();
  });

  test('a sealed VM stays so when its engine is gone, until it is recovered', async (fixture) => {
    const vm = await fixture.source();
    await sealed(vm);
    await vm.detach();
    const recovered = await (fixture.recover ?? fixture.source)();
    checkEqual(recovered.runState(), 'paused', 'how the guest is when it is opened again');
    await recovered.resume();
    checkEqual(recovered.runState(), 'running', 'how the guest is after resume()');
    await recovered.detach();
    const again = await fixture.source();
    checkEqual(again.runState(), 'running', 'how the guest is when it is opened for a migration');
    await readRound(again.memory);
    await again.detach();
  });

  test('a released VM never runs here again', async ({ source }) => {
    const vm = await source();
    await sealed(vm);
    await vm.release();
    await vm.release();
    await checkRejects(vm.resume(), ['invalid-state', 'hypervisor'], 'resume() of a released VM');
    checkEqual(vm.runState(), 'paused', 'how the guest is after release()');
    await vm.detach();
    await vm.release();
  });
}

function stopTests(test: FixtureTest<BackendFixture>): void {
  test('what the engine itself asks for is no unexpected stop', async ({ source, settle }) => {
    const vm = await source();
    const stops = listen(vm);
    await sealed(vm);
    await vm.resume();
    await settle();
    checkEqual(stops.heard, [], 'stops that were told');
    await vm.detach();
  });

  const kinds = { pause: 'paused', powerOff: 'shutdown', kill: 'gone' } as const;
  for (const [how, kind] of Object.entries(kinds) as [keyof typeof kinds, UnexpectedStop['kind']][]) {
    test(`a stop that nobody here asked for is told: ${kind}`, async ({ source, control, settle }) => {
      const act = control[how];
      if (act === undefined) return;
      const vm = await source();
      const unheard: UnexpectedStop[] = [];
      vm.onUnexpectedStop((stop) => unheard.push(stop))();
      const stops = listen(vm);
      await readRound(vm.memory);
      await act();
      await stops.first;
      await settle();
      checkEqual(
        stops.heard.map((stop) => stop.kind),
        [kind],
        'the stops that were told',
      );
      check((stops.heard[0]?.reason ?? '') !== '', 'a stop has no reason');
      checkEqual(unheard.length, 0, 'stops that were told to one who had stopped listening');
      checkEqual(vm.runState(), 'paused', 'how the guest is');
      await vm.detach();
      if (kind === 'paused') await control.run?.();
    });
  }
}

/** Stuns it, saves its state, seals it. */
async function sealed(vm: SourceVm): Promise<void> {
  await vm.stun();
  await saveAll(vm);
  await vm.seal();
}

/** Sets the disk's tap, or keeps a dirty log of it, if it can; the tap gives each write back at once. */
async function watchWrites(disk: SourceDisk): Promise<{ remove(): Promise<void> } | undefined> {
  if (disk.readOnly || disk.tapCapability === 'none') return undefined;
  if (disk.tapCapability === 'extents') return disk.track();
  return disk.tap({ write: ({ release }) => release(), invalidate: () => {}, broken: () => {} });
}

/** Notes what a VM tells. */
function listen(vm: SourceVm): { readonly heard: UnexpectedStop[]; readonly first: Promise<void> } {
  const heard: UnexpectedStop[] = [];
  const first = deferred<void>();
  vm.onUnexpectedStop((stop) => {
    heard.push(stop);
    first.resolve();
  });
  return { heard, first: first.promise };
}

import type { DestinationVm, SourceVm } from '../../interfaces/hypervisor.ts';
import type { BackendFixture, DestinationFixture } from './backend.ts';
import { check, checkEqual, checkRejects } from './check.ts';
import { Mover } from './mover.ts';
import type { FixtureTest } from './test-function.ts';

/** Whole moves, from one VM to the other. */
export function moveTests(test: FixtureTest<BackendFixture>): void {
  test('moved, the guest runs there and never here again', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    const prepared = await there.backend.prepare(vm.description);
    await new Mover(vm, prepared).load();
    check((await there.runState()) !== 'running', 'the guest runs at the destination before it was started');
    const again = prepared.loadDeviceState([Uint8Array.of(1)]);
    await checkRejects(again, 'invalid-state', 'loadDeviceState() of a VM that was loaded');
    await vm.seal();
    await prepared.start({ run: true });
    checkEqual(await there.runState(), 'running', 'how the guest is at the destination');
    await checkRejects(prepared.start({ run: true }), 'invalid-state', 'start() of a VM that was started');
    await there.verify?.();
    await vm.release();
    await checkRejects(vm.resume(), ['invalid-state', 'hypervisor'], 'resume() at the source');
    await prepared.discard();
    await prepared.discard();
    checkEqual(await there.runState(), 'running', 'how the guest is after helpers were let go');
    await vm.detach();
    await there.close();
  });

  test('moved with run: false, the guest is there, and paused', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    const prepared = await there.backend.prepare(vm.description);
    await new Mover(vm, prepared).load();
    await vm.seal();
    await prepared.start({ run: false });
    await fixture.settle();
    checkEqual(await there.runState(), 'paused', 'how the guest is at the destination');
    await prepared.discard();
    checkEqual(await there.runState(), 'paused', 'how the guest is after helpers were let go');
    // This move is taken back, against all rules: the fixture ends the VM there.
    await there.close();
    await vm.resume();
    checkEqual(vm.runState(), 'running', 'how the guest is at the source');
    await vm.detach();
  });

  test('stunned for nothing, the guest runs on, and is moved later as it is then', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    const prepared = await there.backend.prepare(vm.description);
    const mover = new Mover(vm, prepared);
    await mover.copy();
    for (let turn = 0; turn < 2; turn += 1) {
      await mover.stun();
      await vm.resume();
      checkEqual(vm.runState(), 'running', 'how the guest is after resume()');
      await fixture.settle();
      await mover.round();
    }
    await mover.loadRest();
    await finish(fixture, vm, prepared, there);
  });

  test('loaded for nothing, it is filled again, or says that it cannot be', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    const prepared = await there.backend.prepare(vm.description);
    if (!prepared.capabilities.refill) {
      await checkRejects(prepared.refill(), 'unsupported', 'refill() without the capability');
      await prepared.discard();
      await there.close();
      return vm.detach();
    }
    const mover = new Mover(vm, prepared);
    await mover.load();
    await prepared.refill();
    await checkRejects(
      prepared.start({ run: true }),
      'invalid-state',
      'start() of a VM that is to be filled',
    );
    await vm.resume();
    await fixture.settle();
    await mover.round();
    // What fails to be loaded is nothing that stays, either.
    const state = await mover.stun();
    await checkRejects(prepared.loadDeviceState([]), 'device-state', 'loading device state that is empty');
    await prepared.refill();
    await prepared.loadDeviceState(state);
    await finish(fixture, vm, prepared, there);
    await checkRejects(
      prepared.refill(),
      ['invalid-state', 'hypervisor'],
      'refill() of a VM that was started',
    );
  });

  test('loaded and then given up, the guest runs on here and leaves nothing there', async (fixture) => {
    const vm = await fixture.source();
    const there = await fixture.destination();
    const prepared = await there.backend.prepare(vm.description);
    await new Mover(vm, prepared).load();
    await prepared.discard();
    check((await there.runState()) !== 'running', 'the guest runs at the destination');
    await vm.resume();
    checkEqual(vm.runState(), 'running', 'how the guest is at the source');
    await vm.detach();
    await there.close();
  });
}

/** Loaded, it is handed over, and runs there as it left here. */
async function finish(
  fixture: BackendFixture,
  vm: SourceVm,
  prepared: DestinationVm,
  there: DestinationFixture,
): Promise<void> {
  await vm.seal();
  await prepared.start({ run: true });
  checkEqual(await there.runState(), 'running', 'how the guest is at the destination');
  await there.verify?.();
  await fixture.settle();
  await vm.release();
  await prepared.discard();
  await vm.detach();
  await there.close();
}

import type { DestinationVm, SourceVm, VmDescription } from '../../interfaces/hypervisor.ts';
import type { BackendFixture, DestinationFixture } from './backend.ts';
import { check, checkBytes, checkEqual, checkRejects } from './check.ts';
import { Mover } from './mover.ts';
import { readBytes } from './readable-disk.ts';
import type { FixtureTest } from './test-function.ts';

/** A disk is compared in pieces of so many bytes. */
const pieceBytes = 1 << 20;

/** Disks that move without their VM, and disks that find no room. */
export function disksAloneTests(test: FixtureTest<BackendFixture>): void {
  test('disks alone are handed over as they were at the stun, and stay; or it says that it cannot', (fixture) =>
    withDisksAlone(fixture, async (vm, description, there) => {
      const prepared = await there.backend.prepare(description, { memory: 'none' });
      checkEqual(prepared.memory.regions, [], 'regions of memory where disks come alone');
      const mover = new Mover(vm, prepared);
      await mover.copyDisks();
      await fixture.settle();
      await mover.stunForDisks();
      const atTheStun = await contents(vm, description);
      await vm.resume();
      await fixture.settle();
      await prepared.handOver();
      await checkHandedOver(there, atTheStun, 'after handOver()');
      await checkRejects(prepared.handOver(), 'invalid-state', 'handOver() a second time');
      for (const disk of prepared.disks) {
        const written = await disk.write(0, [new Uint8Array(512).fill(0xee)]).then(
          () => true,
          () => false,
        );
        check(!written, `disk ${disk.id} was written after it was handed over`);
      }
      await prepared.discard();
      await prepared.discard();
      await checkHandedOver(there, atTheStun, 'after discard()');
      check((await there.runState()) !== 'running', 'a guest runs where disks came alone');
    }));

  test('disks alone are of any machine, but have to fit', (fixture) =>
    withDisksAlone(fixture, async (_, description, there) => {
      const { cpus, disks } = description;
      const grown = disks.map((disk) => ({ ...disk, sizeBytes: disk.sizeBytes + (1 << 20) }));
      // One that makes disks makes them as large as is asked for; one that has them refuses.
      const preparing = there.backend.prepare({ ...description, disks: grown }, { memory: 'none' });
      const made = await preparing.catch(() => undefined);
      if (made === undefined) await checkRejects(preparing, 'incompatible', 'preparing for larger disks');
      checkEqual(made?.disks.map(sizeOf), made && grown.map(sizeOf), 'the sizes of larger disks');
      await made?.discard();
      const other = { machine: 'another-machine', cpus: cpus + 37, deviceStateFormat: 'another-format/9' };
      const prepared = await there.backend.prepare({ ...description, ...other }, { memory: 'none' });
      checkEqual(
        prepared.disks.map(({ id }) => id),
        disks.map(({ id }) => id),
        'the disks that were prepared',
      );
      await prepared.discard();
    }));

  test('disks alone have nothing to start, and are discarded with all that was written', (fixture) =>
    withDisksAlone(fixture, async (_, description, there) => {
      const prepared = await there.backend.prepare(description, { memory: 'none' });
      const starting = prepared.start({ run: true });
      await checkRejects(starting, ['invalid-state', 'unsupported'], 'start() where disks came alone');
      check((await there.runState()) !== 'running', 'a guest runs where disks came alone');
      await prepared.discard();
      await prepared.discard();
      const handedOver = await prepared.handOver().then(
        () => true,
        () => false,
      );
      check(!handedOver, 'handOver() of what was discarded resolved');
    }));

  test('a destination without room says disk-full, before or when it is written', async (fixture) => {
    if (fixture.fullDestination === undefined) return;
    const vm = await fixture.source();
    const there = await fixture.fullDestination();
    try {
      let prepared: DestinationVm | undefined;
      const moving = (async () => {
        prepared = await there.backend.prepare(vm.description);
        await new Mover(vm, prepared).copy();
      })();
      await checkRejects(moving, 'disk-full', 'moving to where there is no room');
      await prepared?.discard();
      check((await there.runState()) !== 'running', 'the guest runs at the destination');
      checkEqual(vm.runState(), 'running', 'how the guest at the source is');
    } finally {
      await there.close();
    }
    await vm.detach();
  });
}

function sizeOf({ id, sizeBytes }: { readonly id: string; readonly sizeBytes: number }) {
  return { id, sizeBytes };
}

/** With a destination that takes disks alone, for those of the VM that are copied. One that does not has to refuse them; then `run` is not called. */
async function withDisksAlone(
  fixture: BackendFixture,
  run: (vm: SourceVm, description: VmDescription, there: DestinationFixture) => Promise<void>,
): Promise<void> {
  const vm = await fixture.source();
  const disks = vm.description.disks.filter(({ readOnly }) => !readOnly);
  const alone = { ...vm.description, memory: [], disks };
  const able = await takesDisksAlone(vm, await fixture.destination());
  const there = await fixture.destination();
  try {
    if (able) await run(vm, alone, there);
    else {
      const preparing = there.backend.prepare(alone, { memory: 'none' });
      await checkRejects(preparing, 'unsupported', 'prepare() for disks alone without the capability');
    }
  } finally {
    await there.close();
  }
  checkEqual(vm.runState(), 'running', 'how the guest at the source is');
  await vm.detach();
}

/**
 * Prepares for the whole VM to see what is declared; one that takes whole VMs only refuses to hand over. One that takes nothing but disks refuses the
 * VM.
 */
async function takesDisksAlone(vm: SourceVm, there: DestinationFixture): Promise<boolean> {
  try {
    const preparing = there.backend.prepare(vm.description);
    const prepared = await preparing.catch(() => undefined);
    if (prepared === undefined) {
      await checkRejects(preparing, 'unsupported', 'prepare() for a whole VM');
      return true;
    }
    const { disksAlone } = prepared.capabilities;
    checkEqual(typeof disksAlone, 'boolean', 'the type of capabilities.disksAlone');
    if (!disksAlone) {
      await checkRejects(prepared.handOver(), 'unsupported', 'handOver() without the capability');
    }
    await prepared.discard();
    return disksAlone;
  } finally {
    await there.close();
  }
}

/** What each disk holds, by its id, in pieces. */
async function contents(
  vm: SourceVm,
  description: VmDescription,
): Promise<ReadonlyMap<string, readonly Uint8Array[]>> {
  const found = new Map<string, Uint8Array[]>();
  for (const { id, sizeBytes } of description.disks) {
    const disk = vm.disks.find((candidate) => candidate.id === id);
    check(disk !== undefined, `the VM has no disk ${id}, which it describes`);
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < sizeBytes; at += pieceBytes) {
      pieces.push(await readBytes(disk, at, Math.min(pieceBytes, sizeBytes - at)));
    }
    found.set(id, pieces);
  }
  return found;
}

async function checkHandedOver(
  there: DestinationFixture,
  expected: ReadonlyMap<string, readonly Uint8Array[]>,
  when: string,
): Promise<void> {
  check(there.handedOver !== undefined, 'the fixture does not say how to read what was handed over');
  for (const [id, pieces] of expected) {
    for (const [index, piece] of pieces.entries()) {
      const at = index * pieceBytes;
      const bytes = await there.handedOver(id, at, piece.byteLength);
      checkBytes(bytes, piece, `disk ${id} from ${at}, ${when}, against what it was at the stun`);
    }
  }
}

/**
 * Goal: a guest under load arrives with every page and every block, each time. Method: it is moved from host
 * to host, by `send` and `receive` as processes of their own, and wherever it arrives it reads again all that
 * it ever wrote. Beside that, before it runs there for the first time (`cont` is held for that long), the
 * destination's images are copied; once the source's QEMU has ended they are compared with the source's, byte
 * by byte.
 *
 * One move each, unless LONGHAUL_TRIALS says how many in a row. A line a move then tells times, less the time
 * for which the test held `cont`, `silence` being that of the guest's 10 ms tick:
 *
 *     npm run trial:qemu                       (ten of each)
 *     LONGHAUL_TRIALS=100 npm run trial:qemu
 */
import { constants, copyFile, rm } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import type { DiskSpec } from '../qemu/support/guest.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { expectSameContent, type Host, QemuStage } from './support/qemu-stage.ts';
import { QmpGate } from './support/qmp-gate.ts';

const trials = Number(process.env.LONGHAUL_TRIALS ?? 1);
if (!Number.isSafeInteger(trials) || trials < 1) throw new Error('LONGHAUL_TRIALS must be 1 or more');

const load = { writesPerSecond: 400, dirtyMiBPerSecond: 16, fillMiB: 32 };
const qemu = qemuAvailable();
const skipped = qemu.available ? '' : ` (skipped: ${qemu.why})`;

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available).each([
  { disks: 'one raw disk', formats: ['raw'] },
  { disks: 'two qcow2 disks', formats: ['qcow2', 'qcow2'] },
] as const)(`a guest with $disks${skipped}`, { timeout: 120_000 }, ({ disks, formats }) => {
  const stage = new QemuStage({ formats, load });

  test.each(Array.from({ length: trials }, (_, index) => index + 1))(
    `arrives whole, move %i of ${trials}`,
    async (trial) => {
      const source = await stage.takeGuest();
      const destination = await stage.waiting();
      const arrived = destination.disks.map((disk) => ({ ...disk, file: `${disk.file}.arrived` }));
      using gate = await QmpGate.open(stage.path(`${destination.name}.gate`), destination.guest.qmpPath, () =>
        copyImages(destination.disks, arrived),
      );
      const receiving = await stage.receive(destination, { qmp: gate.path });
      const report = await stage.moveTo(source, destination, receiving);
      expect(gate.heldMs).toBeGreaterThan(0);
      expect(report.guestWrites.mirrored).toBeGreaterThan(0);
      for (const [index, disk] of source.disks.entries())
        await expectSameContent(disk, arrived[index] as DiskSpec);
      await Promise.all(arrived.map(({ file }) => rm(file)));
      await stage.end(source);
      stage.leaveGuest(destination);

      if (trials === 1) return;
      const times = {
        total: report.totalMs,
        downtime: report.downtimeMs,
        silence: silenceMs(source, destination),
      };
      const told = Object.entries(times).map(([what, ms]) => `${what} ${(ms - gate.heldMs).toFixed(0)} ms`);
      const { mirrored, setBack } = report.guestWrites;
      const load = `${report.rounds} rounds, ${mirrored} writes mirrored, ${setBack} set back`;
      process.stdout.write(`${disks}, move ${trial}: ${told.join(', ')}; ${load}; equal\n`);
    },
  );
});

async function copyImages(from: readonly DiskSpec[], to: readonly DiskSpec[]): Promise<void> {
  await Promise.all(
    from.map(({ file }, index) => copyFile(file, to[index]?.file ?? '', constants.COPYFILE_FICLONE)),
  );
}

/** From the guest's last tick here to its first one there. */
function silenceMs(source: Host, destination: Host): number {
  return (destination.guest.ticks.firstAtMs ?? Number.NaN) - (source.guest.ticks.lastAtMs ?? Number.NaN);
}

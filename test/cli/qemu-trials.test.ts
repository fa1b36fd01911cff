/**
 * Goal: a guest under load arrives with every page and every block, also where it goes on from a host that it
 * has come to, and also on disks of odd sizes. Method: it is moved from host to host, and looked at closely:
 * see whole-move.ts. How often that goes well in a row is for the soak to say:
 *
 *     npm run soak
 */
import { describe, expect, test } from 'vitest';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { chainLoad, chainShapes } from './support/chain-shapes.ts';
import { QemuStage } from './support/qemu-stage.ts';
import { moveWhole } from './support/whole-move.ts';

const qemu = qemuAvailable();
const skipped = qemu.available ? '' : ` (skipped: ${qemu.why})`;

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available).each([
  { shape: chainShapes.raw, moves: 1, handover: 'one-flight' },
  { shape: chainShapes.odd, moves: 2, handover: 'confirmed' },
])(`a guest with $shape.name, $handover${skipped}`, { timeout: 120_000 }, ({ shape, moves, handover }) => {
  const stage = new QemuStage({ disks: shape.disks, load: chainLoad });

  test.each(Array.from({ length: moves }, (_, index) => index + 1))('arrives whole, move %i', async () => {
    const source = await stage.takeGuest();
    const { destination, report } = await moveWhole(stage.hosts, source, 0, '--handover', handover);
    expect(report.outcome).toBe('completed');
    stage.leaveGuest(destination);
  });
});

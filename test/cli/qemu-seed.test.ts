/**
 * Goal: a real guest whose disk is at the destination already, as it was some time ago, arrives whole, and
 * most of its disk is not sent again. Method: the source's image is copied byte by byte while the guest
 * writes to it, so that the copy is old, and torn; a stretch of it is garbage. Before the guest runs at the
 * destination for the first time, the image there is copied and compared with the source's; the guest then
 * reads again all that it ever wrote.
 */
import { constants, copyFile, open } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { type DiskSpec, qemuAvailable } from '../qemu/support/guest.ts';
import { expectSameContent, QemuStage } from './support/qemu-stage.ts';
import { QmpGate } from './support/qmp-gate.ts';

const mebibyte = 1 << 20;
const qemu = qemuAvailable();
const suite = qemu.available ? 'a stale replica' : `a stale replica (skipped: ${qemu.why})`;

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite, { timeout: 180_000 }, () => {
  const stage = new QemuStage({ formats: ['raw'], load: { writesPerSecond: 40, hotMiB: 8, fillMiB: 48 } });

  test('spares most of a disk, and is not believed where it is old', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const [from] = source.disks as [DiskSpec];
    const [to] = destination.disks as [DiskSpec];
    await overwrite(from.file, to.file, { offset: 20 * mebibyte, length: mebibyte });
    await source.guest.nextTick();
    const arrived = { ...to, file: `${to.file}.arrived` };
    using gate = await QmpGate.open(stage.path(`${destination.name}.gate`), destination.guest.qmpPath, () =>
      copyFile(to.file, arrived.file, constants.COPYFILE_FICLONE),
    );
    const receiving = await stage.receive(destination, { qmp: gate.path });
    const { bytes } = await stage.moveTo(source, destination, receiving, '--seed', 'compare');
    expect(gate.heldMs).toBeGreaterThan(0);
    await expectSameContent(from, arrived);
    expect(bytes.unchanged).toBeGreaterThan(8 * mebibyte);
    expect(bytes.disk).toBeLessThan(bytes.unchanged);
    stage.leaveGuest(destination);
  });

  test('of garbage is sent over, and the guest is whole', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const [to] = destination.disks as [DiskSpec];
    await overwrite(undefined, to.file, { offset: 0, length: 64 * mebibyte });
    const receiving = await stage.receive(destination);
    const { bytes } = await stage.moveTo(source, destination, receiving, '--seed', 'compare');
    expect(bytes.unchanged).toBe(0);
    expect(bytes.disk).toBeGreaterThan(8 * mebibyte);
  });
});

/** Puts an image's bytes into another one, where it is, and garbage into a stretch of it. */
async function overwrite(
  from: string | undefined,
  to: string,
  garbage: { readonly offset: number; readonly length: number },
): Promise<void> {
  const target = await open(to, 'r+');
  try {
    const source = from === undefined ? undefined : await open(from, 'r');
    const buffer = Buffer.alloc(mebibyte);
    for (let at = 0; source !== undefined; at += mebibyte) {
      const { bytesRead } = await source.read(buffer, 0, mebibyte, at);
      if (bytesRead === 0) break;
      await target.write(buffer, 0, bytesRead, at);
    }
    await source?.close();
    for (let at = 0; at < garbage.length; at += mebibyte) {
      await target.write(buffer.fill(0xa5), 0, mebibyte, garbage.offset + at);
    }
    await target.sync();
  } finally {
    await target.close();
  }
}

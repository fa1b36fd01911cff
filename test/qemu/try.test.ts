import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import { Drive } from './support/drive.ts';
import { bootGuest, createDisk, guestDirectory } from './support/guest.ts';

const MIB = 1 << 20;
it('works', { timeout: 60000 }, async () => {
  await using directory = guestDirectory();
  const disk = (name: string) => createDisk({ file: join(directory.path, name), format: 'raw', sizeBytes: 128 * MIB });
  await using a = await bootGuest({ name: 'a', dir: directory.path, disks: [await disk('a')] });
  await using b = await bootGuest({ name: 'b', dir: directory.path, disks: [await disk('b')], incoming: true });
  const source = await openQemuSource({ qmp: a.qmpPath, vmId: 'x' });
  console.log(JSON.stringify(source.description));
  const destination = await createQemuBackend({ qmp: b.qmpPath }).prepare(source.description);
  const drive = new Drive(source, destination);
  const t = performance.now();
  await drive.run().then((ms) => console.log('downtime', ms, 'total', performance.now() - t, drive.rounds, drive.disks[0]?.mirrored));
  await b.nextTick();
  const v = await b.verify();
  console.log(v);
  expect(v.badPages + v.badBlocks).toBe(0);
  expect(await a.exited).toMatchObject({ code: 0 });
});

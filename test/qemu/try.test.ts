import { join } from 'node:path';
import { it } from 'vitest';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import { Drive } from './support/drive.ts';
import { bootGuest, createDisk, guestDirectory } from './support/guest.ts';

const MIB = 1 << 20;
it('works', { timeout: 60000 }, async () => {
  await using directory = guestDirectory();
  const disk = (name: string) => createDisk({ file: join(directory.path, name), format: 'raw', sizeBytes: 128 * MIB });
  await using a = await bootGuest({ name: 'a', dir: directory.path, disks: [await disk('a')] });
  await using b = await bootGuest({ name: 'b', dir: directory.path, disks: [await disk('b')], incoming: true });
  await a.qmp('stop');
  const source = await openQemuSource({ qmp: a.qmpPath, vmId: 'x' });
  const destination = await createQemuBackend({ qmp: b.qmpPath }).prepare(source.description);
  const drive = new Drive(source, destination);
  const look = async (w: string) => console.log(w, JSON.stringify([await a.qmp('query-migrate'), await a.runState()]).slice(0, 600));
  await drive.copyDisks();
  for (let i = 0; i < 4; i++) { console.log(await drive.round()); await look('round'); }
  await source.disks[0]?.flush().then(() => console.log('flushed'), (e) => console.log(e));
  await source.stun();
  await look('stunned');
});

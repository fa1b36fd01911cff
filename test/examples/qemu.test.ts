/**
 * Goal: the QEMU example moves a real guest. Method: two QEMUs, a Linux guest under load, the example's two
 * ends as processes of their own; the guest then reads again all that it ever wrote.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bootGuest, createDisk, type Guest, guestDirectory, qemuAvailable } from '../qemu/support/guest.ts';
import { type BuiltExamples, buildExamples } from './support/built-examples.ts';

const mebibyte = 1024 * 1024;
const qemu = qemuAvailable();
const suite = qemu.available ? 'with QEMU' : `with QEMU (skipped: ${qemu.why})`;

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite, { timeout: 180_000 }, () => {
  let examples: BuiltExamples;
  let directory: ReturnType<typeof guestDirectory>;
  const guests: Guest[] = [];

  beforeAll(async () => {
    examples = await buildExamples();
    directory = guestDirectory();
  });
  afterAll(async () => {
    examples[Symbol.dispose]();
    await Promise.all(guests.map((guest) => guest.kill()));
    await directory[Symbol.asyncDispose]();
  });

  async function boot(name: string, incoming: boolean): Promise<Guest> {
    const file = join(directory.path, `${name}.img`);
    const disks = [await createDisk({ file, format: 'raw', sizeBytes: 64 * mebibyte })];
    const guest = await bootGuest({ name, dir: directory.path, disks, incoming });
    guests.push(guest);
    return guest;
  }

  test('a guest moves', async () => {
    const [source, destination] = [await boot('a', false), await boot('b', true)];
    const register = (name: string) => join(directory.path, `register-${name}`);
    const receiving = examples.start('qemu', ['receive', destination.qmpPath, '127.0.0.1:0', register('b')]);
    const address = await new Promise<string>((resolve) => {
      receiving.child.stdout?.on('data', (text: string) => {
        const [, found] = /^listening on (\S+)$/m.exec(text) ?? [];
        if (found !== undefined) resolve(found);
      });
    });
    const sent = await examples.run('qemu', ['send', source.qmpPath, address, register('a')]);
    expect(sent.code, sent.stdout + sent.stderr).toBe(0);
    const received = await receiving.ended;
    expect(received.code, received.stdout + received.stderr).toBe(0);
    // Without -uuid the VM goes by its -name.
    for (const { stdout } of [sent, received]) {
      expect(stdout).toMatch(/^completed: the destination owns a\n$/m);
    }
    expect(await source.exited).toEqual({ code: 0, signal: null });
    expect(await destination.runState()).toBe('running');
    await destination.nextTick();
    expect(await destination.verify()).toMatchObject({ badPages: 0, badBlocks: 0, firstBad: '' });
  });
});

/**
 * Goal: on the command line, too, disks of a running guest become images, and are served. Method: the program
 * as users get it at both ends, a real guest; its disk is compared with the image after the guest was paused
 * for good before the last copy, so that both have to be the same.
 */
import { execFile } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { type DiskSpec, qemuAvailable } from '../qemu/support/guest.ts';
import { type JsonReport, QemuStage, vmId } from './support/qemu-stage.ts';

const run = promisify(execFile);
const qemu = qemuAvailable();
const suite = qemu.available ? 'disks alone' : `disks alone (skipped: ${qemu.why})`;

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite, { timeout: 180_000 }, () => {
  const stage = new QemuStage({ formats: ['qcow2'], load: { writesPerSecond: 100, hotMiB: 8, fillMiB: 24 } });

  async function copy(receiveOptions: readonly string[], sendOptions: readonly string[] = []) {
    const source = await stage.takeGuest();
    stage.leaveGuest(source);
    const listen = ['--listen', '127.0.0.1:0', '--register', stage.path('images-register'), '--json'];
    const receiving = await stage.listening(stage.cli.start(['receive', ...listen, ...receiveOptions]));
    const options = ['--qmp', source.guest.qmpPath, '--to', receiving.to, '--vm-id', vmId];
    const own = ['--register', source.register, '--json', '--disks-only'];
    const sending = stage.cli.start(['send', ...options, ...own, ...sendOptions]);
    const sent = await sending.ended;
    return { source, sent, receiving };
  }

  function reportOf({ stdout }: { readonly stdout: string }): JsonReport {
    return JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as JsonReport;
  }

  test('become an image that is served until a signal comes', async () => {
    const image = stage.path('web=1.raw');
    const socket = stage.path('web.nbd');
    const { source, sent, receiving } = await copy(['--image', `vd0=${image}`, '--export', socket]);
    expect(sent).toMatchObject({ code: 0 });
    expect(reportOf(sent)).toMatchObject({ outcome: 'copied', owner: 'source' });
    const [, uri = ''] = await receiving.process.line(/^serving vd0 at (\S+)$/);
    expect(uri).toBe(`nbd+unix:///vd0?socket=${socket}`);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
    expect(await source.guest.runState()).toBe('running');
    receiving.process.child.kill('SIGTERM');
    const received = await receiving.process.ended;
    expect(received).toMatchObject({ code: 0, signal: null });
    expect(received.stderr).toMatch(/^SIGTERM: ending; the images stay$/m);
    expect(reportOf(received)).toMatchObject({
      role: 'destination',
      outcome: 'copied',
      epoch: reportOf(sent).epoch,
    });
    expect(existsSync(socket)).toBe(false);
    expect(statSync(image).size).toBe(source.disks[0]?.sizeBytes);
  });

  test('are refused where a file is, and brought up to date where it may be used', async () => {
    const image = stage.path('web=1.raw');
    const refused = await copy(['--image', `vd0=${image}`]);
    expect(refused.sent.code).toBe(1);
    expect(refused.sent.stdout).toContain('is there already');
    expect((await refused.receiving.process.ended).code).toBe(1);
    await refused.source.guest.qmp('stop');
    const { source, sent, receiving } = await copy(
      ['--image', `vd0=${image}`, '--existing', 'use'],
      // Slowly: what has not been compared when its turn comes is sent.
      ['--seed', 'compare', '--rate-mbit', '100'],
    );
    expect(sent).toMatchObject({ code: 0 });
    expect(reportOf(sent)).toMatchObject({ outcome: 'copied' });
    expect(reportOf(sent).bytes.unchanged).toBeGreaterThan(4 << 20);
    expect((await receiving.process.ended).code).toBe(0);
    const [disk] = source.disks as [DiskSpec];
    await run('qemu-img', ['compare', '-U', '-f', disk.format, '-F', 'raw', disk.file, image]);
    expect(await source.guest.runState()).toBe('paused');
    await source.guest.qmp('cont');
    expect(await source.guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
  });
});

/**
 * Goal: a terminal that is stopped keeps `longhaul send` waiting, and not the guest. Method: the program on a
 * pseudo terminal, as `script` makes one, which is stopped with Ctrl-S in the middle, and goes on with
 * Ctrl-Q; the guest tells how long its writes took.
 */
import { spawn, spawnSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { expectSound, QemuStage, vmId } from '../cli/support/qemu-stage.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';

const qemu = qemuAvailable();
const hasScript = spawnSync('script', ['--version']).error === undefined;
const why = qemu.available ? 'there is no script(1)' : qemu.why;
const suite = qemu.available && hasScript ? 'a stopped terminal' : `a stopped terminal (skipped: ${why})`;
const load = { writesPerSecond: 300, dirtyMiBPerSecond: 2 };
const stop = '\u0013';
const goOn = '\u0011';
const stoppedMs = 3000;
/** As in qemu-source.test.ts: far below what it would be, with room for a busy machine. */
const longestMsMax = 500;

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available || !hasScript)(suite, { timeout: 120_000 }, () => {
  const stage = new QemuStage({ load });

  test('is not in the guest\u2019s path', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const receiving = await stage.receive(destination);
    const options = ['--qmp', source.guest.qmpPath, '--register', source.register, '--vm-id', vmId];
    const way = ['--to', receiving.to, '--rate-mbit', '100', '--downtime-ms', '1000'];
    const command = [process.execPath, stage.cli.script, 'send', ...options, ...way].join(' ');
    const terminal = spawn('script', ['-qfec', command, '/dev/null'], {
      env: { ...process.env, TERM: 'xterm' },
    });
    let text = '';
    const shown = new Promise<void>((resolve) => {
      terminal.stdout.setEncoding('utf8').on('data', (piece) => {
        text += piece;
        if (text.includes('copying memory')) resolve();
      });
    });
    const ended = new Promise((resolve) => terminal.on('close', resolve));
    await Promise.race([shown, ended.then(() => Promise.reject(new Error(text)))]);
    terminal.stdin.write(stop);
    // What was on its way has come: from here on the program waits, with the next progress that it shows.
    await sleep(500);
    const before = text.length;
    await source.guest.reset();
    await sleep(stoppedMs);
    const { longestMs } = await source.guest.stats();
    expect(text.length).toBe(before);
    process.stdout.write(`terminal stopped: the longest write took ${longestMs.toFixed(1)} ms\n`);
    expect(longestMs).toBeLessThan(longestMsMax);
    terminal.stdin.write(goOn);
    expect(await ended, text).toBe(0);
    expect((await receiving.process.ended).code).toBe(0);
    await expectSound(destination);
  });
});

/**
 * Goal: an operator with two QEMUs and this program gets the guest from one to the other, and has it in one
 * piece wherever it ends up. Method: a real Linux guest under load, `receive` and `send` as processes of
 * their own over TCP; the guest itself then reads again all that it ever wrote. Many moves in a row are in
 * qemu-trials.test.ts, processes that die in qemu-deaths.test.ts and qemu-handover.test.ts.
 */
import { writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { fileRegister } from '../../src/index.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { expectSound, QemuStage, vmId } from './support/qemu-stage.ts';

const qemu = qemuAvailable();
const suite = qemu.available ? 'with QEMU' : `with QEMU (skipped: ${qemu.why})`;

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const stage = new QemuStage();

  test('SIGINT in the middle leaves the guest at the source, with nothing claimed', async () => {
    const source = await stage.takeGuest();
    const { process: receiving, to } = await stage.receive(await stage.waiting());
    const sending = stage.send(source, to);
    await sending.line(/^copying disks$/);
    sending.child.kill('SIGINT');
    const { code, stdout, stderr } = await sending.ended;
    expect(code, stderr).toBe(1);
    expect(JSON.parse(stdout).error).toMatchObject({ code: 'aborted', owner: 'source', guest: 'running' });
    const received = await receiving.ended;
    expect(received.code, received.stderr).toBe(1);
    expect(JSON.parse(received.stdout)).toMatchObject({ owner: 'source', error: { code: 'peer-failed' } });
    await expectSound(source);
    expect(await fileRegister(source.register).read(vmId)).toEqual([]);
    stage.leaveGuest(source);
  });

  test('a guest is estimated and moves, a program is run before it starts there, and the source is ended', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const hook = stage.path('before-start');
    await writeFile(hook, '#!/bin/sh\necho "for $LONGHAUL_VM_ID, attempt $LONGHAUL_EPOCH"\n', {
      mode: 0o755,
    });
    const { process: receiving, to } = await stage.receive(destination, {}, '--before-start', hook);
    const estimated = await stage.send(source, to, '--estimate').ended;
    expect(estimated.code, estimated.stderr).toBe(0);
    const interval = { lowMs: expect.any(Number), highMs: expect.any(Number) };
    const told = { total: interval, downtime: interval, converges: 'yes', throttle: 0, error: null };
    expect(JSON.parse(estimated.stdout)).toMatchObject(told);
    expect(await fileRegister(source.register).read(vmId)).toEqual([]);
    expect(await source.guest.runState()).toBe('running');
    const sent = await stage.send(source, to, '--connections', '2', '--downtime-ms', '500').ended;
    const received = await receiving.ended;
    expect(sent.code, sent.stderr).toBe(0);
    expect(received.code, received.stderr).toBe(0);
    const { epoch } = JSON.parse(sent.stdout);
    const ending = { vmId, epoch, outcome: 'completed', owner: 'destination', error: null };
    expect(JSON.parse(sent.stdout)).toMatchObject({ role: 'source', ...ending });
    expect(JSON.parse(received.stdout)).toMatchObject({ role: 'destination', ...ending });
    expect(received.stderr).toContain(`--before-start: for ${vmId}, attempt ${epoch}\n`);
    expect(JSON.parse(received.stdout).hooks).toEqual({ beforeStartMs: expect.any(Number) });
    expect(await source.guest.exited).toEqual({ code: 0, signal: null });
    await expectSound(destination);
  });
});

/**
 * Goal: the guest runs at one end, whichever process dies between the source's seal and the start at the
 * destination. Method: as in qemu-deaths.test.ts; what is left undecided is settled as an operator would, by
 * another `receive` with the register of the one that died, and by `recover`.
 */
import { describe, expect, test } from 'vitest';
import { fileRegister } from '../../src/index.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { expectKilled, expectSound, type Host, QemuStage, vmId } from './support/qemu-stage.ts';

const qemu = qemuAvailable();
const suite = qemu.available ? 'between seal and start' : `between seal and start (skipped: ${qemu.why})`;
const load = { writesPerSecond: 400, dirtyMiBPerSecond: 16 };

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const stage = new QemuStage({ formats: ['raw', 'qcow2'], load });

  async function lastEpoch({ register }: Host): Promise<number> {
    const all = await fileRegister(register).read(vmId);
    return Math.max(...all.map((claim) => claim.epoch));
  }

  /** What stands in a host's register of the attempt that was last. */
  async function claims(host: Host): Promise<readonly string[]> {
    const all = await fileRegister(host.register).read(vmId);
    const last = await lastEpoch(host);
    return all.filter(({ epoch }) => epoch === last).map(({ value }) => value);
  }

  test('the source dies before it has given the VM: it is the source\u2019s', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const receiving = await stage.receive(destination);
    await expectKilled(stage.sendMortal(source, receiving.to, 'sealed'));
    expect(await source.guest.runState()).toBe('postmigrate');
    while ((await claims(destination))[0] !== 'declined');

    // No claim says that this register is the one: the operator has to.
    const unsure = await stage.recoverSource(source).ended;
    expect(unsure.code, unsure.stdout + unsure.stderr).toBe(2);
    expect(JSON.parse(unsure.stdout)).toMatchObject({ owner: 'undecided', action: 'none' });
    const recovered = await stage.recoverSource(source, '--epoch', String(await lastEpoch(destination)))
      .ended;
    expect(recovered.code, recovered.stdout + recovered.stderr).toBe(0);
    expect(JSON.parse(recovered.stdout)).toMatchObject({ owner: 'source', action: 'resumed' });
    await expectSound(source);
    stage.leaveGuest(await stage.move(source));
  });

  test('the source dies after it has given the VM, before GO: it may have it back', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const receiving = await stage.receive(destination);
    await expectKilled(stage.sendMortal(source, receiving.to, 'given'));
    expect(await claims(source)).toEqual(['given']);
    const unsure = await stage.recoverSource(source).ended;
    expect(unsure.code, unsure.stdout + unsure.stderr).toBe(2);
    expect(JSON.parse(unsure.stdout)).toMatchObject({ owner: 'undecided' });
    expect(await source.guest.runState()).toBe('postmigrate');

    const recovered = await stage.recoverSource(source, '--ask', receiving.to).ended;
    expect(recovered.code, recovered.stdout + recovered.stderr).toBe(0);
    expect(JSON.parse(recovered.stdout)).toMatchObject({ owner: 'source', action: 'reclaimed' });
    const { code, stdout } = await receiving.process.ended;
    expect(code).toBe(1);
    // Once it was asked, it waits no longer for that: 30 s would be its limit.
    expect(JSON.parse(stdout).phases.handover).toBeLessThan(30_000);
    expect(await claims(destination)).toEqual(['declined']);
    await expectSound(source);
    stage.leaveGuest(await stage.move(source));
  });

  test('the destination dies before it has claimed the VM: the source runs it on', async () => {
    const source = await stage.takeGuest();
    const failed = await stage.waiting();
    const { process, to } = await stage.receiveMortal(failed, 'go');
    const sending = stage.send(source, to);
    await expectKilled(process);
    expect(await source.guest.runState()).toBe('postmigrate');

    const destination = await stage.waiting(failed.register);
    const again = await stage.receive(destination, { listen: to });
    const { code, stdout, stderr } = await sending.ended;
    expect(code, stdout + stderr).toBe(1);
    expect(JSON.parse(stdout).error).toMatchObject({ code: 'declined', owner: 'source', guest: 'running' });
    expect(await claims(destination)).toEqual(['declined']);
    await expectSound(source);
    await stage.moveTo(source, destination, again);
    stage.leaveGuest(destination);
  });

  test('the destination dies after it has claimed the VM: it starts there', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const { process, to } = await stage.receiveMortal(destination, 'owner');
    const sending = stage.send(source, to);
    await expectKilled(process);

    const again = await stage.receive(await stage.waiting(destination.register), { listen: to });
    const { code, stdout, stderr } = await sending.ended;
    expect(code, stdout + stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ outcome: 'completed', owner: 'destination' });
    expect(await source.guest.exited).toEqual({ code: 0, signal: null });
    again.process.child.kill('SIGINT');
    await again.process.ended;

    const recovered = await stage.recoverDestination(destination).ended;
    expect(recovered.code, recovered.stdout + recovered.stderr).toBe(0);
    expect(JSON.parse(recovered.stdout)).toMatchObject({ owner: 'destination' });
    expect(await destination.guest.runState()).toBe('paused');
    await destination.guest.qmp('cont');
    await expectSound(destination);
  });
});

/**
 * Goal: whatever dies before commit, at whatever moment, the guest runs on at the source in one piece,
 * nothing of ours is left in its QEMU, and the next attempt succeeds. Method: processes of their own that die
 * at a moment that is fixed by what has happened, not by the clock (support/mortal.ts). One guest suffers all
 * of it: after each death it reads again all that it ever wrote, and moves on to a new host, from which the
 * next one starts. What dies after commit is in qemu-handover.test.ts.
 */
import { describe, expect, test } from 'vitest';
import { fileRegister } from '../../src/index.ts';
import { migrationSettings, throttlePercent } from '../qemu/support/clean.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { expectKilled, expectSound, type Host, QemuStage, vmId } from './support/qemu-stage.ts';

const qemu = qemuAvailable();
const suite = (name: string) => (qemu.available ? name : `${name} (skipped: ${qemu.why})`);
const load = { writesPerSecond: 400, dirtyMiBPerSecond: 16 };

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite('the destination dies'), { timeout: 120_000 }, () => {
  const stage = new QemuStage({ formats: ['raw', 'qcow2'], load });

  /** `send` fails, and says that the guest stays; and that is so. */
  async function expectFailed(source: Host, to: string, ...more: readonly string[]): Promise<string> {
    const settings = await migrationSettings(source.guest);
    const { code, stdout, stderr } = await stage.send(source, to, ...more).ended;
    expect(code, stdout + stderr).toBe(1);
    const { error, owner } = JSON.parse(stdout);
    expect(owner).toBe('source');
    expect(error, stderr).toMatchObject({ owner: 'source', guest: 'running' });
    await expectSound(source);
    expect(await migrationSettings(source.guest)).toEqual(settings);
    const claims = await fileRegister(source.register).read(vmId);
    expect(claims.map(({ value }) => value)).not.toContain('given');
    return error.code;
  }

  test.each(['connect', 'prepare', 'copyDisks', 'copyMemory', 'stun', 'verify'])(
    'its engine in %s',
    async (moment) => {
      const source = await stage.takeGuest();
      const destination = await stage.waiting();
      const { process, to } = await stage.receiveMortal(destination, moment);
      // So early, not all of the source's connections may have been opened yet.
      expect(await expectFailed(source, to)).toMatch(/^connection-lost$|^connect-failed$/);
      await expectKilled(process);
      stage.leaveGuest(await stage.move(source));
    },
  );

  test.each(['copyDisks', 'copyMemory', 'stun', 'verify'])('its QEMU in %s', async (moment) => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const { process, to } = await stage.receiveMortal(destination, moment, destination.guest.pid);
    // Of all that was under way at the destination, what has failed first: a disk is also asked, before zeros are written, what it holds.
    expect(await expectFailed(source, to)).toMatch(
      /^(?:disk-read|disk-write|memory|device-state|hypervisor)$/,
    );
    expect(await process.ended).toMatchObject({ code: 1, signal: null });
    expect(await destination.guest.exited).toEqual({ code: null, signal: 'SIGKILL' });
    stage.leaveGuest(await stage.move(source));
  });
});

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite('a guest that dirties more than fits'), { timeout: 120_000 }, () => {
  const stage = new QemuStage({ load: { ...load, dirtyMiBPerSecond: 64 } });

  test('runs at full speed again after the destination has died', async () => {
    const source = await stage.takeGuest();
    const { process, to } = await stage.receive(await stage.waiting());
    // Half of what the guest dirties.
    const sending = stage.send(source, await stage.slowLink(to, 256));
    while ((await throttlePercent(source.guest)) <= 1);
    process.child.kill('SIGKILL');
    const { code, stdout, stderr } = await sending.ended;
    expect(code, stdout + stderr).toBe(1);
    expect(JSON.parse(stdout).throttleMax).toBeGreaterThan(0);
    await expectSound(source);
    await source.guest.setLoad(200, 8);
    await stage.move(source);
  });
});

// A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
describe.skipIf(!qemu.available)(suite('the source\u2019s engine dies'), { timeout: 120_000 }, () => {
  const stage = new QemuStage({ formats: ['raw', 'qcow2'], load });

  test.each([
    ['copyMemory', 400],
    // Nothing of what was set up around it notices then that the engine is gone.
    ['copyMemory', 0],
    ['stun', 400],
  ])('in %s, with %i writes a second: the guest runs on by itself', async (moment, writesPerSecond) => {
    const source = await stage.takeGuest();
    await source.guest.setLoad(writesPerSecond, load.dirtyMiBPerSecond);
    const receiving = await stage.receive(await stage.waiting());
    await expectKilled(stage.sendMortal(source, receiving.to, moment));
    await source.guest.nextTick();
    expect(await receiving.process.ended).toMatchObject({ code: 1 });
    expect(await source.guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });

    const recovered = await stage.recoverSource(source).ended;
    expect(recovered.code, recovered.stdout + recovered.stderr).toBe(0);
    const ending = { owner: 'source', action: 'resumed', error: null };
    expect(JSON.parse(recovered.stdout)).toMatchObject(ending);
    await expectSound(source);
    stage.leaveGuest(await stage.move(source));
  });
});

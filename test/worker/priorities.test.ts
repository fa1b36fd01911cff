/**
 * Goal: while `longhaul send` copies, all of its threads go behind the guests, but for the tap's: a guest's write waits for that one. Method: a real guest, and the
 * threads of the program as the kernel has them.
 */
import { readdirSync } from 'node:fs';
import { getPriority } from 'node:os';
import { describe, expect, test } from 'vitest';
import { callingThread, mayBeLifted, setNiceness } from '../../src/util/thread-priority.ts';
import { QemuStage, vmId } from '../cli/support/qemu-stage.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';

const qemu = qemuAvailable();
const own = callingThread();
const usual = own?.niceness ?? 0;
/** Whether a thread may go ahead of what is usual here. */
function mayGoAhead(): boolean {
  if (own === undefined || !mayBeLifted(own) || usual < -10) return false;
  const may = setNiceness(own.id, usual - 10);
  setNiceness(own.id, usual);
  return may;
}
const can = qemu.available && mayGoAhead();
const why = qemu.available ? 'this user may not raise priorities' : qemu.why;

describe.skipIf(!can)(can ? 'priorities' : `priorities (skipped: ${why})`, { timeout: 120_000 }, () => {
  const stage = new QemuStage({ load: { writesPerSecond: 100, dirtyMiBPerSecond: 1 } });

  test('the tap goes ahead, and the others behind', async () => {
    const source = await stage.takeGuest();
    const destination = await stage.waiting();
    const receiving = await stage.receive(destination);
    const options = ['--qmp', source.guest.qmpPath, '--register', source.register, '--vm-id', vmId];
    const sending = stage.cli.start(['send', '--to', receiving.to, '--rate-mbit', '100', ...options]);
    await sending.line(/^copying memory$/);
    const niceness = readdirSync(`/proc/${sending.child.pid}/task`)
      .map((id) => getPriority(Number(id)) - usual)
      .sort((one, other) => one - other);
    expect(niceness.filter((each) => each < 0)).toEqual([-10]);
    // The engine's, the main one, and the helpers that Node starts with; a library may have one of its own that idles.
    expect(niceness.filter((each) => each > 0).length).toBeGreaterThanOrEqual(6);
    expect((await sending.ended).code).toBe(0);
    expect((await receiving.process.ended).code).toBe(0);
  });
});

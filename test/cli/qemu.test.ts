/**
 * Goal: an operator with two QEMUs and this program gets the guest from one to the other, and has it in one
 * piece wherever it ends up. Method: real Linux guests under load, `receive` and `send` as processes of their
 * own over TCP; the guest itself then reads again all that it ever wrote.
 */
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { fileRegister } from '../../src/index.ts';
import { bootGuest, createDisk, type Guest, guestDirectory, qemuAvailable } from '../qemu/support/guest.ts';
import { type BuiltCli, buildCli, type CliProcess } from './support/built-cli.ts';

const mib = 1024 * 1024;
const qemu = qemuAvailable();
const suite = qemu.available ? 'with QEMU' : `with QEMU (skipped: ${qemu.why})`;

describe.skipIf(!qemu.available)(suite, { timeout: 180_000 }, () => {
  let cli: BuiltCli;
  let directory: ReturnType<typeof guestDirectory>;
  let guests: Guest[];

  beforeAll(async () => {
    cli = await buildCli();
  });
  afterAll(() => cli[Symbol.dispose]());

  beforeEach(() => {
    directory = guestDirectory();
    guests = [];
  });
  afterEach(async () => {
    await Promise.all(guests.map((guest) => guest.kill()));
    await directory[Symbol.asyncDispose]();
  });

  async function boot(name: string, incoming: boolean): Promise<Guest> {
    const file = join(directory.path, `${name}.img`);
    const disks = [await createDisk({ file, format: 'raw', sizeBytes: 128 * mib })];
    const guest = await bootGuest({ name, dir: directory.path, disks, incoming });
    guests.push(guest);
    return guest;
  }

  const register = (name: string) => join(directory.path, `register-${name}`);

  async function receive(guest: Guest): Promise<{ readonly process: CliProcess; readonly to: string }> {
    const options = [
      '--qmp',
      guest.qmpPath,
      '--listen',
      '127.0.0.1:0',
      '--register',
      register('b'),
      '--json',
    ];
    const process = cli.start(['receive', ...options]);
    const [, to = ''] = await process.line(/^listening on (\S+)$/);
    return { process, to };
  }

  function send(guest: Guest, to: string, ...more: string[]): CliProcess {
    const options = ['--qmp', guest.qmpPath, '--to', to, '--register', register('a'), '--vm-id', 'web-1'];
    return cli.start(['send', ...options, '--json', ...more]);
  }

  async function expectSound(guest: Guest): Promise<void> {
    expect(await guest.runState()).toBe('running');
    await guest.nextTick();
    expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0, firstBad: '' });
    expect(await guest.stats()).toMatchObject({ writeErrors: 0 });
  }

  test('a guest moves, and the source is ended', async () => {
    const source = await boot('a', false);
    const destination = await boot('b', true);
    const { process: receiving, to } = await receive(destination);
    const sent = await send(source, to, '--connections', '2', '--downtime-ms', '500').ended;
    const received = await receiving.ended;
    expect(sent.code, sent.stderr).toBe(0);
    expect(received.code, received.stderr).toBe(0);
    const ending = { vmId: 'web-1', epoch: 1, outcome: 'completed', owner: 'destination', error: null };
    expect(JSON.parse(sent.stdout)).toMatchObject({ role: 'source', ...ending });
    expect(JSON.parse(received.stdout)).toMatchObject({ role: 'destination', ...ending });
    expect(await source.exited).toEqual({ code: 0, signal: null });
    await expectSound(destination);
  });

  test('SIGINT in the middle leaves it at the source, with nothing claimed', async () => {
    const source = await boot('a', false);
    const { process: receiving, to } = await receive(await boot('b', true));
    const sending = send(source, to);
    await sending.line(/^copying disks$/);
    sending.child.kill('SIGINT');
    const { code, stdout, stderr } = await sending.ended;
    expect(code, stderr).toBe(1);
    expect(JSON.parse(stdout).error).toMatchObject({ code: 'aborted', owner: 'source', guest: 'running' });
    const received = await receiving.ended;
    expect(received.code, received.stderr).toBe(1);
    expect(JSON.parse(received.stdout)).toMatchObject({ owner: 'source', error: { code: 'peer-failed' } });
    await expectSound(source);
    expect(await fileRegister(register('a')).read('web-1')).toEqual([]);
  });

  test('after the source\u2019s process died, recover leaves the guest running where it is', async () => {
    const source = await boot('a', false);
    const { process: receiving, to } = await receive(await boot('b', true));
    const sending = send(source, to);
    await sending.line(/^copying (disks|memory)$/);
    sending.child.kill('SIGKILL');
    await sending.ended;
    const common = ['--register', register('a'), '--vm-id', 'web-1', '--json'];
    const recovered = await cli.run(['recover', '--role', 'source', '--qmp', source.qmpPath, ...common]);
    expect(recovered.code, recovered.stderr).toBe(0);
    expect(JSON.parse(recovered.stdout)).toMatchObject({ owner: 'source', action: 'resumed', error: null });
    await expectSound(source);
    const received = await receiving.ended;
    expect(received.code, received.stderr).toBe(1);
  });
});

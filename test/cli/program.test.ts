/**
 * Goal: wrong usage ends with 64, names the option and changes nothing; the help tells all that there is; a
 * recovery without a hypervisor settles what registers can settle. Method: the program run in this process.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { answerQuestions, fileRegister, memoryRegister } from '../../src/index.ts';
import { tcp } from '../../src/transports/index.ts';
import { program } from './support/context.ts';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'longhaul-cli-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const qmp = '--qmp=/nowhere/qmp';

describe('wrong usage', () => {
  test.each([
    [[], 'no command is given'],
    [['migrate'], "there is no command 'migrate'"],
    [['--loud'], "there is no option '--loud'"],
    [['send', '--loud'], "Unknown option '--loud'"],
    [['send', qmp, 'host:1'], "Unexpected argument 'host:1'"],
    [['send', '--to=localhost:1'], '--qmp is missing'],
    [['send', qmp], '--to is missing'],
    [['send', qmp, '--to=localhost'], '--to must be HOST:PORT'],
    [['send', qmp, '--to=localhost:0'], '--to: the port must be from 1'],
    [['send', qmp, '--to=192.0.2.1:4433'], '--to 192.0.2.1:4433 is not loopback'],
    [
      ['send', qmp, '--to=localhost:1', '--connections=257'],
      '--connections must be a whole number, from 1 to 256',
    ],
    [
      ['send', qmp, '--to=localhost:1', '--downtime-ms=29'],
      '--downtime-ms must be a number, from 30 to 60000',
    ],
    [['send', qmp, '--to=localhost:1', '--disk=vd0'], "--disk must be ID=copy|shared|leave, not 'vd0'"],
    [['send', qmp, '--to=localhost:1', '--disk', 'vd0=move'], '--disk must be ID=copy|shared|leave'],
    [['send', qmp, '--to=localhost:1', '--disk=a=copy', '--disk=a=leave'], '--disk a=... is given twice'],
    [['send', qmp, '--to=localhost:1', '--stun-ms=x'], '--stun-ms must be a number, from 100 to 600000'],
    [
      ['send', qmp, '--to=localhost:1', '--disks-only', '--rehearse'],
      '--rehearse does not go with --disks-only',
    ],
    [['receive', '--listen=localhost:1'], '--qmp or --image is missing'],
    [['receive', qmp, '--listen=localhost:1', '--image=a=b'], '--qmp does not go with --image'],
    [['receive', '--listen=localhost:1', '--image=a'], "--image must be ID=FILE, not 'a'"],
    [['receive', '--listen=localhost:1', '--image=a=b', '--image=a=c=d'], '--image a=... is given twice'],
    [['receive', '--listen=localhost:1', '--image=a=b', '--existing=keep'], '--existing must be refuse or'],
    [['receive', qmp, '--listen=localhost:1', '--export=/run/a'], '--export goes with --image'],
    [['receive', qmp, '--listen=localhost:1', '--existing=use'], '--existing goes with --image'],
    [['receive', '--listen=localhost:1', '--image=a=b', '--export=a'], '--export must be HOST:PORT'],
    [
      ['receive', '--listen=localhost:1', '--image=a=b', '--before-start=true'],
      '--before-start does not go with --image',
    ],
    [['receive', qmp, '--listen=localhost:1', '--after-start=/no/such'], '--after-start: ENOENT'],
    [['receive', qmp, '--listen=localhost:1', '--hook-ms=5'], '--hook-ms goes with --before-start or'],
    [
      ['receive', qmp, '--listen=localhost:1', '--before-start=true', '--hook-ms=0'],
      '--hook-ms must be a number, from 1 to 60000',
    ],
    [
      ['receive', '--listen=localhost:1', '--image=a=b', '--export=0.0.0.0:10809'],
      '--export 0.0.0.0:10809 is not loopback',
    ],
    [['receive', qmp], '--listen is missing'],
    [['receive', qmp, '--listen=0.0.0.0:4433'], '--listen 0.0.0.0:4433 is not loopback'],
    [['receive', qmp, '--listen=[::]:4433'], '--listen [::]:4433 is not loopback'],
    [['recover'], '--role is missing'],
    [['recover', '--role=target'], "--role must be source or destination, not 'target'"],
    [['recover', '--role=source'], '--qmp is missing'],
    [['recover', '--role=destination'], '--vm-id is missing'],
    [['recover', '--role=destination', '--vm-id=a', qmp], '--qmp goes with --role source only'],
    [['recover', '--role=source', '--vm-id=a', '--epoch=0'], '--epoch must be a whole number, 1 or more'],
    [['recover', '--role=source', '--vm-id=a', '--ask=host:1'], '--ask host:1 is not loopback'],
    [['demo', '--rtt-ms=-1'], '--rtt-ms must be a number, from 0 to 2000'],
    [['demo', '--rate-mbit=1'], '--rate-mbit must be a number, from 50 to 100000'],
  ])('%j', async (args, message) => {
    const { code, stdout, stderr } = await program(args, { XDG_STATE_HOME: directory });
    expect(code).toBe(64);
    expect(stdout).toBe('');
    expect(stderr).toContain(message);
    expect(stderr).toMatch(/^Try 'longhaul( \w+)? --help'\.$/m);
    expect(readdirSync(directory)).toEqual([]);
  });
});

describe('help', () => {
  test('names the commands and the exit codes', async () => {
    const { code, stdout, stderr } = await program(['--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const command of ['send', 'receive', 'recover', 'ticket', 'demo'])
      expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
    for (const exitCode of [0, 1, 2, 3, 64]) expect(stdout).toMatch(new RegExp(`^  ${exitCode} `, 'm'));
  });

  test.each([
    [
      'send',
      [
        '--qmp SOCKET',
        '--to HOST:PORT',
        '--connections N',
        '--downtime-ms N',
        '--disk ID=MODE',
        '--register DIR',
        '--ticket-file FILE',
        '--cert FILE',
        '--key FILE',
        '--ca FILE',
        '--no-tls',
      ],
    ],
    [
      'receive',
      ['--qmp SOCKET', '--listen HOST:PORT', '--register DIR', '--cert FILE', '--no-tls', '--json'],
    ],
    ['recover', ['--role ROLE', '--vm-id ID', '--epoch N', '--ask HOST:PORT', '--json']],
    ['ticket', ['--out FILE']],
    ['demo', ['--rtt-ms N', '--rate-mbit N', '--json']],
  ])('of %s names its options, whatever else is given', async (command, options) => {
    const { code, stdout } = await program([command, '--nonsense', '--help']);
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`^Usage: longhaul ${command} `));
    for (const option of options) expect(stdout).toMatch(new RegExp(`^  ${option} `, 'm'));
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(100);
  });

  test('the version', async () => {
    expect(await program(['--version'])).toEqual({ code: 0, stdout: '1.2.3\n', stderr: '' });
  });
});

describe('what cannot begin', () => {
  test('receive on an address that cannot be bound fails', async () => {
    const { code, stdout } = await program([
      'receive',
      qmp,
      '--listen=192.0.2.1:1',
      '--no-tls',
      `--register=${directory}`,
    ]);
    expect(code).toBe(1);
    expect(stdout).toContain('Failed before it began (connect-failed): tcp: cannot listen on 192.0.2.1:1');
  });
});

describe('recover without a hypervisor', () => {
  const recover = (...args: string[]) =>
    program(['recover', '--vm-id=web-1', `--register=${directory}`, ...args]);

  test('a VM that was never given is the source\u2019s', async () => {
    const { code, stdout } = await recover('--role=source', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      vmId: 'web-1',
      epoch: 0,
      owner: 'source',
      action: 'none',
      register: directory,
      error: null,
    });
  });

  test('one that was given and is not answered for is undecided', async () => {
    await fileRegister(directory).claim('web-1', 1, 'source', 'given');
    const { code, stdout } = await recover('--role=source');
    expect(code).toBe(2);
    expect(stdout).toContain('do not run the guest');
  });

  test.each([
    ['declined', 'source'],
    ['owner', 'destination'],
  ] as const)('the destination that is asked has %s: the VM is the %s\u2019s', async (decision, owner) => {
    await fileRegister(directory).claim('web-1', 1, 'source', 'given');
    const register = memoryRegister();
    await register.claim('web-1', 1, 'destination', decision);
    const transport = tcp({ listen: { host: '127.0.0.1', port: 0 } });
    const { port } = await transport.listening();
    const done = new AbortController();
    const answering = answerQuestions({ transport, register, signal: done.signal });
    const { code, stdout } = await recover('--role=source', `--ask=127.0.0.1:${port}`, '--json');
    done.abort();
    await answering;
    await transport.close();
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ epoch: 1, owner, error: null });
  });

  test('what fails says which VM in which register it was about', async () => {
    const { code, stdout } = await recover('--role=source', qmp);
    expect(code).toBe(2);
    expect(stdout).toContain('VM        web-1\n');
    expect(stdout).toContain(`register  ${directory}\n`);
  });

  test('a QEMU that cannot be reached says nothing of the owner', async () => {
    const { code, stdout } = await recover('--role=source', qmp, '--json');
    expect(code).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({ owner: 'undecided', error: { code: 'connect-failed' } });
  });

  test('a destination that nobody can reach leaves it undecided', async () => {
    await fileRegister(directory).claim('web-1', 1, 'source', 'given');
    const { code, stdout } = await recover('--role=source', '--ask=127.0.0.1:1', '--json');
    expect(code).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({
      owner: 'undecided',
      error: { code: 'connect-failed', guest: 'paused' },
    });
  });

  test('a destination without a decision declines, and stays with that', async () => {
    const { code, stdout } = await recover('--role=destination', '--epoch=2', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ epoch: 2, owner: 'source', action: 'declined' });
    expect(await fileRegister(directory).read('web-1')).toEqual([
      { epoch: 2, role: 'destination', value: 'declined' },
    ]);
  });

  test('a destination that took the VM owns it', async () => {
    await fileRegister(directory).claim('web-1', 1, 'destination', 'owner');
    const { code, stdout } = await recover('--role=destination');
    expect(code).toBe(0);
    expect(stdout).toContain('owner     destination');
  });
});

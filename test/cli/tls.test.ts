/**
 * Goal: beyond loopback nothing travels in the clear unless the operator says so, and with certificates it travels over TLS; one that is
 * wrong is refused at both ends, by name. Method: wrong usage in this process; `receive`, `recover` and `send` as processes of
 * their own over TLS, the last with a real guest.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTicket, fileRegister } from '../../src/index.ts';
import { qemuAvailable } from '../qemu/support/guest.ts';
import { opensslAvailable, TestCertificates, type TestCredentials } from '../support/certificates.ts';
import { type BuiltCli, buildCli } from './support/built-cli.ts';
import { program } from './support/context.ts';
import { QemuStage } from './support/qemu-stage.ts';

const qmp = '--qmp=/nowhere/qmp';

describe('without certificates', () => {
  test.each([
    ['send', '--to=10.0.0.2:7070'],
    ['send', '--to=host.example:7070'],
    ['receive', '--listen=0.0.0.0:7070'],
    ['receive', '--listen=[::]:7070'],
    ['receive', '--listen=10.0.0.2:0'],
  ])('%s %s is wrong usage, and says what to give', async (command, address) => {
    const { code, stderr } = await program([command, qmp, address]);
    expect(code).toBe(64);
    expect(stderr).toMatch(/is not loopback.* --cert, --key and --ca .* --no-tls /);
  });

  test('recover asks nobody beyond loopback either', async () => {
    const { code, stderr } = await program(['recover', '--role=source', '--vm-id=v', '--ask=10.0.0.2:1']);
    expect(code).toBe(64);
    expect(stderr).toContain('--cert');
  });
});

const suite = opensslAvailable ? 'with certificates' : 'with certificates (skipped: there is no openssl)';

// The certificates are made by openssl. CI installs it.
describe.skipIf(!opensslAvailable)(suite, { timeout: 120_000 }, () => {
  const certificates = new TestCertificates();
  afterAll(() => certificates[Symbol.dispose]());
  const good = opensslAvailable ? certificates.make() : undefined;
  const tlsArguments = ({ files } = good as TestCredentials): string[] => [
    `--cert=${files.cert}`,
    `--key=${files.key}`,
    `--ca=${files.ca}`,
  ];

  test('all three are needed, readable, and what they should be', async () => {
    const [cert = '', key = '', ca = ''] = tlsArguments();
    const directory = certificates.make().files.cert.replace(/[^/]*$/, '');
    const broken = join(directory, 'broken.pem');
    writeFileSync(broken, 'no certificate');
    for (const [args, message] of [
      [[cert], '--key and --ca is missing'],
      [[cert, ca], '--key is missing'],
      [[cert, key, ca, '--no-tls'], '--no-tls does not go with --cert'],
      [['--cert=/nowhere/cert.pem', key, ca], '--cert cannot be read'],
      [[`--cert=${broken}`, key, ca], 'cert holds no certificate'],
      [[cert, key, `--ca=${broken}`], 'ca holds no certificate'],
      [[cert, `--key=${broken}`, ca], 'key is not PEM'],
    ] as const) {
      for (const command of [
        ['send', '--to=10.0.0.2:1'],
        ['receive', '--listen=0.0.0.0:0'],
      ]) {
        const { code, stderr } = await program([...command, qmp, ...args]);
        expect(code, stderr).toBe(64);
        expect(stderr).toContain(message);
      }
    }
  });

  describe('in processes of their own', () => {
    let cli: BuiltCli;
    beforeAll(async () => {
      cli = await buildCli({});
    }, 60_000);
    afterAll(() => cli?.[Symbol.dispose]());

    test('recover asks over TLS, and is turned away with the wrong certificate, which receive tells of', async () => {
      const path = (name: string) => (good as TestCredentials).files.cert.replace(/[^/]*$/, name);
      await fileRegister(path('source')).claim('v', 1, 'source', 'given');
      const receiving = cli.start([
        'receive',
        qmp,
        '--listen=127.0.0.1:0',
        `--register=${path('destination')}`,
        ...tlsArguments(),
      ]);
      const [, to = ''] = await receiving.line(/^listening on (\S+)$/);
      const ask = (...more: string[]) =>
        cli.start([
          'recover',
          '--role=source',
          '--vm-id=v',
          `--register=${path('source')}`,
          `--ask=${to}`,
          '--json',
          ...more,
        ]).ended;
      const foreign = certificates.make({ ca: 'foreign' }).files;
      const { files } = good as TestCredentials;
      const wrong = await ask(`--cert=${foreign.cert}`, `--key=${foreign.key}`, `--ca=${files.ca}`);
      expect(JSON.parse(wrong.stdout).error, wrong.stderr).toMatchObject({ code: 'certificate-untrusted' });
      await receiving.line(/^turned away: certificate-untrusted: tls from 127\.0\.0\.1:\d+: /);
      const plain = await ask();
      expect(plain.code, plain.stderr).not.toBe(0);
      const right = await ask(...tlsArguments());
      expect(right.code, right.stderr).toBe(0);
      expect(JSON.parse(right.stdout)).toMatchObject({ owner: 'source' });
      receiving.child.kill('SIGTERM');
      await receiving.ended;
    });
  });

  const qemu = qemuAvailable();
  const withQemu = qemu.available ? 'with QEMU' : `with QEMU (skipped: ${qemu.why})`;
  // A machine may have no QEMU 9. CI must: test/qemu/required.test.ts.
  describe.skipIf(!qemu.available)(withQemu, () => {
    const stage = new QemuStage();

    test('a guest moves over TLS, with the ticket and not with another', async () => {
      const source = await stage.takeGuest();
      const destination = await stage.waiting();
      const ticket = (name: string) => {
        const file = (good as TestCredentials).files.cert.replace(/[^/]*$/, name);
        writeFileSync(file, createTicket().reveal(), { mode: 0o600 });
        return `--ticket-file=${file}`;
      };
      const [right, wrong] = [ticket('ticket'), ticket('other-ticket')];
      const { process: receiving, to } = await stage.receive(destination, {}, right, ...tlsArguments());
      const turnedAway = await stage.send(source, to, wrong, ...tlsArguments()).ended;
      expect(turnedAway.code, turnedAway.stderr).toBe(1);
      expect(JSON.parse(turnedAway.stdout.trim().split('\n').at(-1) ?? '').error.code).toBe(
        'ticket-mismatch',
      );
      expect(await source.guest.runState()).toBe('running');
      const sent = await stage.send(source, to, right, ...tlsArguments()).ended;
      expect(sent.code, sent.stderr).toBe(0);
      expect((await receiving.ended).code).toBe(0);
      expect(await destination.guest.runState()).toBe('running');
    });
  });
});

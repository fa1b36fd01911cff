/**
 * Goal: a ticket gets from `longhaul ticket` to both ends by a file, is refused where it is none or is no secret, and is never repeated.
 * Method: the program in this process; questions over loopback with the right ticket, another and none.
 */
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { answerQuestions, createTicket, fileRegister, memoryRegister, parseTicket } from '../../src/index.ts';
import { tcp } from '../../src/transports/index.ts';
import { program } from './support/context.ts';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'longhaul-ticket-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const qmp = '--qmp=/nowhere/qmp';

function file(name: string, text: string, mode = 0o600): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

describe('longhaul ticket', () => {
  test('prints a new one each time', async () => {
    const [one, other] = [await program(['ticket']), await program(['ticket'])];
    expect(one).toMatchObject({ code: 0, stderr: '' });
    expect(parseTicket(one.stdout).reveal()).toBe(one.stdout.trim());
    expect(other.stdout).not.toBe(one.stdout);
  });

  test('writes it where only this user can read it, and over nothing that is there', async () => {
    const path = join(directory, 'ticket');
    expect(await program(['ticket', `--out=${path}`])).toEqual({ code: 0, stdout: '', stderr: '' });
    const written = readFileSync(path, 'utf8');
    expect(parseTicket(written).reveal()).toBe(written.trim());
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const again = await program(['ticket', `--out=${path}`]);
    expect(again).toMatchObject({ code: 64, stdout: '' });
    expect(again.stderr).toContain('--out cannot be written: EEXIST');
    expect(readFileSync(path, 'utf8')).toBe(written);
  });
});

describe('--ticket-file', () => {
  const text = createTicket().reveal();
  const commands: readonly (readonly [string, ...string[]])[] = [
    ['send', qmp, '--to=localhost:1'],
    ['receive', qmp, '--listen=localhost:0'],
    ['recover', '--role=source', '--vm-id=v', '--ask=localhost:1'],
  ];

  test.each(commands.map((args) => ({ args })))(
    '$args.0 refuses one that is no ticket, or no secret, and does not repeat it',
    async ({ args }) => {
      for (const [path, message] of [
        [join(directory, 'none'), '--ticket-file cannot be read: ENOENT'],
        [directory, '--ticket-file cannot be read: EISDIR'],
        [file('empty', ''), 'this is no ticket'],
        [file('cut', text.slice(0, -1)), 'this is no ticket'],
        [file('long', text.padEnd(5000, ' x')), 'this is no ticket'],
        [file('open', text, 0o644), 'is open to every user of this host'],
        [file('written', text, 0o602), 'is open to every user of this host'],
      ] as const) {
        const { code, stdout, stderr } = await program([...args, `--ticket-file=${path}`]);
        expect({ code, stdout }).toEqual({ code: 64, stdout: '' });
        expect(stderr).toContain(message);
        expect(stderr).not.toContain(text.slice(18, 30));
      }
    },
  );

  test('goes with --ask at recover', async () => {
    const path = file('ticket', text);
    for (const role of ['source', 'destination']) {
      const { code, stderr } = await program([
        'recover',
        `--role=${role}`,
        '--vm-id=v',
        `--ticket-file=${path}`,
      ]);
      expect(code).toBe(64);
      expect(stderr).toContain('--ticket-file goes with --ask only');
    }
  });

  test('lets recover ask who has the same, and says why it cannot with another, or none', async () => {
    await fileRegister(directory).claim('v', 1, 'source', 'given');
    const transport = tcp({ listen: { host: '127.0.0.1', port: 0 } });
    const { port } = await transport.listening();
    const stop = new AbortController();
    const register = memoryRegister();
    const answering = answerQuestions({ transport, register, ticket: text, signal: stop.signal });
    const asked = async (...more: string[]) => {
      const common = ['--role=source', '--vm-id=v', `--register=${directory}`, `--ask=127.0.0.1:${port}`];
      const { stdout } = await program(['recover', ...common, '--json', ...more]);
      expect(stdout).not.toContain(text.slice(18, 30));
      return JSON.parse(stdout);
    };
    for (const more of [[], [`--ticket-file=${file('other', createTicket().reveal())}`]]) {
      expect(await asked(...more)).toMatchObject({
        owner: 'undecided',
        error: { code: 'ticket-mismatch', owner: 'undecided', guest: 'paused' },
      });
    }
    expect(await register.read('v')).toEqual([]);
    // Of the group alone it is secret enough.
    const right = await asked(`--ticket-file=${file('right', `${text}\n`, 0o640)}`);
    expect(right).toMatchObject({ owner: 'source', error: null });
    stop.abort();
    await answering;
    await transport.close();
  });
});

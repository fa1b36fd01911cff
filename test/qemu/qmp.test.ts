import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { JsonLines } from '../../src/backends/qemu/json-lines.ts';
import { isQmpObject, QmpClient, qmpCommandError } from '../../src/backends/qemu/qmp.ts';
import { MigrationError } from '../../src/errors.ts';
import {
  codeOf,
  type Hand,
  privateDirectory,
  scriptedServer,
  stop,
  untilListening,
} from '../nbd/nbd-fixtures.ts';
import { hasQemuSystem, spawnQemu } from './qmp-fixtures.ts';

/**
 * Goal: the QMP client gives each caller its own answer, loses no event, and fails everything with one typed
 * error when the other end breaks. Method: against a real QEMU without a machine for what QEMU says, and
 * against a scripted one for what it would not.
 */

let directory = privateDirectory();
let cleanups: (() => Promise<void> | void)[] = [];

beforeEach(() => {
  directory = privateDirectory();
  cleanups = [];
});

afterEach(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
  directory.remove();
});

// Skipped where QEMU is not installed: these tests are about nothing else.
describe.skipIf(!hasQemuSystem)('with a QEMU', () => {
  let child: ChildProcess;
  let socket: string;

  beforeEach(async () => {
    ({ child, socket } = spawnQemu(directory.path));
    cleanups.push(() => stop(child));
    await untilListening(socket, child);
  });

  async function connect(): Promise<QmpClient> {
    const qmp = await QmpClient.connect(socket);
    cleanups.push(() => qmp.abort('end of the test'));
    return qmp;
  }

  it('learns its version, and asks it things', async () => {
    const qmp = await connect();
    expect(qmp.version.major).toBeGreaterThanOrEqual(7);
    const version = await qmp.execute('query-version');
    const { major, minor, micro } = qmp.version;
    expect(version).toMatchObject({ qemu: { major, minor, micro } });
    expect(await qmp.execute('query-status')).toMatchObject({ running: false });
  });

  it('gives each of many callers its own answer', async () => {
    const qmp = await connect();
    const names = ['query-status', 'query-name', 'query-uuid', 'query-kvm'];
    const alone = await Promise.all(names.map((name) => qmp.execute(name)));
    const many = await Promise.all(
      Array.from({ length: 400 }, (_, index) => qmp.execute(names[index % 4] ?? '')),
    );
    expect(many.every((answer, index) => JSON.stringify(answer) === JSON.stringify(alone[index % 4]))).toBe(
      true,
    );
  });

  it('takes a reply of some hundred KiB', async () => {
    const qmp = await connect();
    const schema = await qmp.execute('query-qmp-schema');
    expect(Array.isArray(schema) && schema.length > 500).toBe(true);
    expect(JSON.stringify(schema).length).toBeGreaterThan(100_000);
  });

  it('keeps what QEMU says of an error', async () => {
    const qmp = await connect();
    const unknown: unknown = await qmp.execute('no-such-command').catch((error: unknown) => error);
    expect(unknown).toBeInstanceOf(MigrationError);
    expect(unknown).toMatchObject({ code: 'hypervisor' });
    expect(qmpCommandError(unknown)?.errorClass).toBe('CommandNotFound');
    const wrong: unknown = await qmp
      .execute('blockdev-del', { 'node-name': 'none' })
      .catch((error: unknown) => error);
    expect(qmpCommandError(wrong)?.errorClass).toBe('GenericError');
    expect(qmpCommandError(wrong)).toMatchObject({
      command: 'blockdev-del',
      desc: expect.stringMatching(/none/),
    });
    expect(await codeOf(qmp.execute('query-status'))).toBe('resolved');
  });

  it('hears events that a command causes', async () => {
    const qmp = await connect();
    const all: string[] = [];
    const off = qmp.on('JOB_STATUS_CHANGE', (event) => all.push(String(event.data.status)));
    const image = join(directory.path, 'disk.qcow2');
    const concluded = qmp.waitFor('JOB_STATUS_CHANGE', (event) => event.data.status === 'concluded');
    await qmp.execute('blockdev-create', {
      'job-id': 'create',
      options: { driver: 'file', filename: image, size: 4096 },
    });
    expect((await concluded).data).toMatchObject({ id: 'create', status: 'concluded' });
    const gone = qmp.waitFor('JOB_STATUS_CHANGE', (event) => event.data.status === 'null');
    off();
    await qmp.execute('job-dismiss', { id: 'create' });
    await gone;
    expect(all[0]).toBe('created');
    expect(all.at(-1)).toBe('concluded');
  });

  it('serves one client at a time: the next one waits, for a while', async () => {
    const first = await connect();
    expect(await codeOf(QmpClient.connect(socket, { signal: AbortSignal.timeout(50) }))).toBe('aborted');
    await first.close();
    const second = await connect();
    expect(await codeOf(second.execute('query-status'))).toBe('resolved');
  });

  it('answers quit, and then is gone', async () => {
    const qmp = await connect();
    const shutdown = qmp.waitFor('SHUTDOWN');
    await qmp.execute('quit');
    expect((await shutdown).data).toMatchObject({ reason: 'host-qmp-quit' });
    expect(await qmp.closed).toMatchObject({ code: 'hypervisor' });
    expect(await codeOf(qmp.execute('query-status'))).toBe('hypervisor');
  });

  it('is killed: everything outstanding is told', async () => {
    const qmp = await connect();
    child.kill('SIGSTOP');
    const calls = [
      codeOf(qmp.execute('query-status')),
      codeOf(qmp.execute('query-version')),
      codeOf(qmp.waitFor('STOP')),
    ];
    const hurried = qmp.execute('query-status', undefined, { signal: AbortSignal.timeout(20) });
    expect(await codeOf(hurried)).toBe('aborted');
    child.kill('SIGKILL');
    expect(await Promise.all(calls)).toEqual(['hypervisor', 'hypervisor', 'hypervisor']);
  });
});

describe('with a scripted QEMU', () => {
  it('does not wait for ever for one that does not greet, as it serves another client', async () => {
    const silent = await scriptedServer(join(directory.path, 'silent'), async () => {});
    const connecting = QmpClient.connect(join(directory.path, 'silent'), { greetingMsMax: 50 });
    await expect(connecting).rejects.toMatchObject({
      code: 'connect-failed',
      message: expect.stringMatching(/another client holds it/),
    });
    await silent.close();
  });

  const GREETING =
    '{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "x"}, "capabilities": []}}\r\n';

  function say(hand: Hand, text: string): void {
    hand.say(Buffer.from(text));
  }

  /** The next command's id and name. */
  async function hearCommand(hand: Hand): Promise<{ readonly id: number; readonly execute: string }> {
    let line = '';
    while (!line.endsWith('\n')) line += (await hand.hear(1)).toString();
    return JSON.parse(line);
  }

  /** A QEMU that greets and then follows the script. */
  async function scripted(
    script: (hand: Hand) => Promise<void>,
    lineBytesMax = 1_000_000,
  ): Promise<QmpClient> {
    const path = join(directory.path, `q${cleanups.length}`);
    const server = await scriptedServer(path, async (hand) => {
      say(hand, GREETING);
      const { id, execute } = await hearCommand(hand);
      if (execute !== 'qmp_capabilities') throw new Error(execute);
      say(hand, `{"return": {}, "id": ${id}}\r\n`);
      await script(hand);
    });
    cleanups.push(() => server.close());
    const qmp = await QmpClient.connect(path, { lineBytesMax });
    cleanups.push(() => qmp.abort('end of the test'));
    return qmp;
  }

  it.each([
    ['nothing, hanging up', '', 'hypervisor'],
    ['half a greeting, hanging up', GREETING.slice(0, 30), 'hypervisor'],
    ['something else', 'SSH-2.0-OpenSSH_9.2\r\n', 'protocol'],
    ['a number', '42\n', 'protocol'],
    ['null', 'null\n', 'protocol'],
    ['a list', '[1]\n', 'protocol'],
    ['an object of no known kind', '{"hello": 1}\n', 'protocol'],
    ['a greeting without a version', '{"QMP": {}}\n', 'protocol'],
    ['a greeting with words for numbers', '{"QMP": {"version": {"qemu": {"major": "ten"}}}}\n', 'protocol'],
    ['an answer to nothing', '{"return": {}, "id": 0}\n', 'protocol'],
  ])('that begins with %s, gives up the connecting', async (_what, bytes, code) => {
    const path = join(directory.path, 's');
    const server = await scriptedServer(path, async (hand) => {
      say(hand, bytes);
      if (code === 'hypervisor') hand.socket.end();
    });
    cleanups.push(() => server.close());
    expect(await codeOf(QmpClient.connect(path))).toBe(code);
  });

  it('that is not there, gives up the connecting', async () => {
    expect(await codeOf(QmpClient.connect(join(directory.path, 'none')))).toBe('connect-failed');
    expect(
      await codeOf(QmpClient.connect(join(directory.path, 'none'), { signal: AbortSignal.abort() })),
    ).toBe('aborted');
  });

  it('that refuses the capabilities, gives up the connecting', async () => {
    const path = join(directory.path, 's');
    const server = await scriptedServer(path, async (hand) => {
      say(hand, GREETING);
      const { id } = await hearCommand(hand);
      say(hand, `{"error": {"class": "CommandNotFound", "desc": "no"}, "id": ${id}}\n`);
    });
    cleanups.push(() => server.close());
    expect(await codeOf(QmpClient.connect(path))).toBe('hypervisor');
  });

  it('that answers in another order, gives each caller its own answer', async () => {
    const qmp = await scripted(async (hand) => {
      const commands = [await hearCommand(hand), await hearCommand(hand), await hearCommand(hand)];
      for (const { id, execute } of commands.reverse()) say(hand, `{"id": ${id}, "return": "${execute}"}\n`);
    });
    expect(await Promise.all(['a', 'b', 'c'].map((name) => qmp.execute(name)))).toEqual(['a', 'b', 'c']);
  });

  it('that sends events among and before the answers, is heard in order by who listens', async () => {
    const qmp = await scripted(async (hand) => {
      const { id } = await hearCommand(hand);
      const event = (name: string, n: number) =>
        `{"timestamp": {"seconds": 1}, "event": "${name}", "data": {"n": ${n}}}\r\n`;
      say(
        hand,
        `${event('A', 1)}${event('B', 2)}${event('A', 3)}{"return": {}, "id": ${id}}\r\n{"event": "A"}\n`,
      );
    });
    const heard: unknown[] = [];
    const off = qmp.on('A', (event) => heard.push(event.data.n));
    const offTwice = qmp.on('A', () => heard.push('again'));
    const third = qmp.waitFor('A', (event) => event.data.n === 3);
    const second = qmp.waitFor('B');
    const bare = qmp.waitFor('A', (event) => event.data.n === undefined);
    const broken = qmp.waitFor('A', () => {
      throw new Error('in the predicate');
    });
    const aborted = qmp.waitFor('A', undefined, { signal: AbortSignal.abort() });
    await qmp.execute('go');
    offTwice();
    off();
    off();
    expect((await third).data.n).toBe(3);
    expect((await second).data.n).toBe(2);
    expect((await bare).data).toEqual({});
    expect(await codeOf(broken)).toBe('internal');
    expect(await codeOf(aborted)).toBe('aborted');
    expect(heard.slice(0, 4)).toEqual([1, 'again', 3, 'again']);
  });

  it('that dies with half an answer out, fails every call with the same error', async () => {
    const qmp = await scripted(async (hand) => {
      await hearCommand(hand);
      const { id } = await hearCommand(hand);
      say(hand, `{"return": {"status": "runn`);
      expect(id).toBeGreaterThan(0);
      hand.socket.end();
    });
    const calls = [qmp.execute('a'), qmp.execute('b'), qmp.waitFor('STOP')];
    const errors = await Promise.all(calls.map((call) => call.catch((error: unknown) => error)));
    expect(errors[0]).toMatchObject({ code: 'hypervisor' });
    expect(new Set(errors).size).toBe(1);
    expect(await qmp.closed).toBe(errors[0]);
    expect(await codeOf(qmp.execute('c'))).toBe('hypervisor');
    expect(await codeOf(qmp.waitFor('STOP'))).toBe('hypervisor');
    await qmp.close();
  });

  it.each([
    ['garbage', '{"return": }\n'],
    ['an answer with another id', '{"return": {}, "id": 4711}\n'],
    ['an answer without an id', '{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n'],
    ['a line without end', 'x'.repeat(70_000)],
  ])('that says %s, fails everything with protocol', async (_what, bytes) => {
    const qmp = await scripted(async (hand) => {
      await hearCommand(hand);
      say(hand, bytes);
    }, 65536);
    expect(await codeOf(qmp.execute('a'))).toBe('protocol');
    expect((await qmp.closed)?.code).toBe('protocol');
  });

  it('that answers late, answers nobody, when the caller has given up', async () => {
    const qmp = await scripted(async (hand) => {
      const first = await hearCommand(hand);
      const second = await hearCommand(hand);
      say(hand, `{"return": 1, "id": ${first.id}}\n{"return": 2, "id": ${second.id}}\n`);
    });
    const given = new AbortController();
    const first = qmp.execute('a', undefined, { signal: given.signal });
    given.abort();
    expect(await codeOf(first)).toBe('aborted');
    expect(await qmp.execute('b')).toBe(2);
  });

  it('that is left: close() waits for the answers, abort() does not', async () => {
    const script = async (hand: Hand): Promise<void> => {
      const { id } = await hearCommand(hand);
      await sleep(30);
      say(hand, `{"return": "late", "id": ${id}}\n`);
    };
    const polite = await scripted(script);
    const answer = polite.execute('a');
    const waiter = polite.waitFor('STOP');
    await Promise.all([polite.close(), polite.close()]);
    expect(await answer).toBe('late');
    expect(await codeOf(waiter)).toBe('invalid-state');
    expect(await polite.closed).toBeUndefined();
    expect(await codeOf(polite.execute('b'))).toBe('invalid-state');
    const rude = await scripted(script);
    const lost = rude.execute('a');
    rude.abort(new MigrationError('timeout', 'too slow'));
    expect(await codeOf(lost)).toBe('timeout');
    await rude.close();
    expect((await rude.closed)?.code).toBe('timeout');
  });

  it('that has a thousand commands unanswered, gets no more', async () => {
    const qmp = await scripted(async () => {});
    const calls = Array.from({ length: 1024 }, () => codeOf(qmp.execute('a')));
    expect(await codeOf(qmp.execute('b'))).toBe('invalid-state');
    qmp.abort('enough');
    expect(new Set(await Promise.all(calls))).toEqual(new Set(['aborted']));
  });

  it('whose event makes a listener throw, fails the connection and not the process', async () => {
    const qmp = await scripted(async (hand) => {
      await hearCommand(hand);
      say(hand, '{"event": "A"}\n');
    });
    qmp.on('A', () => {
      throw new Error('in the listener');
    });
    expect(await codeOf(qmp.execute('a'))).toBe('internal');
  });
});

describe('lines of JSON', () => {
  it('mean the same however they are cut into chunks', () => {
    fc.assert(
      fc.property(
        fc.array(fc.json(), { maxLength: 10 }),
        fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1 }),
        (texts, cuts) => {
          const bytes = Buffer.from(texts.map((text) => `${text}\r\n`).join('\n'));
          const values: unknown[] = [];
          const lines = new JsonLines(1_000_000, (value) => values.push(value));
          for (let at = 0, index = 0; at < bytes.length; index += 1) {
            const end = at + (cuts[index % cuts.length] ?? 1);
            lines.push(bytes.subarray(at, end));
            at = end;
          }
          expect(values).toEqual(texts.map((text) => JSON.parse(text)));
        },
      ),
    );
  });

  it('are as long as the limit and no longer', () => {
    const values: unknown[] = [];
    const lines = new JsonLines(10, (value) => values.push(value));
    lines.push(Buffer.from('"12345678"\n'));
    expect(values).toEqual(['12345678']);
    lines.push(Buffer.from('"1234567'));
    expect(() => lines.push(Buffer.from('89"'))).toThrow('a line of more than 10 bytes');
  });

  it('are objects, or not', () => {
    expect([{}, { a: 1 }, [], null, 'x', 1, undefined].map(isQmpObject)).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
      false,
    ]);
  });
});

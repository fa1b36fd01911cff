/**
 * Goal: what can go wrong between two threads is seen before there is a guest. Method: the package is built
 * and looked at; values are packed and unpacked; a migration is made of what it cannot be made of, and
 * started where its thread cannot begin.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTicket, MigrationError, memoryRegister, type OwnershipRegister } from '../../src/index.ts';
import { createQemuSource, type QemuMigrationOptions } from '../../src/qemu.ts';
import { EventOutlet } from '../../src/worker/event-outlet.ts';
import type { ToEngine } from '../../src/worker/messages.ts';
import { pack, unpack } from '../../src/worker/pack.ts';
import { AskedRegister, answerCall } from '../../src/worker/register-calls.ts';
import { type BuiltEmbedder, buildEmbedder } from './support/built-embedder.ts';

const cross = (value: unknown): unknown => unpack(structuredClone(pack(value)));

describe('the built package', () => {
  let built: BuiltEmbedder;
  beforeAll(async () => {
    built = await buildEmbedder();
  });
  afterAll(() => built?.[Symbol.dispose]());

  test('has the threads\u2019 programs beside every file that starts them', () => {
    const files = readdirSync(built.dist, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.js'))
      .map((name) => join(built.dist, name));
    const programs = files.flatMap((file) =>
      [
        ...readFileSync(file, 'utf8').matchAll(
          /new URL\("([^"]*qemu-(?:worker|tap)[^"]*)", import\.meta\.url\)/g,
        ),
      ].map(([, path = '']) => resolve(dirname(file), path)),
    );
    expect([...new Set(programs.map((program) => basename(program)))].sort()).toEqual([
      'qemu-tap.js',
      'qemu-worker.js',
    ]);
    expect(programs.filter((program) => !existsSync(program))).toEqual([]);
  });

  test('has its thread also in a program that is a text', () => {
    const program = `
      import { createQemuSource } from ${JSON.stringify(pathToFileURL(join(built.dist, 'qemu.js')))};
      const transport = { tcp: { connect: { host: '127.0.0.1', port: 1 } } };
      const register = { directory: '/nowhere' };
      const report = await createQemuSource({ qmp: '/nowhere/qmp', transport, register }).run();
      console.log(report.error.code);
      const refused = await createQemuSource({ qmp: '/nowhere/qmp', transport, register }).estimate().catch((error) => error);
      console.log(refused.name, refused.code);
    `;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
      encoding: 'utf8',
    });
    expect([stdout, stderr]).toEqual(['connect-failed\nMigrationError connect-failed\n', '']);
  });
});

describe('what crosses', () => {
  test('an error has its class, its details and its causes there too', () => {
    const reset = Object.assign(new TypeError('reset'), { code: 'ECONNRESET', errno: -104 });
    const beneath = new MigrationError('connection-lost', 'the link', { cause: reset });
    const details = { phase: 'copyMemory', owner: 'undecided', guest: 'paused', cause: beneath } as const;
    const error = new MigrationError('declined', 'no', details);
    const crossed = cross({ outcome: 'failed', error, list: [error] }) as {
      error: MigrationError;
      list: unknown[];
    };
    expect(crossed.error).toBeInstanceOf(MigrationError);
    expect(crossed.error).toMatchObject({
      code: 'declined',
      message: 'no',
      phase: 'copyMemory',
      owner: 'undecided',
      guest: 'paused',
    });
    expect(crossed.error.stack).toBe(error.stack);
    expect(crossed.error.cause).toBeInstanceOf(MigrationError);
    expect(crossed.error.cause).toMatchObject({ code: 'connection-lost', owner: 'source' });
    const { cause } = crossed.error.cause as MigrationError;
    expect(cause).toMatchObject({ name: 'TypeError', message: 'reset', code: 'ECONNRESET', errno: -104 });
    expect(crossed.list[0]).toBeInstanceOf(MigrationError);
  });

  test('a cause that leads to itself ends, and one that cannot be copied is its text', () => {
    const circle = new Error('round');
    circle.cause = circle;
    expect(cross(circle)).toMatchObject({ message: 'round', cause: { message: 'round' } });
    expect(cross(new Error('x', { cause: () => 1 }))).toMatchObject({ cause: '() => 1' });
    expect(cross(new Error('x', { cause: { at: 1 } }))).toMatchObject({ cause: { at: 1 } });
  });
});

test('progress that nobody sees is not piled up, comes in order, and is not lost', () => {
  const posted: string[] = [];
  const outlet = new EventOutlet((event, [value]) => posted.push(`${event} ${value}`));
  for (let at = 1; at <= 4; at += 1) outlet.emit('progress', [at]);
  expect(posted).toEqual(['progress 1']);
  outlet.emit('phase', ['stun']);
  expect(posted).toEqual(['progress 1', 'progress 4', 'phase stun']);
  outlet.emit('progress', [5]);
  outlet.emit('progress', [6]);
  outlet.seen();
  expect(posted.slice(3)).toEqual(['progress 6']);
  outlet.emit('progress', [7]);
  outlet.flush();
  expect(posted.slice(4)).toEqual(['progress 7']);
  outlet.seen();
  expect(posted).toHaveLength(5);
});

describe('a register in the main thread', () => {
  /** The register as the engine's thread has it: all that is said is copied. */
  function asked(register: OwnershipRegister): OwnershipRegister {
    const remote: AskedRegister = new AskedRegister((call) => {
      void answerCall(register, structuredClone(call)).then((answer) => {
        remote.answered(structuredClone(answer) as Extract<ToEngine, { type: 'answer' | 'refusal' }>);
      });
    });
    return remote;
  }

  test('claims and reads, several at once', async () => {
    const register = asked(memoryRegister());
    const claims = [1, 2, 3].map((epoch) => register.claim('v', epoch, 'source', 'given'));
    expect(await Promise.all(claims)).toEqual(['given', 'given', 'given']);
    expect(await register.claim('v', 1, 'source', 'given')).toBe('given');
    expect((await register.read('v')).map(({ epoch }) => epoch).sort()).toEqual([1, 2, 3]);
  });

  test('may have claims of a class of its own, and rejects as it does there', async () => {
    class Row {
      get epoch() {
        return 4;
      }
      readonly role = 'source';
      readonly value = 'given';
    }
    const register = asked({
      read: async () => [new Row()],
      claim: () => {
        throw new MigrationError('register', 'full');
      },
    });
    expect(await register.read('v')).toEqual([{ epoch: 4, role: 'source', value: 'given' }]);
    await expect(register.claim('v', 1, 'source', 'given')).rejects.toMatchObject({
      code: 'register',
      message: 'full',
    });
  });
});

describe('createQemuSource', () => {
  const options: QemuMigrationOptions = {
    qmp: '/nowhere/qmp',
    vmId: 'web-1',
    transport: { tcp: { connect: { host: 'localhost', port: 1 } } },
    register: memoryRegister(),
    ticket: createTicket(),
  };

  test.each([
    ['a policy out of its ranges', { policy: { downtimeMsMax: 1 } }, 'invalid-argument'],
    ['a ticket that is none', { ticket: 'ticket' }, 'invalid-argument'],
    ['a transport that cannot be', { transport: { tcp: {} } }, 'invalid-argument'],
    ['one that only listens', { transport: { tcp: { listen: { host: '::', port: 0 } } } }, 'unsupported'],
    ['a register that cannot be', { register: { directory: '' } }, 'invalid-argument'],
    [
      'what cannot be copied',
      { transport: { module: 'x', factory: 'y', options: () => {} } },
      'invalid-argument',
    ],
  ] satisfies [string, Partial<QemuMigrationOptions>, string][])('throws for %s', (_, wrong, code) => {
    expect(() => createQemuSource({ ...options, ...wrong })).toThrow(expect.objectContaining({ code }));
  });

  test('reports, without a thread, what was aborted before it began', async () => {
    const report = await createQemuSource(options).run({ signal: AbortSignal.abort() });
    expect(report).toMatchObject({
      vmId: 'web-1',
      outcome: 'failed',
      owner: 'source',
      error: { code: 'aborted' },
    });
    expect(Object.isFrozen(report)).toBe(true);
  });

  test('reports a thread that cannot begin', async () => {
    // Beside the source there is no program that Node could run.
    const report = await createQemuSource(options).run();
    expect(report).toMatchObject({
      vmId: 'web-1',
      outcome: 'failed',
      owner: 'source',
      error: { code: 'internal' },
    });
    expect(report.error?.message).toMatch(/^the thread of the migration died: .*qemu-worker\.js/);
  });
});

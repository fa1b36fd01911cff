/**
 * Goal: what we set up in a QEMU is taken away as far as that can be done: a step that fails keeps no other from being done, a QEMU that
 * hangs keeps nobody waiting for ever, where it has ended there is nothing to do, and what an engine that died had set is undone
 * by the next. Method: a QEMU from a table, and a clock that is turned on by hand.
 */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { openQemuSource } from '../../src/backends/qemu/index.ts';
import { QmpClient } from '../../src/backends/qemu/qmp.ts';
import { TAKE_DOWN_MS_MAX, takeDown } from '../../src/backends/qemu/take-down.ts';
import { guestDirectory } from './support/guest.ts';
import { ANSWERS, NEVER, type QmpScript, ScriptedQmp } from './support/scripted-qmp.ts';

let directory: ReturnType<typeof guestDirectory>;
let path: string;
let qmp: ScriptedQmp;

beforeEach(() => {
  directory = guestDirectory();
  path = join(directory.path, 'qmp');
});

afterEach(async () => {
  vi.useRealTimers();
  await qmp[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

async function serve(answers: QmpScript): Promise<void> {
  qmp = await ScriptedQmp.listen(path, { version: [10, 0], answers: { ...ANSWERS, ...answers } });
}

/** Resolves once this command has come. */
async function heard(command: string): Promise<void> {
  await vi.waitUntil(() => qmp.commands.includes(command), { timeout: 10_000 });
}

describe('taking down', () => {
  it('does every step, and tells what the first that failed has said', async () => {
    await serve({});
    await using client = await QmpClient.connect(path);
    const done: string[] = [];
    const failing = (name: string) => async () => {
      done.push(name);
      throw new Error(name);
    };
    const last = async () => done.push('last');
    await expect(takeDown(client, [failing('first'), failing('second'), last])).rejects.toThrow('first');
    expect(done).toEqual(['first', 'second', 'last']);
  });

  it('takes no failure for one where QEMU has ended', async () => {
    await serve({});
    const client = await QmpClient.connect(path);
    const ends = async () => {
      await qmp[Symbol.asyncDispose]();
      await client.execute('query-status');
    };
    await expect(takeDown(client, [ends, () => client.execute('query-status')])).resolves.toBeUndefined();
  });

  it('drops the connection to a QEMU that does not answer in time', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    await serve({ 'query-jobs': NEVER });
    const client = await QmpClient.connect(path);
    const done: string[] = [];
    const taken = takeDown(client, [
      () => client.execute('query-jobs'),
      () => client.execute('query-jobs'),
      async () => done.push('last'),
      () => client.close(),
    ]);
    const told = expect(taken).rejects.toMatchObject({ code: 'timeout' });
    vi.advanceTimersByTime(TAKE_DOWN_MS_MAX - 1);
    expect(client.failure).toBeUndefined();
    vi.advanceTimersByTime(1);
    await told;
    expect(done).toEqual(['last']);
  });
});

describe('a VM whose QEMU hangs', () => {
  it.each(['detach', 'release'] as const)(
    'is let go of by %s() all the same, and is not called gone',
    async (how) => {
      let hangs = false;
      const answers = { 'query-migrate': () => (hangs ? NEVER({}, () => {}) : {}), quit: NEVER };
      await serve(answers);
      const vm = await openQemuSource({ qmp: path, runtimeDir: directory.path });
      const stops: unknown[] = [];
      vm.onUnexpectedStop((stop) => stops.push(stop));
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
      hangs = true;
      const told = expect(vm[how]()).rejects.toMatchObject({
        code: expect.stringMatching(/timeout|hypervisor/),
      });
      await heard(how === 'detach' ? 'migrate_cancel' : 'quit');
      await vi.advanceTimersByTimeAsync(TAKE_DOWN_MS_MAX);
      await told;
      expect(stops).toEqual([]);
    },
  );
});

describe('migration settings', () => {
  const ours = {
    'max-bandwidth': 100_000_000_000,
    'downtime-limit': 2_000_000,
    'throttle-trigger-threshold': 1,
    'cpu-throttle-increment': 99,
    'cpu-throttle-initial': 60,
    'max-cpu-throttle': 60,
    'cpu-throttle-tailslow': false,
  };

  it.each([
    [
      'of an engine that died give way to the defaults',
      ours,
      {
        'max-bandwidth': 134_217_728,
        'downtime-limit': 300,
        'throttle-trigger-threshold': 50,
        'cpu-throttle-increment': 10,
        'cpu-throttle-initial': 20,
        'max-cpu-throttle': 99,
        'cpu-throttle-tailslow': false,
      },
    ],
    ['of somebody else stay', { ...ours, 'cpu-throttle-increment': 10 }, undefined],
  ])('%s', async (_, found, left) => {
    const list = ANSWERS['query-migrate-capabilities'] as { capability: string }[];
    const on = list.map(({ capability }) => ({ capability, state: true }));
    await serve({
      'query-migrate-parameters': { ...found, 'announce-max': 550 },
      'query-migrate-capabilities': on,
      'migrate-set-capabilities': {},
      'migrate-set-parameters': {},
    });
    const vm = await openQemuSource({ qmp: path, runtimeDir: directory.path, recovery: true });
    await vm.detach();
    const set = qmp.calls.filter(({ execute }) => execute.startsWith('migrate-set-'));
    const capabilities = on.map((capability) => ({ ...capability, state: false }));
    // Capabilities first: with the parameters goes what they are known by.
    const expected = [
      { execute: 'migrate-set-capabilities', args: { capabilities } },
      { execute: 'migrate-set-parameters', args: left },
    ];
    expect(set).toEqual(left === undefined ? [] : expected);
  });
});

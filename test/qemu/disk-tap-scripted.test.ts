/**
 * Goal: a tap notices what real QEMUs do too seldom to be waited for, and leaves none of its own behind. Method: a QEMU from a table that tells of
 * events when it is told to.
 */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdClient } from '../../src/backends/nbd/nbd-client.ts';
import { DiskTap } from '../../src/backends/qemu/disk-tap.ts';
import { QmpClient } from '../../src/backends/qemu/qmp.ts';
import { serveTap } from '../../src/backends/qemu/tap-server.ts';
import type { MigrationError } from '../../src/errors.ts';
import { deferred } from '../../src/util/promises.ts';
import { guestDirectory } from './support/guest.ts';
import {
  ANSWERS,
  type QmpScript,
  type ScriptedCommand,
  ScriptedQmp,
  type Tell,
} from './support/scripted-qmp.ts';

const NAME = 'longhaul-tap-0';

let directory: ReturnType<typeof guestDirectory>;
let server: ScriptedQmp | undefined;
let qmp: QmpClient | undefined;

beforeEach(() => {
  directory = guestDirectory();
});

afterEach(async () => {
  await qmp?.close();
  await server?.[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

interface Tapped {
  readonly tap: DiskTap;
  /** What its handler was told. */
  readonly broken: Promise<MigrationError>;
  readonly tell: Tell;
}

/** A job that is ready at once, on nodes that are there until they are deleted. */
async function set(answers: QmpScript = {}): Promise<Tapped> {
  const nodes = new Set<unknown>();
  let tell: Tell = () => {};
  const add: ScriptedCommand = (args) => {
    nodes.add(args['node-name']);
    return {};
  };
  const mirror: ScriptedCommand = (_, telling) => {
    tell = telling;
    telling('BLOCK_JOB_READY', { device: NAME });
    return {};
  };
  const del: ScriptedCommand = (args) => {
    if (!nodes.delete(args['node-name'])) throw 'no such node';
    return {};
  };
  const path = join(directory.path, 'qmp');
  server = await ScriptedQmp.listen(path, {
    version: [10, 0],
    answers: {
      ...ANSWERS,
      'blockdev-add': add,
      'blockdev-mirror': mirror,
      'blockdev-del': del,
      'block-job-cancel': {},
      'query-block-jobs': [],
      'query-named-block-nodes': () => [...nodes].map((name) => ({ 'node-name': name })),
      ...answers,
    },
  });
  qmp = await QmpClient.connect(path);
  const broken = deferred<MigrationError>();
  const disk = { id: 'vd0', sizeBytes: 1 << 20, blockBytes: 512, readOnly: false };
  const tap = await DiskTap.set({
    qmp,
    disk: { ...disk, nodeName: 'disk0', names: ['vd0', 'disk0'] },
    index: 0,
    socketPath: join(directory.path, 'tap'),
    handler: { write: () => {}, invalidate: () => {}, broken: broken.resolve },
    serve: serveTap,
  });
  return { tap, broken: broken.promise, tell };
}

const deleted = (): unknown[] =>
  server?.calls.filter(({ execute }) => execute === 'blockdev-del').map(({ args }) => args['node-name']) ??
  [];

describe("a guest's failed write or read", () => {
  // As QEMU 10 tells it: of a disk without a name of its own, of one whose device has one, of a drive.
  it.each([
    {
      operation: 'write',
      device: '',
      'node-name': `${NAME}-filter`,
      'qom-path': '/machine/peripheral-anon/device[3]/virtio-backend',
    },
    {
      operation: 'read',
      device: '',
      'node-name': `${NAME}-filter`,
      'qom-path': '/machine/peripheral-anon/device[3]/virtio-backend',
    },
    {
      operation: 'write',
      device: '',
      'node-name': 'another',
      'qom-path': '/machine/peripheral/vd0/virtio-backend',
    },
    { operation: 'write', device: 'vd0', 'node-name': '' },
  ])('breaks the tap: %j', async (data) => {
    const { tap, broken, tell } = await set();
    expect(server?.calls).toContainEqual(
      expect.objectContaining({
        execute: 'blockdev-mirror',
        args: expect.objectContaining({ 'filter-node-name': `${NAME}-filter` }),
      }),
    );
    tell('BLOCK_IO_ERROR', { operation: 'write', device: 'vd1', 'node-name': 'longhaul-tap-1-filter' });
    tell('BLOCK_IO_ERROR', data);
    const error = await broken;
    expect(error).toMatchObject({ code: 'tap-gap' });
    expect(error.message).toContain(`a ${data.operation} of the guest failed`);
    tap.expectDrain(false);
    await expect(tap.finish()).rejects.toBe(error);
    await tap.remove();
  });
});

describe('its job', () => {
  it('may end before it was ready: no tap is set, and nothing of it is left', async () => {
    const full: ScriptedCommand = (_, tell) => {
      tell('BLOCK_JOB_COMPLETED', { device: NAME, error: 'No space left on device' });
      return {};
    };
    await expect(set({ 'blockdev-mirror': full })).rejects.toMatchObject({
      code: 'hypervisor',
      message: expect.stringMatching(/No space left on device/),
    });
    expect(deleted()).toEqual([NAME]);
  });

  it('may not let itself be asked about: its node is deleted all the same, or later', async () => {
    let asked = 0;
    const failing: ScriptedCommand = () => {
      asked += 1;
      if (asked === 1) throw 'not now';
      return [];
    };
    const { tap } = await set({ 'query-jobs': failing });
    await expect(tap.remove()).rejects.toMatchObject({ code: 'hypervisor' });
    expect(deleted()).toEqual([NAME]);
    await tap.remove();
    expect(deleted()).toEqual([NAME]);
  });

  it('may have taken its node along', async () => {
    const { tap } = await set({ 'query-named-block-nodes': [] });
    await tap.remove();
    expect(deleted()).toEqual([]);
  });
});

describe('a QEMU that dies', () => {
  it('is told of as gone before its tap is told of as broken, whichever connection breaks first', async () => {
    const asked = deferred<void>();
    const dying = deferred<unknown>();
    const status: ScriptedCommand = () => {
      asked.resolve();
      return dying.promise;
    };
    const { tap, broken } = await set({ 'query-status': status });
    const told: string[] = [];
    void qmp?.closed.then(() => told.push('gone'));
    void broken.then(() => told.push('broken'));

    const mirror = await NbdClient.connect({ path: join(directory.path, 'tap'), exportName: '' });
    mirror.abort('QEMU dies');
    await asked.promise;
    expect(told).toEqual([]);
    // But nobody could have finished with it any more.
    tap.expectDrain(false);
    await expect(tap.finish()).rejects.toMatchObject({ code: 'tap-gap' });
    await server?.[Symbol.asyncDispose]();
    await broken;
    expect(told).toEqual(['gone', 'broken']);
    await tap.remove();
  });
});

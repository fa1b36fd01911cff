/**
 * Goal: a QEMU that is to take a VM is told only what its version understands, and takes the plain stream whatever it was prepared for; where it
 * refuses it, its own reason is told. Method: a QEMU from a table, with a socket that answers as QEMU's incoming migration does, or hangs up.
 */
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createQemuBackend } from '../../src/backends/qemu/index.ts';
import type { VmDescription } from '../../src/interfaces/hypervisor.ts';
import { guestDirectory } from './support/guest.ts';
import { ANSWERS, ScriptedQmp } from './support/scripted-qmp.ts';

const description: VmDescription = {
  vmId: 'vm',
  name: 'vm',
  machine: 'pc-i440fx-10.0',
  cpus: 1,
  memory: [{ name: 'pc.ram', sizeBytes: 4096, pageBytes: 4096 }],
  disks: [],
  deviceStateFormat: 'qemu-stream-3/x86_64',
};

/** PONG, with the number of the first PING. */
const PONG = Buffer.from('0002000400000001', 'hex');

let directory: ReturnType<typeof guestDirectory>;
let qmp: ScriptedQmp | undefined;
let incoming: Server | undefined;

beforeEach(() => {
  directory = guestDirectory();
});

afterEach(async () => {
  await qmp?.[Symbol.asyncDispose]();
  incoming?.close();
  await directory[Symbol.asyncDispose]();
});

/** A QEMU of that version that waits for its migration, and takes what begins it, or does not. */
async function prepare(version: readonly [number, number], takes: boolean): Promise<void> {
  let refused = false;
  const listen = async ({ uri }: Readonly<Record<string, unknown>>): Promise<object> => {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      refused = !takes;
      if (takes) socket.once('data', () => socket.write(PONG));
      else socket.destroy();
    });
    incoming = server;
    await new Promise<void>((resolve) => server.listen(String(uri).replace('unix:', ''), resolve));
    return {};
  };
  const path = join(directory.path, 'qmp');
  qmp = await ScriptedQmp.listen(path, {
    version,
    answers: {
      ...ANSWERS,
      'query-status': { status: 'inmigrate' },
      'query-migrate': () => (refused ? { status: 'failed', 'error-desc': 'it does not fit' } : {}),
      'query-migrate-capabilities': ['multifd', 'xbzrle', 'events'].map((capability) => ({
        capability,
        state: capability !== 'xbzrle',
      })),
      'query-migrate-parameters': { 'tls-creds': 'tls0', 'tls-hostname': '', 'max-bandwidth': 1 },
      'migrate-set-capabilities': {},
      'migrate-set-parameters': {},
      'nbd-server-start': {},
      'nbd-server-stop': {},
      'migrate-incoming': listen,
      stop: {},
    },
  });
  const vm = await createQemuBackend({ qmp: path, runtimeDir: directory.path }).prepare(description);
  await vm.discard();
}

const argsOf = (command: string): unknown[] =>
  qmp?.calls.filter(({ execute }) => execute === command).map(({ args }) => args) ?? [];

describe('a QEMU that is to take a VM', () => {
  it('takes it as a plain stream', async () => {
    await prepare([10, 0], true);
    expect(argsOf('migrate-set-capabilities')).toEqual([
      {
        capabilities: [
          { capability: 'multifd', state: false },
          { capability: 'events', state: false },
        ],
      },
    ]);
    expect(argsOf('migrate-set-parameters')).toEqual([{ 'tls-creds': '' }]);
    const commands = qmp?.commands ?? [];
    expect(commands.indexOf('migrate-incoming')).toBeGreaterThan(commands.indexOf('migrate-set-parameters'));
  });

  it.each([
    [[10, 0], true],
    [[9, 1], true],
    [[9, 0], false],
    [[8, 2], false],
  ] as const)('of version %j can be told not to exit: %s', async (version, can) => {
    await prepare(version, true);
    const uri = expect.stringMatching(/^unix:/);
    expect(argsOf('migrate-incoming')).toEqual([can ? { uri, 'exit-on-error': false } : { uri }]);
  });

  it('says why it does not', async () => {
    await expect(prepare([10, 0], false)).rejects.toMatchObject({
      code: 'hypervisor',
      message: expect.stringMatching(/\(it does not fit\)$/),
    });
    expect(qmp?.commands).toContain('nbd-server-stop');
  });
});

/**
 * Goal: `longhaul receive --image` says of an export what is so. Method: the program in this process, and a
 * VM in memory that sends one of its two disks.
 */
import { EventEmitter } from 'node:events';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createMemoryVm } from '../../../src/backends/memory/index.ts';
import { runProgram } from '../../../src/cli/program.ts';
import { Screen, type TextSink } from '../../../src/cli/screen.ts';
import { createSource, memoryRegister } from '../../../src/index.ts';
import { tcp } from '../../../src/transports/index.ts';
import { deferred } from '../../../src/util/promises.ts';
import { program } from '../../cli/support/context.ts';
import { MIB, temporaryDirectory } from './fixtures.ts';

let directory: ReturnType<typeof temporaryDirectory>;

beforeEach(() => {
  directory = temporaryDirectory();
});

afterEach(() => directory.remove());

/** Keeps what is written, and waits for it. */
class AwaitedText implements TextSink {
  readonly isTTY = false;
  text = '';
  readonly #waiting: { readonly pattern: RegExp; resolve(found: string): void }[] = [];

  write(text: string): void {
    this.text += text;
    for (const { pattern, resolve } of this.#waiting) {
      const [, found] = pattern.exec(this.text) ?? [];
      if (found !== undefined) resolve(found);
    }
  }

  has(pattern: RegExp): Promise<string> {
    const { promise, resolve } = deferred<string>();
    this.#waiting.push({ pattern, resolve });
    this.write('');
    return promise;
  }
}

it('serves the disks that came, and says where', async () => {
  const odd = join(directory.path, 'a&b #');
  mkdirSync(odd);
  const socket = join(odd, 'nbd');
  const images = ['disk0', 'disk1'].map((id) => `--image=${id}=${join(directory.path, `${id}.raw`)}`);
  const register = join(directory.path, 'register');
  const stderr = new AwaitedText();
  const signals = new EventEmitter();
  const ended = runProgram(
    ['receive', '--listen=127.0.0.1:0', `--register=${register}`, `--export=${socket}`, ...images],
    { print: () => {}, screen: new Screen(stderr, {}), env: {}, signals },
    '1.2.3',
  );
  const port = Number(await stderr.has(/listening on 127\.0\.0\.1:(\d+)\n/));
  const vm = createMemoryVm({
    vmId: 'vm-1',
    memoryBytes: MIB,
    disks: ['disk0', 'disk1'].map((id) => ({ id, sizeBytes: MIB })),
  });
  const transport = tcp({ connect: { host: '127.0.0.1', port } });
  const policy = { memory: 'none', disks: { disk0: 'leave' } } as const;
  const source = createSource({ vm: vm.source(), transport, register: memoryRegister(), policy });
  expect(await source.run()).toMatchObject({ outcome: 'copied' });
  const query = `${encodeURIComponent(odd).replaceAll('%2F', '/')}/nbd`;
  expect(await stderr.has(/serving disk1 at (\S+)\n/)).toBe(`nbd+unix:///disk1?socket=${query}`);
  expect(new URL(`nbd+unix:///disk1?socket=${query}`).searchParams.get('socket')).toBe(socket);
  signals.emit('SIGTERM');
  expect(await ended).toBe(0);
  expect(stderr.text).not.toContain('serving disk0');
  expect(readdirSync(directory.path).sort()).toEqual(['a&b #', 'disk1.raw']);
  await transport.close();
  vm.destroy();
});

it.each([
  ['--no-tls if the network is your own', []],
  ['--cert is for the migration alone', ['--cert=/nowhere/cert', '--key=/nowhere/key', '--ca=/nowhere/ca']],
])('refuses an export beyond loopback, and says what there is: %s', async (message, tls) => {
  const args = ['receive', '--listen=127.0.0.1:0', '--image=a=b', '--export=0.0.0.0:10809', ...tls];
  const { code, stderr } = await program(args);
  expect(code).toBe(64);
  expect(stderr).toMatch(/give a unix socket's path, as in --export \.\/disks\.nbd/);
  expect(stderr).toContain(message);
  expect(stderr.includes('--no-tls')).toBe(tls.length === 0);
});

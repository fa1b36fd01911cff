import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NbdExtent } from '../../src/backends/nbd/nbd-client.ts';
import type { NbdServer, NbdServerHandler } from '../../src/backends/nbd/nbd-server.ts';
import { MigrationError } from '../../src/errors.ts';

/**
 * What the NBD tests share: a disk in memory, a peer that says exactly what it is told to, and QEMU's tools.
 */

/**
 * A new private directory and its removal. Short, because the path of a unix socket has at most 107 bytes.
 */
export function privateDirectory(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'lh-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** The unix socket of a server that has one. */
export function pathOf({ address }: NbdServer): string {
  if ('path' in address) return address.path;
  throw new Error(`it listens at ${address.host}:${address.port}`);
}

/** Whether QEMU's programs can be run here. */
export const hasQemu =
  spawnSync('qemu-nbd', ['--version']).status === 0 && spawnSync('qemu-img', ['--version']).status === 0;

/** The code of what a promise rejects with. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return error instanceof MigrationError ? error.code : `untyped: ${String(error)}`;
  }
  return 'resolved';
}

/** Reproducible bytes: the same for the same seed, different at every offset. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let index = 0; index < length; index += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}

const ZEROS = Buffer.alloc(4096);

/**
 * A disk in memory as an NBD handler. Everything takes effect when it is called, so the order of the calls
 * decides.
 */
export class MemoryDisk implements NbdServerHandler {
  readonly bytes: Buffer;
  /** The calls in their order, for example `write 0+4096`. */
  readonly calls: string[] = [];
  /** Every payload that was written, to see whether somebody changes it later, with a copy of it. */
  readonly payloads: { readonly given: Uint8Array; readonly copy: Buffer }[] = [];
  readonly gone: (MigrationError | undefined)[] = [];
  keepPayloads = false;
  connects = 0;

  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    this.calls.push(`read ${offset}+${length}`);
    return Buffer.from(this.bytes.subarray(offset, offset + length));
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.calls.push(`write ${offset}+${data.length}`);
    if (this.keepPayloads) this.payloads.push({ given: data, copy: Buffer.from(data) });
    this.bytes.set(data, offset);
  }

  async writeZeroes(offset: number, length: number, options: { readonly mayPunch: boolean }): Promise<void> {
    this.calls.push(`zeroes ${offset}+${length}${options.mayPunch ? ' punch' : ''}`);
    this.bytes.fill(0, offset, offset + length);
  }

  async trim(offset: number, length: number): Promise<void> {
    this.calls.push(`trim ${offset}+${length}`);
    this.bytes.fill(0, offset, offset + length);
  }

  async flush(): Promise<void> {
    this.calls.push('flush');
  }

  /** In blocks of 4 KiB, as many as 1 MiB has: zero ones are holes. */
  async extents(offset: number, length: number): Promise<readonly NbdExtent[]> {
    const extents: NbdExtent[] = [];
    const end = offset + Math.min(length, 1024 * 1024);
    for (let start = offset; start < end; ) {
      const blockEnd = Math.min(end, start - (start % 4096) + 4096);
      const zero = this.bytes.subarray(start, blockEnd).equals(ZEROS.subarray(0, blockEnd - start));
      extents.push({ offset: start, length: blockEnd - start, zero, hole: zero });
      start = blockEnd;
    }
    return extents;
  }

  connected(): void {
    this.connects += 1;
  }

  disconnected(reason: MigrationError | undefined): void {
    this.gone.push(reason);
  }
}

/** One end of a connection, driven by hand. */
export class Hand {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#ended = true;
      this.#wake();
    });
  }

  static async to(path: string): Promise<Hand> {
    const socket = connect({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new Hand(socket);
  }

  say(...parts: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** The next bytes, exactly so many; throws if the other end hangs up before. */
  async hear(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.#ended) throw new Error(`hung up after ${this.#received.length} of ${length} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  /** Waits until the other end hangs up and returns what it said before. */
  async hearEnd(): Promise<Buffer> {
    while (!this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#received;
  }

  hangUp(): void {
    this.socket.destroy();
  }
}

/** A server that runs a script with each client. */
export async function scriptedServer(
  path: string,
  script: (hand: Hand) => Promise<void>,
): Promise<{ close(): Promise<void> }> {
  const hands = new Set<Hand>();
  const server = createServer((socket) => {
    const hand = new Hand(socket);
    hands.add(hand);
    script(hand).catch(() => hand.hangUp());
  });
  await new Promise<void>((resolve) => server.listen({ path }, resolve));
  return {
    close: async () => {
      for (const hand of hands) hand.hangUp();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Runs a program to its end. */
export async function run(
  command: string,
  args: readonly string[],
): Promise<{ readonly status: number | null; readonly output: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { status, output };
}

/** Waits until a unix socket takes connections. */
export async function untilListening(path: string, child: ChildProcess): Promise<void> {
  for (let attempt = 0; attempt < 500; attempt += 1) {
    if (child.exitCode !== null) throw new Error(`exited with ${child.exitCode} before it listened`);
    if (existsSync(path)) {
      const probe = await Hand.to(path).catch(() => undefined);
      if (probe !== undefined) {
        probe.hangUp();
        return;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error('does not listen after 10 s');
}

/** Ends a child process and waits for its end. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await exited;
}

/** A qemu-nbd that serves an image on a unix socket until it is stopped. */
export async function qemuNbd(path: string, args: readonly string[]): Promise<ChildProcess> {
  const child = spawn('qemu-nbd', ['--persistent', '--shared=8', `--socket=${path}`, ...args], {
    stdio: 'ignore',
  });
  await untilListening(path, child);
  return child;
}

/**
 * A link of so many Mbit/s, as a TCP proxy in a process of its own: all connections together get that much in
 * each direction, and take turns. It adds no delay of its own; what does not pass waits in the senders'
 * sockets.
 *
 *   slow-link.js --to HOST:PORT --mbit N      says `listening on HOST:PORT`, runs until it is killed
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

/** Timers come at 1 ms at best; what they come late is made up for, up to this much. */
const BURST_MS = 4;

/** One direction of the link. */
class Pacer {
  readonly #bytesPerMs: number;
  #freeAtMs = 0;

  constructor(bytesPerMs: number) {
    this.#bytesPerMs = bytesPerMs;
  }

  /** Resolves when so many bytes have passed after all that asked before. */
  async pass(bytes: number): Promise<void> {
    const now = performance.now();
    this.#freeAtMs = Math.max(this.#freeAtMs, now - BURST_MS) + bytes / this.#bytesPerMs;
    const waitMs = this.#freeAtMs - now;
    if (waitMs > 0) await sleep(waitMs);
  }
}

async function pump(from: Socket, to: Socket, pacer: Pacer): Promise<void> {
  for await (const chunk of from as AsyncIterable<Buffer>) {
    await pacer.pass(chunk.length);
    if (!to.write(chunk)) await once(to, 'drain');
  }
  to.end();
}

const { values } = parseArgs({ options: { to: { type: 'string' }, mbit: { type: 'string' } } });
const [host = '', port] = values.to?.split(':') ?? [];
const bytesPerMs = Number(values.mbit) * 125;
if (!(bytesPerMs > 0) || host === '') throw new Error('--to HOST:PORT and --mbit N are needed');

const there = new Pacer(bytesPerMs);
const back = new Pacer(bytesPerMs);
const server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
  const far = connect({ host, port: Number(port), allowHalfOpen: true, noDelay: true });
  // However one side ends early, so does the other.
  const cut = (): void => {
    near.destroy();
    far.destroy();
  };
  pump(near, far, there).catch(cut);
  pump(far, near, back).catch(cut);
});
server.listen(0, '127.0.0.1', () => {
  process.stderr.write(`listening on 127.0.0.1:${(server.address() as AddressInfo).port}\n`);
});

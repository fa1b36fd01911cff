/** A QMP socket before the real one, that holds the one command that runs the guest. */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

/**
 * Passes QMP through, but holds the first `cont` until `atCont` has resolved: in that time all that is to
 * arrive has arrived and been accepted, and the guest has not run. Whatever fails here ends both connections.
 */
export class QmpGate implements Disposable {
  readonly path: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #atCont: (() => Promise<void>) | undefined;
  #heldMs = 0;

  private constructor(path: string, target: string, atCont: () => Promise<void>) {
    this.path = path;
    this.#atCont = atCont;
    this.#server = createServer((client) => this.#join(client, connect(target)));
  }

  /** Listens at `path`, and connects each client to `target`. */
  static async open(path: string, target: string, atCont: () => Promise<void>): Promise<QmpGate> {
    const gate = new QmpGate(path, target, atCont);
    await new Promise<void>((resolve, reject) => {
      gate.#server.once('error', reject).listen(path, resolve);
    });
    return gate;
  }

  /** For how long the command was held, in ms; 0 if none came. */
  get heldMs(): number {
    return this.#heldMs;
  }

  [Symbol.dispose](): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #join(client: Socket, qemu: Socket): void {
    for (const [socket, other] of [
      [client, qemu],
      [qemu, client],
    ] as const) {
      this.#sockets.add(socket);
      socket.on('error', () => other.destroy());
      socket.on('close', () => other.end());
    }
    qemu.on('data', (bytes) => client.write(bytes));
    let passed: Promise<void> = Promise.resolve();
    createInterface(client).on('line', (line) => {
      // One after the other: what follows a command that is held waits behind it.
      passed = passed.then(() => this.#pass(line, qemu));
      passed.catch(() => client.destroy());
    });
  }

  async #pass(line: string, qemu: Socket): Promise<void> {
    const atCont = this.#atCont;
    if (atCont !== undefined && (JSON.parse(line) as { execute: string }).execute === 'cont') {
      this.#atCont = undefined;
      const start = performance.now();
      await atCont();
      this.#heldMs = performance.now() - start;
    }
    qemu.write(`${line}\n`);
  }
}

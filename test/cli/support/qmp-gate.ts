/** A QMP socket before the real one, that holds one command: the one that runs the guest, or another. */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

/**
 * Passes QMP through, but holds the first `cont`, or other command, until `atCommand` has resolved: in the time before `cont` all that is to
 * arrive has arrived and been accepted, and the guest has not run. Whatever fails here ends both connections.
 */
export class QmpGate implements Disposable {
  readonly path: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #atCommand: (() => Promise<void>) | undefined;
  readonly #command: string;
  #heldMs = 0;

  private constructor(path: string, target: string, atCommand: () => Promise<void>, command: string) {
    this.path = path;
    this.#command = command;
    this.#atCommand = atCommand;
    this.#server = createServer((client) => this.#join(client, connect(target)));
  }

  /** Listens at `path`, and connects each client to `target`. */
  static async open(
    path: string,
    target: string,
    atCommand: () => Promise<void>,
    command = 'cont',
  ): Promise<QmpGate> {
    const gate = new QmpGate(path, target, atCommand, command);
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
    const atCommand = this.#atCommand;
    if (atCommand !== undefined && (JSON.parse(line) as { execute: string }).execute === this.#command) {
      this.#atCommand = undefined;
      const start = performance.now();
      await atCommand();
      this.#heldMs = performance.now() - start;
    }
    qemu.write(`${line}\n`);
  }
}

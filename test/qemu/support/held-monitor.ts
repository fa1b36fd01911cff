/** A QMP socket before another, which holds back what QEMU says from a word on: sockets do not wait for each other, and a test shows it. */
import { connect, createServer, type Server, type Socket } from 'node:net';

/** Relays one client to the monitor at `to`. */
export class HeldMonitor implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets: Socket[] = [];
  #held = '';
  #holds = false;
  #client: Socket | undefined;

  private constructor(to: string, word: string) {
    this.#server = createServer((client) => {
      const monitor = connect(to);
      this.#client = client;
      this.#sockets.push(client, monitor);
      for (const socket of [client, monitor]) socket.on('error', () => {});
      client.pipe(monitor);
      monitor.setEncoding('utf8').on('data', (text: string) => {
        this.#holds ||= text.includes(word);
        if (this.#holds) this.#held += text;
        else client.write(text);
      });
      monitor.on('close', () => client.destroy());
    });
  }

  /** Listens at `path`, and holds back everything from the first piece that has the word in it. */
  static async before(to: string, path: string, word: string): Promise<HeldMonitor> {
    const relay = new HeldMonitor(to, word);
    await new Promise<void>((resolve) => relay.#server.listen(path, resolve));
    return relay;
  }

  /** Passes on what was held back, and holds nothing any more. */
  release(): void {
    this.#client?.write(this.#held);
    this.#held = '';
    this.#holds = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

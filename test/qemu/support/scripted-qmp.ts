/** A QMP server that answers from a table, for QEMUs that are not here: old ones, and other architectures. */
import { createServer, type Server, type Socket } from 'node:net';

/** What each command returns; a command that is not listed fails, as an unknown one does. */
export type QmpScript = Readonly<Record<string, unknown>>;

/** A version, what KVM is said to be, and the rest as QEMU 10 says it. */
export interface ScriptedQemu {
  readonly version: readonly [major: number, minor: number];
  readonly answers: QmpScript;
}

/** A QEMU 10 with a guest under emulation, a name, no UUID, and no disks. */
export const ANSWERS: QmpScript = {
  'query-kvm': { enabled: false, present: true },
  'query-migrate-capabilities': ['return-path', 'switchover-ack', 'auto-converge'].map((capability) => ({
    capability,
    state: false,
  })),
  'query-migrate-parameters': {},
  'query-migrate': {},
  'query-status': { status: 'running', running: true },
  'query-jobs': [],
  'query-named-block-nodes': [],
  'query-block-exports': [],
  'query-target': { arch: 'x86_64' },
  'qom-get': 'pc-i440fx-10.0-machine',
  'query-cpus-fast': [{}],
  'x-query-ramblock': { 'human-readable-text': 'Block Name\n pc.ram  4 KiB  0x0 0x1000 0x1000 0x7f rw\n' },
  'query-block': [],
  'query-uuid': { UUID: '00000000-0000-0000-0000-000000000000' },
  'query-name': { name: 'guest' },
};

/** Serves it on a unix socket. */
export class ScriptedQmp implements AsyncDisposable {
  /** Every command that came. */
  readonly commands: string[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor({ version: [major, minor], answers }: ScriptedQemu) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      const send = (message: object): void => {
        socket.write(`${JSON.stringify(message)}\n`);
      };
      send({ QMP: { version: { qemu: { major, minor, micro: 0 }, package: '' }, capabilities: [] } });
      let partial = '';
      socket.setEncoding('utf8').on('data', (text) => {
        const lines = (partial + String(text)).split('\n');
        partial = lines.pop() ?? '';
        for (const line of lines) {
          const { execute, id } = JSON.parse(line) as { execute: string; id: number };
          this.commands.push(execute);
          if (execute === 'qmp_capabilities') send({ return: {}, id });
          else if (execute in answers) send({ return: answers[execute], id });
          else send({ error: { class: 'CommandNotFound', desc: `no ${execute}` }, id });
        }
      });
    });
  }

  static async listen(path: string, qemu: ScriptedQemu): Promise<ScriptedQmp> {
    const scripted = new ScriptedQmp(qemu);
    await new Promise<void>((resolve) => scripted.#server.listen(path, resolve));
    return scripted;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }
}

/** A QMP server that answers from a table, for QEMUs that are not here: old ones, and other architectures. */
import { createServer, type Server, type Socket } from 'node:net';

/** Tells of an event. */
export type Tell = (event: string, data: object) => void;

/** What each command returns, or does to return it; a command that is not listed fails, as an unknown one does. */
export type QmpScript = Readonly<Record<string, unknown>>;

/** Does something with a command's arguments, and returns what QEMU does; may throw QEMU's words, or promise. */
export type ScriptedCommand = (args: Readonly<Record<string, unknown>>, tell: Tell) => unknown;

/** What a QEMU that hangs answers. */
export const NEVER: ScriptedCommand = () => new Promise(() => {});

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
  /** And with what. */
  readonly calls: { readonly execute: string; readonly args: Readonly<Record<string, unknown>> }[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor({ version: [major, minor], answers }: ScriptedQemu) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      const send = (message: object): void => {
        socket.write(`${JSON.stringify(message)}\n`);
      };
      const tell: Tell = (event, data) => send({ event, data, timestamp: {} });
      send({ QMP: { version: { qemu: { major, minor, micro: 0 }, package: '' }, capabilities: [] } });
      let partial = '';
      socket.setEncoding('utf8').on('data', (text) => {
        const lines = (partial + String(text)).split('\n');
        partial = lines.pop() ?? '';
        for (const line of lines) {
          const command = JSON.parse(line) as { execute: string; arguments?: object; id: number };
          const { execute, id } = command;
          const args = { ...command.arguments };
          this.commands.push(execute);
          this.calls.push({ execute, args });
          const fail = (error: unknown): void => {
            send({ error: { class: 'GenericError', desc: String(error) }, id });
          };
          if (execute === 'qmp_capabilities') send({ return: {}, id });
          else if (execute in answers) {
            void answer(answers[execute], args, tell).then((value) => send({ return: value, id }), fail);
          } else fail(`no ${execute}`);
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

async function answer(
  scripted: unknown,
  args: Readonly<Record<string, unknown>>,
  tell: Tell,
): Promise<unknown> {
  return typeof scripted === 'function' ? await (scripted as ScriptedCommand)(args, tell) : scripted;
}

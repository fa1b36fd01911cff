/**
 * `send` and `receive` of the program, built on the library as any embedder would, but dead at a given
 * moment: the process that --kill names, this one by default, is killed with SIGKILL exactly then.
 *
 *   mortal.js receive --qmp SOCKET --register DIR --at MOMENT [--kill PID]
 *   mortal.js send    --qmp SOCKET --register DIR --at MOMENT [--kill PID] --to HOST:PORT --vm-id ID
 *
 * Moments of `receive`:  connect     the first connection was accepted
 *                        prepare     the source has named its VM
 *                        copyDisks   some pieces of disks have been written, the next one is about to be
 *                        copyMemory  the same with memory
 *                        stun        the source says that it pauses the guest
 *                        verify      all has arrived and is equal; device state is about to be loaded
 *                        go          GO has arrived, and nothing is claimed yet
 *                        owner       the VM is claimed, and its guest was not started yet
 * Moments of `send`:     copyMemory  the first round is over
 *                        stun        the guest is stunned, and the first of its device state has been read
 *                        sealed      QEMU's migration has completed, nothing is claimed yet
 *                        given       the VM is given, and GO was not sent yet
 */
import { parseArgs } from 'node:util';
import { createQemuBackend, openQemuSource } from '../../../src/backends/qemu/index.ts';
import {
  createDestination,
  createSource,
  type DestinationVm,
  fileRegister,
  type HypervisorBackend,
  type Migration,
  type OwnershipRegister,
  type SourceVm,
} from '../../../src/index.ts';
import { tcp } from '../../../src/transports/index.ts';

/** Of disks and memory, this many writes come before the fatal one. */
const WRITES_BEFORE = 8;
const host = '127.0.0.1';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    qmp: { type: 'string', default: '' },
    register: { type: 'string', default: '' },
    at: { type: 'string' },
    kill: { type: 'string', default: String(process.pid) },
    to: { type: 'string' },
    'vm-id': { type: 'string', default: '' },
  },
});

function reach(moment: string): void {
  if (moment === values.at) process.kill(Number(values.kill), 'SIGKILL');
}

/** The same object with some members replaced. */
function replacing<T extends object>(target: T, members: Partial<T>): T {
  return new Proxy(target, {
    get(_, key) {
      const owner = key in members ? members : target;
      const value: unknown = Reflect.get(owner, key);
      return typeof value === 'function' ? value.bind(owner) : value;
    },
  });
}

/** Reaches the moment before one of its writes. */
function writing<T extends { write(...args: never[]): Promise<void> }>(target: T, moment: string): T {
  let writes = 0;
  const write = (...args: never[]): Promise<void> => {
    if (writes++ === WRITES_BEFORE) reach(moment);
    return target.write(...args);
  };
  return replacing<{ write(...args: never[]): Promise<void> }>(target, { write }) as T;
}

function mortalBackend(backend: HypervisorBackend): HypervisorBackend {
  return replacing(backend, {
    async prepare(description, options): Promise<DestinationVm> {
      const vm = await backend.prepare(description, options);
      return replacing(vm, {
        memory: writing(vm.memory, 'copyMemory'),
        disks: vm.disks.map((disk) => writing(disk, 'copyDisks')),
        loadDeviceState(state, call) {
          reach('verify');
          return vm.loadDeviceState(state, call);
        },
      });
    },
  });
}

function mortalVm(vm: SourceVm): SourceVm {
  return replacing(vm, {
    async *saveDeviceState(options) {
      for await (const piece of vm.saveDeviceState(options)) {
        reach('stun');
        yield piece;
      }
    },
    async seal() {
      await vm.seal();
      reach('sealed');
    },
  });
}

function mortalRegister(register: OwnershipRegister): OwnershipRegister {
  return replacing(register, {
    async claim(...claim) {
      if (claim.includes('owner')) reach('go');
      const stands = await register.claim(...claim);
      reach(stands);
      return stands;
    },
  });
}

async function receive(): Promise<Migration> {
  const listening = tcp({ listen: { host, port: 0 } });
  const transport = replacing(listening, {
    async accept(options) {
      const connection = await listening.accept(options);
      reach('connect');
      return connection;
    },
  });
  process.stderr.write(`listening on ${host}:${(await listening.listening()).port}\n`);
  const backend = mortalBackend(createQemuBackend({ qmp: values.qmp }));
  const register = mortalRegister(fileRegister(values.register));
  const migration = createDestination({ backend, transport, register });
  // What is called connect here is waiting, and copying has its moments above.
  const own = new Set(['connect', 'copyDisks', 'copyMemory', 'verify']);
  return migration.on('phase', (phase) => {
    if (!own.has(phase)) reach(phase);
  });
}

async function send(): Promise<Migration> {
  const transport = tcp({ connect: { host, port: Number(values.to?.split(':').at(-1)) } });
  const vm = mortalVm(await openQemuSource({ qmp: values.qmp, vmId: values['vm-id'] }));
  const register = mortalRegister(fileRegister(values.register));
  // Its peer waits for it no longer than that.
  const policy = { outageMsMax: 500 };
  return createSource({ vm, transport, register, policy }).on('round', () => reach('copyMemory'));
}

const migration = await (positionals[0] === 'send' ? send() : receive());
const report = await migration.run();
// Only where somebody else was killed: what is still open does not matter then.
process.stdout.write(`${JSON.stringify({ ...report, error: report.error?.message })}\n`, () => {
  process.exit(report.outcome === 'completed' ? 0 : 1);
});

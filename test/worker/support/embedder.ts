/**
 * A program that has the library in it: migrates a VM away, in a thread of its own or (`inThread`) in this
 * one, and does to itself what it is told to over its IPC channel. It never ends itself, unless it is told
 * to: that it ends is for the tests to see.
 */
import { BroadcastChannel } from 'node:worker_threads';
import {
  createSource,
  fileRegister,
  MigrationError,
  type OwnershipRegister,
  type SourceMigration,
} from 'longhaul';
import { createQemuSource, openQemuSource } from 'longhaul/qemu';
import { tcp } from 'longhaul/tcp';
import type { Config, Said, Told } from './protocol.ts';

const config: Config = JSON.parse(process.argv[2] ?? '');
const { qmp, vmId, directory, policy } = config;
const stop = new AbortController();
const deaths = new BroadcastChannel('deaths');
deaths.unref();
const say = (said: Said): void => void process.send?.(said);

process.on('message', (told: Told) => {
  switch (told.do) {
    case 'block': {
      const begin = performance.now();
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, told.ms);
      return say({ type: 'unblocked', ms: performance.now() - begin });
    }
    case 'abort':
      return stop.abort(new MigrationError('aborted', 'the operator thought better of it'));
    case 'blockEngine':
      return deaths.postMessage(told.ms);
    case 'die':
      return deaths.postMessage(told.how);
    case 'exit':
      process.exit(3);
  }
});
process.channel?.unref();

/** The embedder's own: nothing of it could be copied to another thread. */
class OwnRegister implements OwnershipRegister {
  readonly #records = fileRegister(directory);

  async claim(...claim: Parameters<OwnershipRegister['claim']>): ReturnType<OwnershipRegister['claim']> {
    say({ type: 'claim', claim });
    if (claim[3] === 'given' && config.register === 'hangs') return new Promise(() => {});
    if (claim[3] === 'given' && config.register === 'refuses') {
      throw Object.assign(new RangeError('the database is full'), { code: 'EFULL' });
    }
    return this.#records.claim(...claim);
  }

  read(...args: Parameters<OwnershipRegister['read']>): ReturnType<OwnershipRegister['read']> {
    return this.#records.read(...args);
  }
}

async function make(): Promise<SourceMigration> {
  const connect = { host: '127.0.0.1', port: config.port };
  const register = new OwnRegister();
  if (config.inThread) {
    const vm = await openQemuSource({ qmp, vmId });
    say({ type: 'opened', name: vm.description.name });
    return createSource({ vm, transport: tcp({ connect }), register, policy });
  }
  const module = new URL('./plug-points.js', import.meta.url);
  return createQemuSource({
    qmp,
    vmId,
    transport: config.mortal
      ? { module, factory: 'mortalTransport', options: { connect } }
      : { tcp: { connect } },
    register:
      config.register === 'dies' || config.register === 'dies reclaimed'
        ? {
            module,
            factory: 'mortalRegister',
            options: { directory, at: config.register === 'dies' ? 'given' : 'reclaimed' },
          }
        : register,
    policy,
    onOpened: ({ name }) => {
      say({ type: 'opened', name });
      throw new Error('from a callback');
    },
  });
}

const migration = await make();
migration.on('phase', () => {
  throw new Error('from a listener');
});
migration.on('phase', (phase) => say({ type: 'phase', phase }));
if (config.estimate) {
  const estimate = await migration.estimate({ durationMs: 1000, signal: stop.signal });
  say({ type: 'estimate', estimate, frozen: Object.isFrozen(estimate) });
  migration.on('progress', ({ phase, prediction }) =>
    say({ type: 'progress', phase, predicted: prediction !== undefined }),
  );
}
const report = await migration.run({ signal: stop.signal });
const again = await migration.run().catch((error) => error.code);
const { error, ...figures } = report;
say({
  type: 'report',
  report: figures,
  frozen: Object.isFrozen(report),
  again,
  error: error && {
    ours: error instanceof MigrationError,
    code: error.code,
    phase: error.phase,
    owner: error.owner,
    guest: error.guest,
    message: error.message,
    causes: causesOf(error),
  },
});

function causesOf({ cause }: Error): { name: string; message: string; code: unknown }[] {
  if (!(cause instanceof Error)) return [];
  const code = 'code' in cause ? cause.code : undefined;
  return [{ name: cause.name, message: cause.message, code }, ...causesOf(cause)];
}

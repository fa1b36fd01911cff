import { Worker } from 'node:worker_threads';
import { MigrationError, messageOf } from '../../errors.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import { deferred } from '../../util/promises.ts';
import { threadArguments } from '../../util/thread-arguments.ts';
import { usualNiceness } from '../../util/thread-priority.ts';
import type { TapServer, TapServerHandler, TapServerOptions } from './tap-server.ts';

/** What a tap's thread is started with. */
export interface TapThreadData extends TapServerOptions {
  /** One number: how many bytes of guest writes the engine's thread has taken in so far, by {@link waitingBytes}. */
  readonly takenIn: BigInt64Array;
  /** How nice the engine's thread is as a rule, while it does not yield to guests, of which this one is in the path. Undefined: threads have no priority of their own. */
  readonly usual: number | undefined;
}

/** What a tap's thread tells, in order. */
export type FromTapThread =
  | { readonly type: 'listening' }
  | { readonly type: 'failed'; readonly message: string }
  | { readonly type: 'write'; readonly range: ByteRange; readonly content: Uint8Array | 'zero' }
  | { readonly type: 'lost'; readonly range: ByteRange }
  | { readonly type: 'flush' }
  | { readonly type: 'disconnected'; readonly reason: string | undefined };

/** What a write takes while it waits beside its content. */
const overheadBytes = 512;

/** What a write takes while it waits. */
export function waitingBytes({ length }: ByteRange, content: unknown): bigint {
  return BigInt(overheadBytes + (content === 'zero' ? 0 : length));
}

/**
 * Serves a tap in a thread that does nothing else, so that a guest's write does not wait for its turn behind whatever keeps this thread busy.
 *
 * QEMU is answered there at once, and what was written comes here a moment later: in order, and all of it before the flush that says that nothing more is under
 * way. So the handler sees a write after the guest was told, never another one before it; should the thread die with something in it, the tap has a gap. What this
 * thread does not take in for long is not kept without bound: then it is told where, and no more.
 *
 * Rejects with `connect-failed`; then nothing of it is left.
 */
export async function serveTapInThread(
  options: TapServerOptions,
  handler: TapServerHandler,
): Promise<TapServer> {
  const takenIn = new BigInt64Array(new SharedArrayBuffer(8));
  const data: TapThreadData = { ...options, takenIn, usual: usualNiceness() };
  const worker = new Worker(new URL('./qemu-tap.js', import.meta.url), {
    workerData: data,
    name: 'longhaul-tap',
    ...threadArguments(),
  });
  const listening = deferred<void>();
  let closed = false;
  const died = (why: string) => {
    const error = new MigrationError('connect-failed', `the tap's thread ended: ${why}`);
    listening.reject(error);
    if (!closed) handler.disconnected(error);
    closed = true;
  };
  worker.on('error', (error) => died(error.message));
  worker.on('exit', (code) => died(`code ${code}`));
  const take = (message: FromTapThread): void => {
    switch (message.type) {
      case 'listening':
        listening.resolve();
        break;
      case 'failed':
        listening.reject(new MigrationError('connect-failed', message.message));
        break;
      case 'write': {
        const { range, content } = message;
        void handler.write(range, content === 'zero' ? content : [content]);
        Atomics.add(takenIn, 0, waitingBytes(range, content));
        break;
      }
      case 'lost':
        handler.lost(message.range);
        break;
      case 'flush':
        handler.flush();
        break;
      case 'disconnected':
        handler.disconnected(
          message.reason === undefined ? undefined : new MigrationError('hypervisor', message.reason),
        );
    }
  };
  worker.on('message', (message: FromTapThread) => {
    if (closed) return;
    try {
      take(message);
    } catch (error) {
      // What it had to say is lost with it.
      died(messageOf(error));
    }
  });
  const close = async () => {
    closed = true;
    await worker.terminate();
  };
  try {
    await listening.promise;
  } catch (error) {
    await close();
    throw error;
  }
  return { close };
}

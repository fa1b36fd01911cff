/** A tap's thread, whole: it answers QEMU's mirror, and hands on what it wrote. */
import { parentPort, workerData } from 'node:worker_threads';
import { messageOf } from '../../errors.ts';
import type { ByteRange, Content } from '../../interfaces/content.ts';
import { callingThread, setNiceness } from '../../util/thread-priority.ts';
import { serveTap } from './tap-server.ts';
import { type FromTapThread, type TapThreadData, waitingBytes } from './tap-thread.ts';

/** A guest's write waits for this thread, and takes it little: so it goes ahead of others. */
const ahead = 10;
/** Guest writes that may wait for the engine's thread. It takes them in within milliseconds, unless it hangs. */
const waitingBytesMax = 64n << 20n;
/** What was lost is told within so long, also of a guest that writes nothing more: else its disk would seem to be copied. */
const tellLostMs = 100;

const { takenIn, usual, ...options } = workerData as TapThreadData;
let handedOn = 0n;
/** Where writes were that could not be kept: told as one range, before anything that comes after them. */
let lost: { from: number; to: number } | undefined;

function post(message: FromTapThread, transfer: ArrayBuffer[] = []): void {
  parentPort?.postMessage(message, transfer);
}

function lose({ offset, length }: ByteRange): void {
  if (lost === undefined) setTimeout(tellLost, tellLostMs);
  const { from, to } = lost ?? { from: offset, to: offset };
  lost = { from: Math.min(from, offset), to: Math.max(to, offset + length) };
}

function tellLost(): void {
  if (lost === undefined) return;
  const { from, to } = lost;
  lost = undefined;
  post({ type: 'lost', range: { offset: from, length: to - from } });
}

function write(range: ByteRange, content: Content): undefined {
  if (handedOn - Atomics.load(takenIn, 0) > waitingBytesMax) {
    lose(range);
    return undefined;
  }
  tellLost();
  handedOn += waitingBytes(range, content);
  if (content === 'zero') post({ type: 'write', range, content });
  else {
    // In memory of its own, which goes over as it is: what came may lie in a buffer with others.
    const own = new Uint8Array(range.length);
    let at = 0;
    for (const chunk of content) {
      own.set(chunk, at);
      at += chunk.byteLength;
    }
    post({ type: 'write', range, content: own }, [own.buffer]);
  }
  return undefined;
}

function goAhead(): void {
  const thread = callingThread();
  if (thread === undefined || usual === undefined) return;
  // Who may not go ahead may go back to where it belongs: the engine's thread, which started this one, would not yield else.
  if (!setNiceness(thread.id, usual - ahead)) setNiceness(thread.id, usual);
}

goAhead();
try {
  await serveTap(options, {
    write,
    lost: lose,
    flush: () => {
      tellLost();
      post({ type: 'flush' });
    },
    disconnected: (reason) => post({ type: 'disconnected', reason: reason?.message }),
  });
  post({ type: 'listening' });
} catch (error) {
  post({ type: 'failed', message: messageOf(error) });
}

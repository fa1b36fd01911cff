import type { Chunks } from '../interfaces/content.ts';
import { type FrameClass, frameClasses, type OutgoingFrame } from '../wire/frame.ts';
import { creditOf } from '../wire/item.ts';
import { framePayloadBytesMax, numbersAheadMax } from '../wire/limits.ts';

/** A data frame on its way, with what is done when the peer has it. While it waits its payload may become shorter, once: see `compressor.ts`. */
export interface QueuedFrame extends OutgoingFrame {
  readonly class: FrameClass;
  payload: Chunks;
  payloadBytes: number;
  payloadCrc: number;
  /** Its payload's bytes, uncompressed: what it takes of its stream's credit goes by them. */
  readonly itemBytes: number;
  /** When it was queued. */
  readonly queuedMs: number;
  /** Called once, when the peer has received the frame: its content may change again. */
  release: () => void;
  /** The peer has it already, from a copy over another lane. */
  readonly hasArrived?: boolean;
}

/**
 * How the classes share the link when all want it: mirror 5 : memory 3 : bulk 2. Mirrored writes go first because a guest's
 * disk is behind them and they are few; none gets less than a fifth, well above the tenth below which a class could be
 * taken for stuck.
 */
const weights: Readonly<Record<FrameClass, number>> = { mirror: 5, memory: 3, bulk: 2 };

interface StreamQueue {
  readonly stream: number;
  /** Frames wait here in the order of their numbers, class by class. */
  readonly frames: Record<FrameClass, QueuedFrame[]>;
  /** Credit used over weight, per class: whose turn the stream's credit is. */
  readonly virtual: Record<FrameClass, number>;
  /** As the scheduler's own, for the stream's classes alone. */
  clock: number;
  usedBytes: number;
  creditBytes: number;
  /** Of it, given back. */
  returnedBytes: number;
  /** What was granted first: so much is never given back. */
  firstBytes: number;
  /** The least that was left since {@link Scheduler.giveBack}. */
  leastUnusedBytes: number;
  /** Every number up to this one has been applied by the peer. */
  applied: number;
}

/**
 * How far a class that cannot send, for want of credit, may fall behind the others, in bytes over weight. More than a frame ever takes, so
 * that it changes nothing while all can; and not more, for when it can again it makes up for it, and nobody else sends meanwhile.
 */
const arrearsMax = framePayloadBytesMax;

/**
 * Which frame goes next: weighted fair queueing over the classes, in turn over the streams of a class, and nothing of a stream that
 * has no credit. Pure: no I/O, no clock.
 *
 * A stream's credit is shared between its classes as the link is. When it comes in small steps, as from a slow disk, a large bulk frame would
 * never fit if small mirrored writes took each step for themselves. So a frame must leave room for those whose turn comes before it:
 * they wait until theirs fits, and the others with them.
 */
export class Scheduler {
  readonly #streams = new Map<number, StreamQueue>();
  /** Bytes sent over weight, per class: the smallest goes next. */
  readonly #virtual: Record<FrameClass, number> = { mirror: 0, memory: 0, bulk: 0 };
  /** The virtual time that the last frame was sent at: where a class that was idle joins in. */
  #clock = 0;
  readonly #active: Record<FrameClass, StreamQueue[]> = { mirror: [], memory: [], bulk: [] };
  #queuedBytes = 0;

  /** Payload bytes that wait, all streams together. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  #queueOf(stream: number): StreamQueue {
    let queue = this.#streams.get(stream);
    if (queue === undefined) {
      queue = {
        stream,
        frames: { mirror: [], memory: [], bulk: [] },
        virtual: { mirror: 0, memory: 0, bulk: 0 },
        clock: 0,
        usedBytes: 0,
        creditBytes: 0,
        returnedBytes: 0,
        firstBytes: 0,
        leastUnusedBytes: 0,
        applied: 0,
      };
      this.#streams.set(stream, queue);
    }
    return queue;
  }

  enqueue(frame: QueuedFrame): void {
    const queue = this.#queueOf(frame.stream);
    const active = this.#active[frame.class];
    if (active.length === 0) {
      this.#virtual[frame.class] = Math.max(this.#virtual[frame.class], this.#clock);
    }
    if (queue.frames[frame.class].length === 0) {
      active.push(queue);
      queue.virtual[frame.class] = Math.max(queue.virtual[frame.class], queue.clock);
    }
    queue.frames[frame.class].push(frame);
    this.#queuedBytes += frame.payloadBytes;
  }

  /** A frame that waits here has become so much shorter. */
  shrunk(bytes: number): void {
    this.#queuedBytes -= bytes;
  }

  /** The stream may have used `creditBytes` in all, and every number up to `applied` is applied. Neither ever shrinks. */
  grant(stream: number, creditBytes: number, applied: number): void {
    const queue = this.#queueOf(stream);
    queue.creditBytes = Math.max(queue.creditBytes, creditBytes);
    queue.firstBytes ||= creditBytes;
    queue.applied = Math.max(queue.applied, applied);
  }

  /**
   * Gives back the credit that was left all the time since the last call, but for as much as was granted first. True if there was any. To be
   * called no oftener than once a round trip, for what is left within one says nothing.
   */
  giveBack(): boolean {
    let gaveBack = false;
    for (const queue of this.#streams.values()) {
      const bytes = queue.leastUnusedBytes - queue.firstBytes;
      if (bytes > 0) {
        queue.returnedBytes += bytes;
        gaveBack = true;
      }
      queue.leastUnusedBytes = unusedBytes(queue);
    }
    return gaveBack;
  }

  /** What each stream has given back in all, if anything. */
  returned(): readonly { readonly stream: number; readonly bytes: number }[] {
    const all = [...this.#streams.values()].map(({ stream, returnedBytes }) => ({
      stream,
      bytes: returnedBytes,
    }));
    return all.filter(({ bytes }) => bytes > 0);
  }

  /** Whether something of the stream waits, and none of it may be sent before the peer has applied more. */
  isHeld(stream: number): boolean {
    const queue = this.#streams.get(stream);
    if (queue === undefined) return false;
    const waits = frameClasses.some((frameClass) => queue.frames[frameClass].length > 0);
    return waits && !frameClasses.some((frameClass) => maySend(queue, frameClass));
  }

  /** The frame to send now, taken out of its queue; undefined if nothing waits that has credit. */
  next(): QueuedFrame | undefined {
    let best: FrameClass | undefined;
    let bestQueue = -1;
    for (const frameClass of frameClasses) {
      const index = this.#active[frameClass].findIndex((queue) => maySend(queue, frameClass));
      if (index < 0) continue;
      if (best === undefined || this.#virtual[frameClass] < this.#virtual[best]) {
        best = frameClass;
        bestQueue = index;
      }
    }
    return best === undefined ? undefined : this.#take(best, bestQueue);
  }

  #take(frameClass: FrameClass, index: number): QueuedFrame | undefined {
    const active = this.#active[frameClass];
    const [queue] = active.splice(index, 1);
    const frame = queue?.frames[frameClass].shift();
    if (queue === undefined || frame === undefined) return undefined;
    if (queue.frames[frameClass].length > 0) active.push(queue);
    const creditBytes = creditOf(frame.itemBytes);
    queue.usedBytes += creditBytes;
    queue.leastUnusedBytes = Math.min(queue.leastUnusedBytes, unusedBytes(queue));
    queue.clock = queue.virtual[frameClass];
    queue.virtual[frameClass] += creditBytes / weights[frameClass];
    this.#queuedBytes -= frame.payloadBytes;
    this.#clock = this.#virtual[frameClass];
    this.#virtual[frameClass] += frame.payloadBytes / weights[frameClass];
    for (const other of frameClasses) {
      this.#virtual[other] = Math.max(this.#virtual[other], this.#clock - arrearsMax);
    }
    return frame;
  }

  /** Takes out everything, for instance to let go of it when the channel failed. */
  drain(): readonly QueuedFrame[] {
    const frames: QueuedFrame[] = [];
    for (const queue of this.#streams.values()) {
      for (const frameClass of frameClasses) {
        // One by one: there can be more than a call takes arguments.
        for (const frame of queue.frames[frameClass].splice(0)) frames.push(frame);
      }
    }
    for (const frameClass of frameClasses) this.#active[frameClass].length = 0;
    this.#queuedBytes = 0;
    return frames;
  }
}

/**
 * The class's next frame, if it may be sent as far as numbers go. The lowest number that was not sent always may, so a gap that holds up all
 * others closes.
 */
function nextOf(queue: StreamQueue, frameClass: FrameClass): QueuedFrame | undefined {
  const [first] = queue.frames[frameClass];
  return first !== undefined && first.number <= queue.applied + numbersAheadMax ? first : undefined;
}

function unusedBytes({ creditBytes, returnedBytes, usedBytes }: StreamQueue): number {
  return creditBytes - returnedBytes - usedBytes;
}

/** There is credit for the class's next frame, and for those whose turn comes before it. */
function maySend(queue: StreamQueue, frameClass: FrameClass): boolean {
  const frame = nextOf(queue, frameClass);
  if (frame === undefined) return false;
  const leftBytes = unusedBytes(queue) - creditOf(frame.itemBytes);
  if (leftBytes < 0) return false;
  // The common case, and it is asked for every frame: there is room for whatever waits.
  if (leftBytes >= framePayloadBytesMax) return true;
  for (const other of frameClasses) {
    if (queue.virtual[other] >= queue.virtual[frameClass]) continue;
    const before = nextOf(queue, other);
    if (before !== undefined && creditOf(before.itemBytes) > leftBytes) return false;
  }
  return true;
}

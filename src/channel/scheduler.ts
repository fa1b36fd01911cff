import { type FrameClass, frameClasses, type OutgoingFrame } from '../wire/frame.ts';

/** A data frame on its way, with what is done when the peer has it. */
export interface QueuedFrame extends OutgoingFrame {
  readonly class: FrameClass;
  /** Called once, when the peer has received the frame: its content may change again. */
  readonly release: () => void;
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
  sentBytes: number;
  creditBytes: number;
}

/**
 * Which frame goes next: weighted fair queueing over the classes, in turn over the streams of a class, and nothing of a stream that
 * has no credit. Pure: no I/O, no clock.
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
      queue = { stream, frames: { mirror: [], memory: [], bulk: [] }, sentBytes: 0, creditBytes: 0 };
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
    if (queue.frames[frame.class].length === 0) active.push(queue);
    queue.frames[frame.class].push(frame);
    this.#queuedBytes += frame.payloadBytes;
  }

  /** The stream may have sent `creditBytes` of payload in all. Credit never shrinks. */
  grant(stream: number, creditBytes: number): void {
    const queue = this.#queueOf(stream);
    queue.creditBytes = Math.max(queue.creditBytes, creditBytes);
  }

  /** The frame to send now, taken out of its queue; undefined if nothing waits that has credit. */
  next(): QueuedFrame | undefined {
    let best: FrameClass | undefined;
    let bestQueue = -1;
    for (const frameClass of frameClasses) {
      const index = this.#active[frameClass].findIndex((queue) => hasCredit(queue, frameClass));
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
    queue.sentBytes += frame.payloadBytes;
    this.#queuedBytes -= frame.payloadBytes;
    this.#clock = this.#virtual[frameClass];
    this.#virtual[frameClass] += frame.payloadBytes / weights[frameClass];
    return frame;
  }

  /** Takes out everything, for instance to let go of it when the channel failed. */
  drain(): readonly QueuedFrame[] {
    const frames: QueuedFrame[] = [];
    for (const queue of this.#streams.values()) {
      for (const frameClass of frameClasses) frames.push(...queue.frames[frameClass].splice(0));
    }
    for (const frameClass of frameClasses) this.#active[frameClass].length = 0;
    this.#queuedBytes = 0;
    return frames;
  }
}

function hasCredit(queue: StreamQueue, frameClass: FrameClass): boolean {
  const [first] = queue.frames[frameClass];
  return first !== undefined && queue.sentBytes + first.payloadBytes <= queue.creditBytes;
}

import type { LaneStatistics } from '../interfaces/migration.ts';
import { connectionsMax, itemContentBytesMax } from '../wire/limits.ts';
import type { LanePosition } from '../wire/positions.ts';
import { allDeliveredMs, type LaneOutlook } from './all-delivered.ts';
import { lateAfterMs } from './flight.ts';
import type { Lane } from './lane.ts';
import type { QueuedFrame } from './scheduler.ts';

/** A lane's number is 16 bits of its greeting. */
const indexMax = 0xffff;

/**
 * For how long a frame should keep a lane, in ms: nothing is known of one that is half there, and where many lanes carry little each, large ones
 * would need as much memory.
 */
const frameMs = 100;
/** And where little waits: the other lanes would have nothing meanwhile. */
const frameMsFew = 2;
/** Items are not made smaller than this, which costs little more than larger ones do ... */
const itemBytesMin = 128 << 10;
/**
 * ... but where little waits and the network loses packets: of what a lane carries lately in a quarter of a round trip, or in so many ms, and no smaller than this; units of content, pages or regions of a disk, stay whole. A larger one would be on its way for
 * several round trips on a connection that lost packets have slowed, with other lanes idle beside it, and more of them would meet a lost packet.
 */
const slowLaneRoundTrips = 1 / 4;
const slowLaneMsMin = 25;
const itemBytesLeast = 16 << 10;
/** With less that waits items are small: half of what a stream lets wait (`queueBytesMax` in send-stream.ts). */
const queuedBytesLarge = 2 << 20;

/** An outlook is good for so long, if nothing was sent or acknowledged meanwhile: all lanes look when there may be something to do. */
const outlookMs = 1;

/** When the lanes together would have delivered what is on their way and all that waits; and the first of them to have delivered what it has. */
interface Outlook {
  readonly queuedBytes: number;
  readonly nowMs: number;
  readonly first: Lane | undefined;
  readonly allMs: number;
}

/** What items are to go over: how fast they go out at the most, and whether the network loses packets by itself. */
interface ItemLink {
  readonly bytesPerSecond: number;
  readonly loses: boolean;
}

/** The lanes of a channel, and how they share what is to be sent. */
export class LaneSet {
  readonly #windowBytesMax: number;
  readonly #paths: number;
  readonly #lanes = new Map<number, Lane>();
  /** Undefined: to be gathered again. */
  #all: readonly Lane[] | undefined;
  #open: readonly Lane[] | undefined;
  /** Numbers that were used, past and present. */
  readonly #used = new Set<number>();
  /** Lanes that were lost, until it is known what the peer has of theirs. */
  readonly #lost = new Map<number, Lane>();
  /** What has to be sent once more. */
  #again: QueuedFrame[] = [];
  #againBytes = 0;
  /** What had arrived on lanes that are no more, by lane, oldest first: the peer may not know. */
  readonly #ended = new Map<number, number>();
  #endedUntold = false;
  /** What went over lanes that are no more. */
  #goneBytes = 0;
  /** What all open lanes would take on their way; undefined: to be summed up again. */
  #wantedBytes: number | undefined;
  /** What is on its way on all lanes; undefined: to be summed up again. */
  #onLanesBytes: number | undefined;
  #outlook: Outlook | undefined;

  constructor(windowBytesMax: number, paths: number) {
    this.#windowBytesMax = windowBytesMax;
    this.#paths = paths;
  }

  /** All there are, those too that end once the peer has what was sent on them. */
  get all(): readonly Lane[] {
    this.#all ??= [...this.#lanes.values()];
    return this.#all;
  }

  /** Those that take frames. */
  get open(): readonly Lane[] {
    this.#open ??= this.all.filter(({ retired }) => !retired);
    return this.#open;
  }

  /** Sent, and not known to have arrived. */
  get inFlightBytes(): number {
    let bytes = this.onLanesBytes;
    for (const lane of this.#lost.values()) bytes += lane.inFlightBytes;
    return bytes;
  }

  /** ... on lanes that are there. */
  get onLanesBytes(): number {
    if (this.#onLanesBytes === undefined) {
      this.#onLanesBytes = 0;
      for (const lane of this.#lanes.values()) this.#onLanesBytes += lane.inFlightBytes;
    }
    return this.#onLanesBytes;
  }

  /** Payload that is to be sent once more. */
  get againBytes(): number {
    return this.#againBytes;
  }

  /** What has arrived, lane by lane. */
  get received(): readonly LanePosition[] {
    return this.all.map(({ index, receivedSequence }) => ({ lane: index, sequence: receivedSequence }));
  }

  /** ... and what had on lanes that ended lately: if any did since this was asked last, or in any case. */
  receivedBefore(inAnyCase: boolean): readonly LanePosition[] {
    if (!inAnyCase && !this.#endedUntold) return [];
    this.#endedUntold = false;
    return [...this.#ended].map(([lane, sequence]) => ({ lane, sequence }));
  }

  get wireBytes(): number {
    let bytes = this.#goneBytes;
    for (const lane of this.#lanes.values()) bytes += lane.bytesSent + lane.bytesReceived;
    return bytes;
  }

  get statistics(): readonly LaneStatistics[] {
    const statistics = this.all.map(({ index, window, bytesSent, bytesReceived, inFlightBytes }) => ({
      lane: index,
      path: index % this.#paths,
      wireBytes: bytesSent + bytesReceived,
      bytesPerSecond: window.bytesPerSecond,
      roundTripMs: window.greetingMs,
      inFlightBytes,
    }));
    return statistics.sort((a, b) => a.lane - b.lane);
  }

  has(lane: Lane): boolean {
    return this.#lanes.get(lane.index) === lane;
  }

  /** The lane of that number, also one that was lost and of which something may have arrived. */
  get(index: number): Lane | undefined {
    return this.#lanes.get(index) ?? this.#lost.get(index);
  }

  /** Whether a lane of this number was there once. */
  knew(index: number): boolean {
    return this.#used.has(index);
  }

  /** A number for a further lane, which is used up by that; undefined if there is none. */
  newIndex(): number | undefined {
    const index = this.#used.size === 0 ? 1 : Math.max(...this.#used) + 1;
    if (index > indexMax) return undefined;
    this.#used.add(index);
    return index;
  }

  /** Whether a lane that the peer opened may be added. */
  takes(index: number): boolean {
    return !this.#used.has(index) && this.#lanes.size < connectionsMax;
  }

  add(lane: Lane): void {
    this.#used.add(lane.index);
    this.#lanes.set(lane.index, lane);
    this.#regather();
  }

  /** It takes no more frames. */
  retire(lane: Lane): void {
    lane.retire();
    this.#regather();
  }

  #regather(): void {
    this.#all = undefined;
    this.#open = undefined;
    this.changed();
  }

  /** Its connection is over. What the peer may not have of it is kept until {@link LaneSet.settle}. */
  remove(lane: Lane): void {
    this.#lanes.delete(lane.index);
    this.retire(lane);
    this.#goneBytes += lane.bytesSent + lane.bytesReceived;
    if (lane.inFlightBytes > 0) this.#lost.set(lane.index, lane);
    this.#ended.set(lane.index, lane.receivedSequence);
    this.#endedUntold = true;
    const [oldest] = this.#ended.keys();
    if (this.#ended.size > connectionsMax && oldest !== undefined) this.#ended.delete(oldest);
  }

  /** What the peer has of lost lanes is known as well as it will be: the rest is to be sent once more. Returns how many bytes that is. */
  settle(): number {
    const frames = [...this.#lost.values()].flatMap((lane) => lane.takeKept());
    this.#lost.clear();
    this.#again = this.#again.concat(frames);
    const bytes = frames.reduce((sum, { payloadBytes }) => sum + payloadBytes, 0);
    this.#againBytes += bytes;
    return bytes;
  }

  /** The next frame that is to be sent once more, if any. */
  nextAgain(): QueuedFrame | undefined {
    for (;;) {
      const frame = this.#again.shift();
      if (frame === undefined) return undefined;
      this.#againBytes -= frame.payloadBytes;
      if (frame.hasArrived !== true) return frame;
      frame.release();
    }
  }

  /** Takes out every frame that the peer may not have. */
  takeKept(): readonly QueuedFrame[] {
    this.settle();
    this.#againBytes = 0;
    const frames = this.#again.splice(0).concat(this.all.flatMap((lane) => lane.takeKept()));
    this.changed();
    return frames;
  }

  /** By how much the oldest frame is late on the lane that holds it up most, in ms; less than 0 if none is. */
  lateMs(nowMs: number, roundTripMs: number): number {
    let lateMs = Number.NEGATIVE_INFINITY;
    for (const { oldestSentMs, window } of this.all) {
      if (oldestSentMs === undefined) continue;
      lateMs = Math.max(
        lateMs,
        nowMs - oldestSentMs - lateAfterMs(Math.max(roundTripMs, window.roundTripMs)),
      );
    }
    return lateMs;
  }

  /** What part of the lanes that have started holds up a frame that was sent before that time. */
  lateShare(beforeMs: number): number {
    const started = this.all.filter(({ window }) => window.hasStarted);
    return started.filter((lane) => lane.isLate(beforeMs)).length / Math.max(1, started.length);
  }

  /** Something was sent or acknowledged. */
  changed(): void {
    this.#onLanesBytes = undefined;
    this.#wantedBytes = undefined;
    this.#outlook = undefined;
  }

  /**
   * What an item should carry at the most, with `queuedBytes` waiting: 128 KiB, 256, 512 or 1024, by what a lane carries in a tenth of a second, or, where little
   * waits, in 2 ms, and then down to 16 KiB where lost packets slow lanes; and no more than the link is to carry in 2 ms, if that is told: each goes out in one burst.
   */
  itemBytesMax(
    queuedBytes: number,
    { bytesPerSecond: linkBytesPerSecond, loses }: ItemLink = {
      bytesPerSecond: Number.POSITIVE_INFINITY,
      loses: false,
    },
  ): number {
    const few = queuedBytes < queuedBytesLarge;
    const { open } = this;
    let bytesPerSecond = 0;
    let slowBytes = 0;
    for (const { window } of open) {
      bytesPerSecond += window.bytesPerSecond;
      slowBytes +=
        (window.bytesPerSecond * Math.max(slowLaneMsMin, slowLaneRoundTrips * window.roundTripMs)) / 1000;
    }
    const lanes = Math.max(1, open.length);
    const laneBytes = Math.min(
      (bytesPerSecond * (few ? frameMsFew : frameMs)) / 1000 / lanes,
      (linkBytesPerSecond * frameMsFew) / 1000,
    );
    let bytes = itemBytesMin;
    if (few && loses && slowBytes > 0) while (bytes > itemBytesLeast && bytes > slowBytes / lanes) bytes /= 2;
    while (2 * bytes <= Math.min(laneBytes, itemContentBytesMax)) bytes *= 2;
    return bytes;
  }

  /** What may be on its way on a lane: what it would take, or its share of what is allowed for all. */
  windowOf(lane: Lane): number {
    if (this.#wantedBytes === undefined) {
      this.#wantedBytes = 0;
      for (const { window } of this.open) this.#wantedBytes += window.bytes;
    }
    return lane.window.bytes * Math.min(1, this.#windowBytesMax / this.#wantedBytes);
  }

  /**
   * Whether the others would have delivered all that waits, `queuedBytes`, before this one delivers what is on its way already. Then what waits is
   * left to them. The lane that is the first to deliver what it has is never slow, so there is always one that takes it. One of which nothing
   * was heard for long is slow wherever another one is alive.
   */
  isSlow(lane: Lane, queuedBytes: number, nowMs: number): boolean {
    let outlook = this.#outlook;
    if (outlook?.queuedBytes !== queuedBytes || nowMs - outlook.nowMs >= outlookMs) {
      outlook = this.#look(queuedBytes, nowMs);
      this.#outlook = outlook;
    }
    const { window, inFlightBytes } = lane;
    const silent = window.bytesPerSecond > 0 && inFlightBytes > 0;
    const unknownMs = silent ? Number.POSITIVE_INFINITY : window.roundTripMs / 2;
    const mineMs = window.deliveryMs(inFlightBytes, nowMs) ?? unknownMs;
    return lane !== outlook.first && outlook.allMs < mineMs;
  }

  #look(queuedBytes: number, nowMs: number): Outlook {
    const known: (LaneOutlook & { readonly lane: Lane })[] = [];
    for (const lane of this.open) {
      const ms = lane.window.deliveryMs(lane.inFlightBytes, nowMs);
      if (ms !== undefined) known.push({ lane, ms, bytesPerMs: lane.window.bytesPerSecond / 1000 });
    }
    known.sort((a, b) => a.ms - b.ms);
    return { queuedBytes, nowMs, first: known[0]?.lane, allMs: allDeliveredMs(known, queuedBytes) };
  }
}

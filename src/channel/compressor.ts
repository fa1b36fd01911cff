/**
 * Compresses what waits for the link, while it waits.
 *
 * ```
 * push() ─► Scheduler: [ frame ][ frame ][ frame ] ─► lanes
 *                                            ▲ what came last, first: it waits longest
 *                                            └ codec, off this thread
 * ```
 *
 * A frame has its number, its digest and its place before anything is compressed, and goes as it is if its turn comes earlier. So compression delays nothing, changes no
 * order and needs no rule of its own for the stun: of what does not wait nothing is compressed. Mirrored writes never are.
 *
 * The codec reads content where it lies. So whoever lent it has it back no earlier than the call ends; and then at once, if what came of it travels instead.
 */
import type { Codec, Environment } from '../interfaces/environment.ts';
import { crc32cOfChunks } from '../util/checksum.ts';
import { chunksLength, joinChunks, sliceChunks } from '../util/chunks.ts';
import { contentOf, encodeCompressed } from '../wire/item.ts';
import { stateStream } from '../wire/messages.ts';
import { CompressionCount } from './compression-count.ts';
import { CompressionRule, type CompressionVerdict } from './compression-rule.ts';
import type { QueuedFrame } from './scheduler.ts';

interface Untried {
  readonly frame: QueuedFrame;
  readonly contentBytes: number;
  /** What has left in all when its turn comes. */
  readonly turnBytes: number;
}

export interface CompressorOptions {
  readonly codec: Codec;
  readonly environment: Environment;
  /** What the link carries, in bytes a second, as far as that is known, and what waits for it. */
  readonly link: () => { readonly bytesPerSecond: number | undefined; readonly queuedBytes: number };
  /** A frame that waits has become so much shorter. */
  readonly shrunk: (frame: QueuedFrame, bytes: number) => void;
}

/** Items with less content are not worth the call. */
const contentBytesMin = 16 << 10;
/** So much of an item tells whether it shrinks. */
const sampleBytes = 64 << 10;
/** What left lately counts for {@link Compressor.gain}, half of what was before. */
const recentBytes = 16 << 20;

/** See the top of this file. */
export class Compressor {
  readonly count: CompressionCount;
  readonly #options: CompressorOptions;
  readonly #rule: CompressionRule;
  /** Frames that wait and were not tried, oldest first. */
  readonly #untried: Untried[] = [];
  /** Frames that a call is out for, and that wait still. */
  readonly #waiting = new Set<QueuedFrame>();
  readonly #calls = new Set<Promise<void>>();
  /** One sample at a time: the next is for what it shows. */
  #sampling = false;
  #over = false;
  #leftBytes = 0;
  #recentItemBytes = 0;
  #recentBytes = 0;

  constructor(options: CompressorOptions) {
    this.#options = options;
    this.#rule = new CompressionRule(options.codec.callsMax);
    this.count = new CompressionCount(options.codec.name);
  }

  /** How much more the link carries of what was sent lately than it would without compression: 1 and up. */
  get gain(): number {
    return this.#recentBytes === 0 ? 1 : this.#recentItemBytes / this.#recentBytes;
  }

  /** A frame waits from now on. */
  offer(frame: QueuedFrame): void {
    if (this.#over || frame.class === 'mirror' || frame.stream === stateStream) return;
    const contentBytes = chunksLength(contentOf(frame.payload));
    if (contentBytes < contentBytesMin) return;
    const aheadBytes = this.#options.link().queuedBytes - frame.payloadBytes;
    this.#untried.push({ frame, contentBytes, turnBytes: this.#leftBytes + aheadBytes });
    this.#next();
  }

  /** A frame leaves the queue, as it is now. */
  left(frame: QueuedFrame): void {
    this.#leftBytes += frame.payloadBytes;
    if (frame.class === 'mirror') return;
    if (!this.#waiting.delete(frame)) {
      const index = this.#untried.findIndex((untried) => untried.frame === frame);
      if (index >= 0) this.#untried.splice(index, 1);
    }
    if (this.#recentItemBytes > recentBytes) {
      this.#recentItemBytes /= 2;
      this.#recentBytes /= 2;
    }
    this.#recentItemBytes += frame.itemBytes;
    this.#recentBytes += frame.payloadBytes;
    // What is known of the link may have changed since the last was offered.
    this.#next();
  }

  /** Nothing waits any more, nor will. */
  stop(): void {
    this.#over = true;
    this.#untried.length = 0;
    this.#waiting.clear();
  }

  /** Resolves when no call is out. */
  async idle(): Promise<void> {
    await Promise.all(this.#calls);
  }

  #next(): void {
    while (!this.#over && this.#calls.size < this.#options.codec.callsMax) {
      const last = this.#untried.at(-1);
      if (last === undefined) return;
      const verdict = this.#verdict(last);
      if (verdict === 'no' || (verdict === 'sample' && this.#sampling)) return;
      this.#untried.pop();
      this.#waiting.add(last.frame);
      const call = this.#call(last, verdict)
        // A codec that fails costs no migration: all goes as it is.
        .catch(() => this.stop())
        .finally(() => {
          this.#calls.delete(call);
          this.#next();
        });
      this.#calls.add(call);
    }
  }

  #verdict({ frame, contentBytes, turnBytes }: Untried): CompressionVerdict {
    const { environment, link } = this.#options;
    const { bytesPerSecond, queuedBytes } = link();
    // Others before it may have become shorter, and what is not there any more is not before it.
    const aheadBytes = Math.min(turnBytes - this.#leftBytes, queuedBytes - frame.payloadBytes);
    return this.#rule.verdict({
      nowMs: environment.now(),
      bytesPerSecond,
      aheadBytes,
      itemBytes: contentBytes,
    });
  }

  async #call(untried: Untried, verdict: Exclude<CompressionVerdict, 'no'>): Promise<void> {
    const { frame } = untried;
    const letGo = keep(frame);
    const whole = verdict === 'compress';
    this.#sampling ||= !whole;
    try {
      const content = contentOf(frame.payload);
      const data = joinChunks(whole ? content : sliceChunks(content, 0, sampleBytes));
      const { compressed, useful } = await this.#compress(data, whole);
      if (!useful || !this.#waiting.delete(frame)) return;
      if (whole) this.#replace(frame, compressed, data.byteLength);
      else this.#goBack(untried);
    } finally {
      this.#waiting.delete(frame);
      this.#sampling &&= whole;
      letGo();
    }
  }

  async #compress(
    data: Uint8Array,
    whole: boolean,
  ): Promise<{ readonly compressed: Uint8Array; readonly useful: boolean }> {
    const { codec, environment } = this.#options;
    const beganMs = environment.now();
    const compressed = await codec.compress(data);
    const nowMs = environment.now();
    const tookMs = nowMs - beganMs;
    this.count.took(tookMs);
    const result = { nowMs, inputBytes: data.byteLength, outputBytes: compressed.byteLength, tookMs };
    return { compressed, useful: whole ? this.#rule.compressed(result) : this.#rule.sampled(result) };
  }

  /** To its place: others may have come. */
  #goBack(untried: Untried): void {
    const later = this.#untried.findIndex(({ turnBytes }) => turnBytes > untried.turnBytes);
    this.#untried.splice(later < 0 ? this.#untried.length : later, 0, untried);
  }

  /** Its content is nobody's any more but the copy's. */
  #replace(frame: QueuedFrame, compressed: Uint8Array, contentBytes: number): void {
    const { release } = frame;
    const payload = encodeCompressed(frame.payload, compressed);
    const payloadBytes = chunksLength(payload);
    const savedBytes = frame.payloadBytes - payloadBytes;
    frame.payload = payload;
    frame.payloadBytes = payloadBytes;
    frame.payloadCrc = crc32cOfChunks(payload);
    frame.release = () => {};
    this.count.compressed(contentBytes, compressed.byteLength);
    this.#options.shrunk(frame, savedBytes);
    release();
  }
}

/** Keeps the frame's content from being released until the function that is returned is called. */
function keep(frame: QueuedFrame): () => void {
  const { release } = frame;
  let kept = true;
  let due = false;
  frame.release = () => {
    if (kept) due = true;
    else release();
  };
  return () => {
    kept = false;
    if (due) release();
  };
}

/**
 * What a link carries, seen by sending data over it that the destination throws away.
 *
 * ```
 * source ── probe ──► destination          instead of prepare
 *        ══ stream ══► thrown away          until the rate is steady
 *        ── bye ────►                       the destination waits for the next source
 * ```
 */
import type { Channel } from '../../channel/channel.ts';
import { CreditPool } from '../../channel/credit-pool.ts';
import { asMigrationError, MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { delay, raceAbort, withTimeout } from '../../util/promises.ts';
import { memoryStream } from '../../wire/messages.ts';

/**
 * A rate that has grown by less, look after look, is what the link carries; looks in which nothing arrived say nothing. Not before it was seen for so long, in ms and
 * round trips: connections begin slowly.
 */
const steadyGrowth = 1.05;
const steadyLooks = 3;
const steadyMsMin = { least: 600, roundTrips: 8 };
/** Between two looks: at least, and in round trips. */
const lookMs = 100;
const lookRoundTrips = 2;
/** One item: so long on the link, once its rate is about known. Larger ones arrive too seldom for a rate to be seen. */
const itemMs = 10;
const itemBytes = { least: 16 << 10, most: 256 << 10 };
/** Beyond a source's longest measurement by what a slow link may still deliver. */
const probeMsMax = 120_000;
/** How long nothing may be heard of the source, and how long it may take to hang up. */
const silenceMsMax = 5000;
const closeMsMax = 1000;
/** What may be on its way to a destination that throws it away. */
const receiveBytesMax = 256 << 20;
/** All of it is thrown away, and needs no digest. */
const digestKey = 0;

/** What was seen. */
export interface LinkLook {
  readonly bytesPerSecond: number;
  readonly roundTripMs: number;
}

/** The source's side: sends until the rate is steady, for `durationMs` at the most. Rejects when the channel has failed, or the signal is aborted. */
export async function probeLink(
  channel: Channel,
  environment: Environment,
  durationMs: number,
  signal: AbortSignal,
): Promise<LinkLook> {
  const over = new AbortController();
  const stream = channel.openSend(memoryStream, digestKey);
  channel.send({ type: 'probe' });
  const arrived = new Arrivals();
  // What cannot be compressed, so that it is the link that is seen.
  const content = randomBytes(environment, itemBytes.most);
  const sending = (async () => {
    while (!over.signal.aborted) {
      await stream.room();
      if (over.signal.aborted) return;
      const length = itemLength(channel.bytesPerSecond);
      const chunk = content.subarray(0, length);
      const release = () => arrived.add(length);
      stream.push('memory', [{ space: 0, offset: 0, length, content: [chunk] }], release);
    }
  })();
  sending.catch(() => {});
  try {
    const rate = await steadyRate(channel, arrived, environment, durationMs, signal);
    return { bytesPerSecond: rate, roundTripMs: channel.roundTripMs };
  } finally {
    over.abort();
    channel.stopSending(new MigrationError('invalid-state', 'the link was measured'));
  }
}

function itemLength(bytesPerSecond = 0): number {
  return Math.min(itemBytes.most, Math.max(itemBytes.least, Math.floor((bytesPerSecond * itemMs) / 1000)));
}

async function steadyRate(
  channel: Channel,
  arrived: Arrivals,
  environment: Environment,
  durationMs: number,
  signal: AbortSignal,
): Promise<number> {
  const deadlineMs = environment.now() + durationMs;
  let best = 0;
  let steady = 0;
  while (environment.now() < deadlineMs && steady < steadyLooks) {
    const { roundTripMs } = channel;
    const waitMs = Math.max(lookMs, lookRoundTrips * roundTripMs);
    await raceAbort(
      delay(environment, Math.min(waitMs, deadlineMs - environment.now()), channel.signal),
      signal,
    );
    if (!arrived.look(environment.now())) continue;
    const { bytesPerSecond = 0, seenMs } = arrived;
    const counts = seenMs >= Math.max(steadyMsMin.least, steadyMsMin.roundTrips * roundTripMs);
    steady = counts && bytesPerSecond < steadyGrowth * best ? steady + 1 : 0;
    best = Math.max(best, bytesPerSecond);
  }
  const bytesPerSecond = arrived.bytesPerSecond ?? channel.bytesPerSecond;
  if (bytesPerSecond !== undefined) return bytesPerSecond;
  throw new MigrationError('timeout', `in ${durationMs} ms the link carried too little to be measured`);
}

/** What has arrived, as it was seen from look to look. */
export class Arrivals {
  #bytes = 0;
  readonly #looks: { readonly atMs: number; readonly bytes: number }[] = [];

  add(bytes: number): void {
    this.#bytes += bytes;
  }

  /** Whether something has arrived since the last look. */
  look(nowMs: number): boolean {
    const { bytes: before = 0 } = this.#looks.at(-1) ?? {};
    if (this.#bytes === before) return false;
    this.#looks.push({ atMs: nowMs, bytes: this.#bytes });
    return true;
  }

  /** From the first look that saw something to the last, in ms. */
  get seenMs(): number {
    return (this.#looks.at(-1)?.atMs ?? 0) - (this.#looks[0]?.atMs ?? 0);
  }

  /** Over the later half of that time: at first connections are slow. Undefined while less than two looks saw something. */
  get bytesPerSecond(): number | undefined {
    const last = this.#looks.at(-1);
    if (last === undefined) return undefined;
    const halfMs = last.atMs - this.seenMs / 2;
    const from = this.#looks.findLast(({ atMs }) => atMs <= halfMs);
    if (from === undefined || from === last) return undefined;
    return (1000 * (last.bytes - from.bytes)) / (last.atMs - from.atMs);
  }
}

/**
 * The destination's side: takes in and throws away until the source says goodbye, or has gone, or two minutes are over. `again` is called when another source
 * may come, once, before this one is told that all is over. Never rejects.
 */
export async function takeProbe(
  channel: Channel,
  environment: Environment,
  signal: AbortSignal,
  again: () => void,
): Promise<void> {
  // There is nothing to go on with after an outage.
  channel.outlast({ silenceMsMax, outageMsMax: 0 });
  const credit = new CreditPool({
    totalBytes: receiveBytesMax,
    streams: 1,
    now: () => environment.now(),
    roundTripMs: () => channel.roundTripMs,
  });
  const stream = channel.openReceive(memoryStream, digestKey, credit.open(), (item) => stream.applied(item));
  const late = () => new MigrationError('timeout', 'the source does not stop measuring');
  let said = false;
  try {
    await withTimeout(environment, probeMsMax, raceAbort(channel.mailbox.take('bye'), signal), late);
    said = true;
    again();
    await withTimeout(environment, closeMsMax, channel.close(), late);
  } catch (error) {
    channel.abort(asMigrationError(error, 'internal'));
    // Said twice it would throw out who came meanwhile.
    if (!said) again();
  }
}

/** An environment may give few at a time. */
function randomBytes(environment: Environment, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 4096)
    bytes.set(environment.randomBytes(Math.min(4096, length - at)), at);
  return bytes;
}

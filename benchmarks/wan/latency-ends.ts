/**
 * The two ends of a channel that is kept full, with a control message now and then that is answered. To be bundled (bundle.js): the channel is no
 * part of what the library exports.
 */
import { setTimeout } from 'node:timers/promises';
import type { Channel } from '../../src/channel/channel.ts';
import { ChannelAcceptor, connectChannel } from '../../src/channel/connect.ts';
import { CreditPool } from '../../src/channel/credit-pool.ts';
import { resolvePolicy } from '../../src/core/policy.ts';
import { tcp } from '../../src/transports/index.ts';
import { nodeEnvironment as environment } from '../../src/util/node-environment.ts';

/** What an end is told when it is started. */
export interface LatencyTask {
  readonly host: string;
  /** Where the destination listens; for the source. */
  readonly port: number;
  /** What may be on its way at the most. */
  readonly windowBytesMax: number;
  /** Before the first message that counts, in ms. */
  readonly omitMs: number;
  /** From one message to the next, in ms, ... */
  readonly intervalMs: number;
  /** ... and how many. */
  readonly count: number;
}

/** What the source tells. */
export interface LatencyResult {
  /** From each message to its answer, in ms. */
  readonly roundTripsMs: readonly number[];
  readonly bytes: number;
  /** For how long it was sent, until all of it had arrived. */
  readonly ms: number;
}

const { connectMsMax } = resolvePolicy();
const streamId = 1;
const digestKey = 1;
const receiveBytesMax = 256 << 20;
const content = new Uint8Array(1 << 20).map((_, index) => (index * 2_654_435_761) >>> 13);

/** Sends all the time, and asks while it does. */
export async function measureLatency(task: LatencyTask): Promise<LatencyResult> {
  const { host, port, windowBytesMax, omitMs, intervalMs, count } = task;
  const transport = tcp({ connect: { host, port } });
  const channel = await connectChannel({
    environment,
    transport,
    vmId: 'benchmark',
    connections: undefined,
    windowBytesMax,
    limitMs: connectMsMax,
    signal: undefined,
  });
  let asking = true;
  const filled = fill(channel, () => asking);
  await setTimeout(omitMs);
  const answers: Promise<number>[] = [];
  for (let token = 0; token < count; token++) {
    const sentMs = environment.now();
    channel.send({ type: 'flush', token });
    answers.push(channel.mailbox.take('flushed').then(() => environment.now() - sentMs));
    await setTimeout(intervalMs);
  }
  const roundTripsMs = await Promise.all(answers);
  asking = false;
  const { bytes, ms } = await filled;
  await channel.close();
  await transport.close();
  return { roundTripsMs, bytes, ms };
}

async function fill(channel: Channel, goesOn: () => boolean): Promise<{ bytes: number; ms: number }> {
  const stream = channel.openSend(streamId, digestKey);
  // The first message says that there is somebody to send to.
  channel.send({ type: 'flush', token: 0 });
  await channel.mailbox.take('flushed');
  const startMs = environment.now();
  let bytes = 0;
  while (goesOn()) {
    await stream.room();
    const length = stream.itemBytesMax;
    stream.push(
      'memory',
      [{ space: 0, offset: bytes, length, content: [content.subarray(0, length)] }],
      () => {},
    );
    bytes += length;
  }
  await stream.allApplied();
  return { bytes, ms: environment.now() - startMs };
}

/** Applies all that comes and answers what is asked, until the source has closed the channel. */
export async function answer(
  { host, windowBytesMax }: LatencyTask,
  listening: (port: number) => Promise<void>,
): Promise<void> {
  const transport = tcp({ listen: { host, port: 0 } });
  const acceptor = new ChannelAcceptor({
    environment,
    transport,
    windowBytesMax,
    sessions: true,
    greetingMsMax: connectMsMax,
    onQuestion: async ({ connection }) => connection.abort(),
  });
  await listening((await transport.listening()).port);
  const channel = await acceptor.channel(undefined);
  await answerOne(channel);
  const credit = new CreditPool({
    totalBytes: receiveBytesMax,
    streams: 1,
    now: () => environment.now(),
    roundTripMs: () => channel.roundTripMs,
  });
  const stream = channel.openReceive(streamId, digestKey, credit.open(), (item) => stream.applied(item));
  try {
    for (;;) await answerOne(channel);
  } catch {
    // The source has closed it.
  }
  await channel.close();
  await acceptor.close();
  await transport.close();
}

async function answerOne(channel: Channel): Promise<void> {
  const { token } = await channel.mailbox.take('flush');
  channel.send({ type: 'flushed', token, durationMs: 0 });
}

/** Asking the destination who owns a VM, on a connection of its own: one `ask`, one `answer`. */
import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Transport } from '../interfaces/transport.ts';
import { crc32c } from '../util/checksum.ts';
import { joinChunks } from '../util/chunks.ts';
import { raceAbort, withTimeout } from '../util/promises.ts';
import type { IncomingFrame } from '../wire/frame.ts';
import { asGreeted, sessionBytes } from '../wire/greeting.ts';
import { decodeMessage, encodeMessage, type Message, type MessageOf } from '../wire/messages.ts';
import { dial, end, type ProvedConnection } from './handshake.ts';
import { controlFrame, Lane } from './lane.ts';

export interface AskOptions {
  readonly transport: Transport;
  /** The ticket's: see handshake.ts. Default: none. */
  readonly secret?: Uint8Array | undefined;
  readonly environment: Environment;
  readonly vmId: string;
  readonly epoch: number;
  /** For the connection and for the answer, each. */
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

function sendMessage(lane: Lane, message: Message): Promise<void> {
  const payload = encodeMessage(message);
  return lane.send(controlFrame('control', 1, payload, crc32c(payload)));
}

async function nextMessage(frames: AsyncIterator<IncomingFrame>, label: string): Promise<Message> {
  const { done, value: frame } = await frames.next();
  if (done || frame.type !== 'control') {
    throw new MigrationError('protocol', `${label}: no message where one was due`);
  }
  return decodeMessage(joinChunks(frame.payload));
}

/** Asks once. Rejects as {@link dial} does, or with `protocol`; then nothing is known. */
export async function ask(options: AskOptions): Promise<MessageOf<'answer'>['value']> {
  const { transport, secret, environment, vmId, epoch, limitMs, signal } = options;
  const session = environment.randomBytes(sessionBytes);
  const greeted = await dial(transport, {
    purpose: 'question',
    lane: 0,
    session,
    vmId,
    secret,
    environment,
    limitMs,
    signal,
  });
  const lane = new Lane(0, greeted);
  try {
    await sendMessage(lane, { type: 'ask', vmId, epoch });
    const answering = raceAbort(nextMessage(lane.frames(), lane.label), signal);
    const answer = await withTimeout(environment, limitMs, answering, () => {
      return new MigrationError('timeout', `${lane.label}: no answer in time`);
    });
    if (answer.type !== 'answer') throw new MigrationError('protocol', `${lane.label}: not an answer`);
    // In good order: that tells the other end that its answer has arrived.
    await end(greeted.connection, environment);
    return answer.value;
  } catch (error) {
    lane.abort(error);
    throw error;
  }
}

/**
 * Answers the one question of a connection that was let in, and ends it. Resolves to whether the answer was delivered. Does not reject: who
 * asks asks again. `limitMs` is for the question, what is decided, and the asker's thanks together; when the signal is aborted, a question
 * that has not come is not waited for any more.
 */
export async function answer(
  greeted: ProvedConnection,
  environment: Environment,
  limitMs: number,
  decide: (vmId: string, epoch: number) => Promise<MessageOf<'answer'>['value']>,
  signal?: AbortSignal,
): Promise<boolean> {
  const lane = new Lane(0, greeted);
  const frames = lane.frames();
  const respond = async (): Promise<void> => {
    const question = await raceAbort(nextMessage(frames, lane.label), signal);
    if (question.type !== 'ask') throw new MigrationError('protocol', `${lane.label}: not a question`);
    // Proved was the right to ask of the VM that the greeting names.
    if (asGreeted(question.vmId) !== greeted.greeting.vmId) {
      throw new MigrationError('protocol', `${lane.label}: a question about another VM than was greeted for`);
    }
    await sendMessage(lane, { type: 'answer', value: await decide(question.vmId, question.epoch) });
    // The asker ends the connection when it has its answer.
    const { done } = await frames.next();
    if (!done) throw new MigrationError('protocol', `${lane.label}: one question a connection`);
  };
  try {
    await withTimeout(environment, limitMs, respond(), () => {
      return new MigrationError('timeout', `${lane.label}: nothing came in time`);
    });
    await end(greeted.connection, environment);
    return true;
  } catch (error) {
    lane.abort(error);
    return false;
  }
}

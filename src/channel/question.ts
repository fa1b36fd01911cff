/** Asking the destination who owns a VM, on a connection of its own: one `ask`, one `answer`. */
import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Transport } from '../interfaces/transport.ts';
import { crc32c } from '../util/checksum.ts';
import { joinChunks } from '../util/chunks.ts';
import { raceAbort, withTimeout } from '../util/promises.ts';
import { sessionBytes } from '../wire/greeting.ts';
import { decodeMessage, encodeMessage, type Message, type MessageOf } from '../wire/messages.ts';
import { dial, type GreetedConnection } from './handshake.ts';
import { controlFrame, Lane } from './lane.ts';

export interface AskOptions {
  readonly transport: Transport;
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

async function receiveMessage(lane: Lane): Promise<Message> {
  for await (const frame of lane.frames()) {
    if (frame.type !== 'control') break;
    return decodeMessage(joinChunks(frame.payload));
  }
  throw new MigrationError('protocol', `${lane.label}: no message where one was due`);
}

/** Asks once. Rejects as {@link dial} does, or with `protocol`; then nothing is known. */
export async function ask(options: AskOptions): Promise<MessageOf<'answer'>['value']> {
  const { transport, environment, vmId, epoch, limitMs, signal } = options;
  const session = environment.randomBytes(sessionBytes);
  const greeted = await dial(transport, {
    purpose: 'question',
    lane: 0,
    session,
    environment,
    limitMs,
    signal,
  });
  const lane = new Lane(0, greeted);
  try {
    await sendMessage(lane, { type: 'ask', vmId, epoch });
    const answering = raceAbort(receiveMessage(lane), signal);
    const answer = await withTimeout(environment, limitMs, answering, () => {
      return new MigrationError('timeout', `${lane.label}: no answer in time`);
    });
    if (answer.type !== 'answer') throw new MigrationError('protocol', `${lane.label}: not an answer`);
    return answer.value;
  } finally {
    lane.abort(undefined);
  }
}

/** Answers the one question of a connection that was let in, and ends it. Does not reject: who asks asks again. */
export async function answer(
  greeted: GreetedConnection,
  environment: Environment,
  limitMs: number,
  decide: (vmId: string, epoch: number) => Promise<MessageOf<'answer'>['value']>,
): Promise<void> {
  const lane = new Lane(0, greeted);
  try {
    const question = await withTimeout(environment, limitMs, receiveMessage(lane), () => {
      return new MigrationError('timeout', `${lane.label}: no question in time`);
    });
    if (question.type !== 'ask') throw new MigrationError('protocol', `${lane.label}: not a question`);
    await sendMessage(lane, { type: 'answer', value: await decide(question.vmId, question.epoch) });
    await lane.close();
  } catch (error) {
    lane.abort(error);
  }
}

import { ChannelAcceptor } from '../../channel/connect.ts';
import { answer, ask } from '../../channel/question.ts';
import { secretOf, type Ticket } from '../../channel/ticket.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { OwnershipRegister } from '../../interfaces/register.ts';
import type { Transport } from '../../interfaces/transport.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { answerTo, checkEpoch, type Decision } from './ownership.ts';

/** What {@link askDecision} needs. */
export interface AskDecisionOptions {
  /** How to reach the destination; stays the caller's to close. */
  readonly transport: Transport;
  /** The migration's ticket, if it had one. */
  readonly ticket?: Ticket | string | undefined;
  /** The VM, as in its description. */
  readonly vmId: string;
  /** For the connection and for the answer, each, in ms. Default 5000. */
  readonly limitMs?: number;
  /** Default: the process's own. */
  readonly environment?: Environment;
}

/**
 * The `ask` of {@link recover}: asks the destination over a transport, once. Resolves to undefined when it has not decided yet. Rejects with
 * `connect-failed`, `timeout`, `connection-lost`, `protocol`, `refused`, `ticket-mismatch` or `version-mismatch`; then nothing is known. Throws
 * `invalid-argument` if the ticket is none.
 */
export function askDecision(
  options: AskDecisionOptions,
): (epoch: number, call: CallOptions) => Promise<Decision | undefined> {
  const { transport, vmId, limitMs = 5000, environment = nodeEnvironment } = options;
  const secret = secretOf(options.ticket);
  return async (epoch, { signal }) => {
    const value = await ask({ transport, secret, environment, vmId, epoch, limitMs, signal });
    return value === 'pending' ? undefined : value;
  };
}

/** What {@link answerQuestions} needs. */
export interface AnswerQuestionsOptions extends CallOptions {
  /** Where sources ask; stays the caller's to close. */
  readonly transport: Transport;
  /** The ticket of the migrations that are asked about, if they had one: who does not have it gets no answer. */
  readonly ticket?: Ticket | string | undefined;
  /** This host's register. */
  readonly register: OwnershipRegister;
  /** Default: the process's own. */
  readonly environment?: Environment;
}

/** How long a connection may take over its greeting and its question. */
const questionMsMax = 10_000;

/**
 * Answers sources that ask a destination for its decision, until the signal is aborted; resolves then. To be called where no migration is
 * active: an attempt that has no decision yet is declined, which is what lets the source run its guest again. A question that cannot
 * be answered, as the register fails or the attempt makes no sense, gets no answer, and does no harm. Rejects when the
 * transport cannot accept connections (`connect-failed`, `unsupported`), or the ticket is none (`invalid-argument`).
 */
export async function answerQuestions(options: AnswerQuestionsOptions): Promise<void> {
  const { transport, register, environment = nodeEnvironment, signal } = options;
  const decide = async (vmId: string, epoch: number): Promise<Decision> => {
    const claims = await register.read(vmId);
    checkEpoch(epoch, claims);
    const verdict = answerTo(claims, epoch, false);
    if (verdict === 'owner' || verdict === 'declined') return verdict;
    const value = await register.claim(vmId, epoch, 'destination', 'declined');
    return value === 'owner' ? 'owner' : 'declined';
  };
  const acceptor = new ChannelAcceptor({
    transport,
    secret: secretOf(options.ticket),
    environment,
    windowBytesMax: 0,
    sessions: false,
    greetingMsMax: questionMsMax,
    onQuestion: (greeted, closed) => answer(greeted, environment, questionMsMax, decide, closed),
  });
  try {
    // No session is let in, so this ends only when the signal is aborted, or when nothing can be accepted.
    await acceptor.channel(signal);
  } catch (error) {
    if (!signal?.aborted) throw error;
  } finally {
    await acceptor.close();
  }
}
